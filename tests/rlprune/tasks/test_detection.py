from __future__ import annotations

import pickle
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rlprune.errors import UserError
from rlprune.models import resolve_model
from rlprune.tasks import get_task

pytest.importorskip("pycocotools")


def target(*boxes: tuple[float, float, float, float, int], image: int = 0) -> dict[str, torch.Tensor]:
    table = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 5)
    return {
        "boxes": table[:, :4],
        "labels": table[:, 4].long(),
        "iscrowd": torch.zeros(len(table), dtype=torch.int64),
        "image_id": torch.tensor(image),
    }


def detection(*boxes: tuple[float, float, float, float, int, float]) -> dict[str, torch.Tensor]:
    table = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 6)
    return {"boxes": table[:, :4], "labels": table[:, 4].long(), "scores": table[:, 5]}


class Detector(nn.Module):
    """Gives what it is told to; in train mode a random loss, and it counts how its parts are set."""

    def __init__(self, found: Any = None) -> None:
        super().__init__()
        self.found = found
        self.norm = nn.BatchNorm2d(3)
        self.weight = nn.Parameter(torch.ones(1))
        self.boxes_seen = 0

    def forward(self, images: list[torch.Tensor], targets: list[dict[str, torch.Tensor]] | None = None) -> Any:
        self.norm(torch.stack(images))
        if not self.training:
            return self.found
        assert targets is not None
        self.boxes_seen = sum(len(one["boxes"]) for one in targets)
        return {"box": self.weight * torch.rand(()), "class": self.weight * 2}


IMAGES = [torch.rand(3, 20, 20), torch.rand(3, 20, 20)]
TRUTH = [target((0, 0, 10, 10, 1), (10, 10, 20, 20, 2)), target((5, 5, 15, 15, 1), image=1)]
FOUND = [detection((0, 0, 10, 10, 1, 0.9), (10, 10, 20, 20, 2, 0.8)), detection((5, 5, 15, 15, 1, 0.7))]


def score(found: Any, metric: str = "map") -> Any:
    return get_task(f"detection:metric={metric}").score(Detector(found).eval(), [(IMAGES, TRUTH)])


def test_precision_by_hand() -> None:
    assert score(FOUND).value == pytest.approx(1.0)
    # class 1: one of two boxes found -> precision 1 up to recall 0.5: 51 of COCO's 101 recall points; class 2: all
    half = score([FOUND[0], detection()], "map50")
    assert half.value == pytest.approx((51 / 101 + 1) / 2)
    # a box with an overlap of 0.8 with its truth counts at 0.50, 0.55 ... 0.80: seven of ten
    loose = score([FOUND[0], detection((5, 5, 15, 13, 1, 0.7))])
    assert loose.details["map50"] == pytest.approx(1.0)
    assert loose.details["map"] == pytest.approx((0.7 + 0.3 * 51 / 101 + 1) / 2)
    assert score([detection(), detection()]).value == 0.0
    assert score([FOUND[0], FOUND[1]]).n == 2


def test_the_interval_draws_images_anew() -> None:
    some = score([FOUND[0], detection()], "map50")
    low, high = some.interval()
    assert (low, high) == some.interval()
    assert 0.0 <= low <= some.value <= high <= 1.0
    assert high == 1.0  # draws of the first image alone are perfect
    assert some.resample is not None
    assert some.resample(np.array([0, 0])) == 1.0
    assert some.resample(np.array([0, 1])) == pytest.approx(some.value)


def test_boxes_around_crowds_are_neither_asked_for_nor_punished_nor_trained_on() -> None:
    truth = target((0, 0, 10, 10, 1), (0, 0, 20, 20, 1))
    truth["iscrowd"][1] = 1
    found = detection((0, 0, 10, 10, 1, 0.9), (11, 11, 15, 15, 1, 0.95))
    task, model = get_task("detection"), Detector([found]).eval()
    assert task.score(model, [(IMAGES[:1], [truth])]).value == pytest.approx(1.0)
    task.loss(model, (IMAGES[:1], [truth]))
    assert model.boxes_seen == 1


def test_losses_in_eval_mode_leave_norms_and_modes_alone_and_are_drawn_for_the_batch() -> None:
    model, task = Detector().eval(), get_task("detection")
    mean = model.norm.running_mean.clone()
    state = torch.get_rng_state()
    first, second = task.loss(model, (IMAGES, TRUTH)), task.loss(model, (IMAGES, TRUTH))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, second)
    assert first.requires_grad
    assert not any(module.training for module in model.modules())
    assert torch.equal(model.norm.running_mean, mean)
    model.train()
    assert torch.equal(task.loss(model, (IMAGES, TRUTH)), first)
    assert not torch.equal(model.norm.running_mean, mean)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (torch.zeros(2), "returned a Tensor for 2 images"),
        ([FOUND[0]], "returned a list for 2 images"),
        ([{"boxes": torch.zeros(0, 4)}] * 2, "has no 'labels'"),
        ([detection((0, 0, float("nan"), 1, 1, 0.5))] * 2, "NaN"),
    ],
)
def test_outputs_that_cannot_be_scored(found: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        score(found)


def test_scores_can_be_sent_to_other_processes() -> None:
    some = score(FOUND)
    assert pickle.loads(pickle.dumps(some)).interval() == some.interval()


def test_without_the_extra_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(UserError, match=r"pip install 'rlprune\[detection\]'"):
        score(FOUND)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"])
def test_detectors_of_torchvision(name: str) -> None:
    model, task = resolve_model(f"torchvision:{name}", num_classes=3, in_channels=3), get_task("detection")
    images = [torch.rand(3, 64, 64), torch.rand(3, 48, 64)]
    truth = [target((5, 5, 30, 30, 1)), target((10, 10, 40, 40, 2), image=1)]
    for mode in (True, False):
        loss = task.loss(model.train(mode), (images, truth))
        loss.backward()
        assert torch.isfinite(loss)
        assert model.training is mode
    with torch.inference_mode():
        assert 0.0 <= task.score(model, [(images, truth)]).value <= 1.0


def test_models_without_losses_and_batches_without_images() -> None:
    task = get_task("detection")
    with pytest.raises(UserError, match="needs a dict of losses"):
        task.loss(_Silent(), (IMAGES, TRUTH))
    with pytest.raises(UserError, match="no images"):
        task.score(Detector(), [])
    with pytest.raises(UserError, match="cannot be distilled"):
        task.outputs(Detector(), (IMAGES, TRUTH))
    with pytest.raises(UserError, match="did you mean 'map50'"):
        get_task("detection:metric=mAP50")


class _Silent(nn.Module):
    def forward(self, images: Any, targets: Any) -> None:
        return None
