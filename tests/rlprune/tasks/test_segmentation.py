from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rlprune.errors import UserError
from rlprune.models import resolve_model
from rlprune.tasks import get_task
from rlprune.tasks.segmentation import Segmentation, image_counts, miou


class Fixed(nn.Module):
    def __init__(self, output: object) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: torch.Tensor) -> object:
        return self.output


def logits_of(masks: torch.Tensor, classes: int) -> torch.Tensor:
    return 20.0 * F.one_hot(masks, classes).permute(0, 3, 1, 2).float()


def test_miou_by_hand() -> None:
    truth = torch.tensor([[[0, 0, 1], [1, 1, 255]]])
    found = torch.tensor([[[0, 1, 1], [1, 0, 0]]])
    counts = image_counts(found, truth, 3)
    assert counts.tolist() == [[[1, 2, 0], [2, 3, 0], [2, 3, 0]]]
    assert miou(counts) == pytest.approx((1 / 3 + 2 / 4) / 2)  # class 2 occurs nowhere: left out


@pytest.mark.parametrize("channels", [1, 3])
def test_rows_are_the_fitted_logits_of_the_pixels_that_count(channels: int) -> None:
    task, output = get_task("segmentation"), torch.randn(2, channels, 4, 4)
    masks = torch.randint(0, 2, (2, 8, 8))
    masks[:, :3] = 255
    rows = task.rows({"out": output}, (masks, masks))
    assert rows.shape == (2 * 5 * 8, max(channels, 2))
    whole = task.outputs(Fixed(output), (masks, masks))
    assert torch.equal(rows[0], whole[0, :, 3, 0]) and torch.equal(rows[-1], whole[1, :, 7, 7])
    assert F.cross_entropy(rows, masks[masks != 255]).item() == pytest.approx(
        task.loss(Fixed(output), (masks, masks)).item(), rel=1e-5
    )


def test_a_perfect_network_scores_one_and_ignored_pixels_count_nowhere() -> None:
    masks = torch.randint(0, 3, (4, 8, 8))
    output = logits_of(masks, 3)
    ignored = masks.clone()
    ignored[:, :2] = 255
    output[:, :, :2] = torch.randn(4, 3, 2, 8)
    for metric in ("miou", "pixel_accuracy"):
        score = get_task(f"segmentation:metric={metric}").score(Fixed(output), [(masks, ignored)])
        assert score.value == 1.0
        assert score.n == 4
    loss = get_task("segmentation:metric=loss").score(Fixed(output), [(masks, ignored)])
    assert loss.loss is not None
    assert loss.value == pytest.approx(math.exp(-loss.loss))


def test_scores_do_not_depend_on_the_batching_and_their_interval_holds_them() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(0, 3, (12, 6, 6), generator=generator)
    noisy = logits_of(masks, 3) + 15 * torch.randn(12, 3, 6, 6, generator=generator)

    class Lookup(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return noisy[x]

    index, task = torch.arange(12), get_task("segmentation")
    whole = task.score(Lookup(), [(index, masks)])
    parts = task.score(Lookup(), [(index[:5], masks[:5]), (index[5:], masks[5:])])
    assert whole.value == parts.value
    assert whole.interval() == parts.interval()
    low, high = whole.interval()
    assert low < whole.value < high
    assert get_task("segmentation:metric=pixel_accuracy").score(Lookup(), [(index, masks)]).value == pytest.approx(
        float((noisy.argmax(1) == masks).float().mean())
    )


def test_one_channel_is_the_sigmoid_of_two_classes() -> None:
    x, masks = torch.randn(2, 1, 5, 5), torch.randint(0, 2, (2, 5, 5))
    expected = F.binary_cross_entropy_with_logits(x[:, 0], masks.float())
    assert get_task("segmentation").loss(Fixed(x), (x, masks)) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("objective", ["ce", "ce+dice", "bce", "bce+dice", "dice"])
def test_losses_fall_towards_the_truth_and_ignore_what_they_should(objective: str) -> None:
    task = get_task(f"segmentation:objective={objective}")
    masks = torch.randint(0, 3, (2, 6, 6))
    right = logits_of(masks, 3) - 10.0
    wrong = logits_of((masks + 1) % 3, 3) - 10.0
    assert float(task.loss(Fixed(right), (masks, masks))) < 0.02
    assert float(task.loss(Fixed(wrong), (masks, masks))) > 0.5
    ignored = masks.clone()
    ignored[0] = 255
    before = task.loss(Fixed(right), (masks, ignored))
    right[0] = torch.randn(3, 6, 6)
    assert torch.equal(task.loss(Fixed(right), (masks, ignored)), before)
    leaf = torch.randn(2, 3, 6, 6, requires_grad=True)
    task.loss(Fixed(leaf), (masks, torch.full_like(masks, 255))).backward()
    assert leaf.grad is not None
    assert torch.equal(leaf.grad, torch.zeros_like(leaf))


def test_outputs_of_torchvision_are_understood() -> None:
    masks = torch.randint(0, 3, (2, 8, 8))
    small = torch.randn(2, 3, 4, 4)
    task = get_task("segmentation")
    plain = task.loss(Fixed(small), (masks, masks))
    both = task.loss(Fixed({"out": small, "aux": small}), (masks, masks))
    assert float(both) == pytest.approx(1.5 * float(plain))
    assert task.outputs(Fixed({"out": small}), (masks, masks)).shape == (2, 3, 8, 8)


@pytest.mark.parametrize(
    "name",
    [
        "lraspp_mobilenet_v3_large",
        pytest.param("fcn_resnet50", marks=pytest.mark.slow),
        pytest.param("deeplabv3_mobilenet_v3_large", marks=pytest.mark.slow),
    ],
)
def test_segmenters_of_torchvision(name: str) -> None:
    model, task = resolve_model(f"torchvision:{name}", num_classes=4, in_channels=3), get_task("segmentation")
    batch = torch.randn(2, 3, 64, 64), torch.randint(0, 4, (2, 64, 64))
    task.loss(model.train(), batch).backward()
    with torch.inference_mode():
        score = task.score(model.eval(), [batch])
    assert pickle.loads(pickle.dumps(score)).interval() == score.interval()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (torch.full((1, 3, 4, 4), float("nan")), "NaN"),
        (torch.zeros(1, 2, 4, 4), "class 2 of a mask does not fit a model with 2 outputs"),
        (torch.zeros(1, 3), r"shape \(1, 3\)"),
    ],
)
def test_outputs_that_cannot_be_scored(output: torch.Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        get_task("segmentation").score(Fixed(output), [(torch.zeros(1), torch.full((1, 4, 4), 2))])


def test_nothing_to_score() -> None:
    masks = torch.full((1, 4, 4), 255)
    with pytest.raises(UserError, match="no pixels"):
        get_task("segmentation").score(Fixed(torch.zeros(1, 3, 4, 4)), [(masks, masks)])


def test_unknown_options() -> None:
    with pytest.raises(UserError, match="did you mean 'miou'"):
        Segmentation(metric="mIoU2")
    with pytest.raises(UserError, match="did you mean 'ce\\+dice'"):
        get_task("segmentation:objective=ce+dic")
    with pytest.raises(UserError, match="did you mean 'metric'"):
        get_task("segmentation:metrics=miou")


def test_miou_of_resampled_images_is_that_of_the_images() -> None:
    counts = np.random.default_rng(0).integers(1, 9, (5, 3, 4))
    counts[:, 1:] += counts[:, :1]
    assert miou(counts[[0, 0, 1]]) == miou(np.concatenate([counts[:1], counts[:1], counts[1:2]]))


@pytest.mark.parametrize("size", [(9,), (4, 5, 6)])
@pytest.mark.parametrize("objective", ["ce+dice", "bce"])
def test_signals_and_volumes_are_segmented(size: tuple[int, ...], objective: str) -> None:
    task, masks = get_task(f"segmentation:objective={objective}"), torch.randint(0, 3, (2, *size))
    logits = 20.0 * F.one_hot(masks, 3).movedim(-1, 1).float() - 10.0
    assert task.score(Fixed(logits), [(masks, masks[:, None])]).value == 1.0
    assert task.score(Fixed(logits.roll(1, 1)), [(masks, masks)]).value == 0.0
    assert float(task.loss(Fixed(logits), (masks, masks))) < 0.01
    masks[:, 0] = 255
    assert len(task.rows(logits, (masks, masks))) == int((masks != 255).sum())
    half = tuple(side // 2 for side in size)
    assert task.outputs(Fixed(torch.randn(2, 1, *half)), (masks, masks)).shape == (2, 2, *size)
