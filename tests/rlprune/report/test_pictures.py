"""Which control images are shown, what is said of them, and that what changed can be seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from rlprune.data import load_data
from rlprune.problem import PruningProblem
from rlprune.report import plots
from rlprune.report.examples import SHOWN, USUAL, displayable, find_examples, matches
from rlprune.report.pictures import PICTURES, colour, draw_examples, overlay


class ByBrightness(nn.Module):
    """Class 1 where a pixel is brighter than a limit; of the darkest images it may be blind."""

    def __init__(self, blind_below: float = -99.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.head = nn.Conv2d(4, 2, 1)
        self.blind_below = blind_below

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bright = x.mean(1, keepdim=True)
        seen = (bright.mean((2, 3), keepdim=True) >= self.blind_below).float()
        logits = torch.cat((torch.zeros_like(bright), seen * bright - (1 - seen)), 1)
        return logits + 0.0 * self.head(self.conv(x))


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> PruningProblem:
    """Twelve control images of rising brightness, right half class 1."""
    root = tmp_path_factory.mktemp("masked")
    for pool, count in (("train", 20), ("val", 12), ("test", 4)):
        for kind in ("images", "masks"):
            (root / pool / kind).mkdir(parents=True)
        for i in range(count):
            image = np.full((16, 24, 3), 20 + 8 * i, dtype=np.uint8)
            image[:, 12:] = 200
            mask = np.zeros((16, 24), dtype=np.uint8)
            mask[:, 12:] = 1
            mask[0] = 255
            Image.fromarray(image).save(root / pool / "images" / f"{i:02}.png")
            Image.fromarray(mask).save(root / pool / "masks" / f"{i:02}.png")
    return PruningProblem(ByBrightness(), load_data(str(root)))


def test_the_images_that_changed_most_come_first(masked: PruningProblem) -> None:
    means = [float(images.mean()) for images, _ in masked.data.control.batches(1)]
    limit = sorted(means)[2]
    spent = masked.ledger.state_dict()
    found = find_examples(masked, ByBrightness(), ByBrightness(blind_below=limit))
    assert found is not None and masked.ledger.state_dict() == spent, "looking decides nothing and costs nothing"
    assert len(found.chosen) == SHOWN and f"the {SHOWN - USUAL} that changed most" in found.caption
    assert "all 12 control images" in found.caption
    changes = [one.change for one in found.chosen]
    assert changes == [0.5, 0.5, 0.0, 0.0, 0.0], "half of the pixels of the two darkest; the ignored row does not count"
    first = found.chosen[0]
    assert first.words == "mIoU here 100.0 → 25.0; 50.0 % of the pixels changed"
    assert np.allclose(first.image[:, :12], first.image[0, 0], atol=1e-6) and first.image[0, 0, 0] in (
        pytest.approx(20 / 255, abs=1e-5), pytest.approx(28 / 255, abs=1e-5),
    )  # fmt: skip
    assert (first.truth[0] == 255).all() and first.before[1, 20] == 1 and first.after[1, 20] == 0


def test_what_became_wrong_is_red(masked: PruningProblem) -> None:
    found = find_examples(masked, ByBrightness(), ByBrightness(blind_below=99.0))
    assert found is not None
    figure = draw_examples(found)
    shown = figure.axes[3].images[0].get_array()
    assert np.allclose(shown[5, 20], (0xE6 / 255, 0x19 / 255, 0x4B / 255)), "it was right and is wrong"
    assert len({*shown[5, 5].tolist()}) == 1, "the rest is grey"
    assert np.allclose(shown[0, 20], shown[0, 20, 0]), "what is ignored neither"
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["1", "became wrong", "became right", "wrong both times"]


def test_overlays_leave_the_background_and_darken_what_is_ignored() -> None:
    image = np.full((1, 3, 3), 0.8)
    shown = overlay(image, np.array([[0, 1, 255]]), ("background", "building"))
    assert np.allclose(shown[0, 0], 0.8) and np.allclose(shown[0, 2], 0.28)
    assert np.allclose(shown[0, 1], 0.4 + 0.5 * np.array(colour(1)))
    assert not np.allclose(overlay(image, np.array([[0, 1, 2]]), ("sky", "road", "tree"))[0, 0], 0.8)
    assert len({colour(i) for i in range(60)}) == 60


def test_inputs_are_shown_as_they_were_before_the_normalisation() -> None:
    raw = torch.rand(3, 4, 5)
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    normal = (raw - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    shown = displayable(normal, {"mean": mean, "std": std, "scale": 255.0})
    assert np.allclose(shown, raw.permute(1, 2, 0).numpy(), atol=1e-6)
    grey = displayable(torch.tensor([[[-7.0, 3.0]]]), {"mean": [0.0], "std": [1.0], "scale": 1.0})
    assert grey.shape == (1, 2, 3) and np.allclose(grey[0, :, 0], [0, 1])


def test_a_signal_is_a_row_and_a_volume_its_middle_slice() -> None:
    two = {"mean": [0.0, 0.0], "std": [1.0, 1.0], "scale": 255.0}
    assert displayable(torch.rand(2, 50), two).shape == (1, 50, 3)
    volume = torch.rand(1, 5, 4, 6)
    shown = displayable(volume, {"mean": [0.0], "std": [1.0], "scale": 255.0})
    assert np.allclose(shown[..., 0], volume[0, 2].numpy())


def boxes(*corners: tuple[float, ...], labels: list[int] | None = None) -> dict[str, np.ndarray]:
    return {
        "boxes": np.array(corners, dtype=np.float32).reshape(-1, 4),
        "labels": np.array(labels or [1] * len(corners)),
        "scores": np.full(len(corners), 0.9),
    }


def test_boxes_match_once_and_by_class() -> None:
    one = boxes((0, 0, 10, 10), (20, 20, 30, 30))
    assert matches(one, one) == 2
    assert matches(one, boxes((0, 0, 10, 10), (1, 0, 11, 10))) == 1, "one box has one partner"
    assert matches(one, boxes((0, 0, 10, 10), (20, 20, 30, 30), labels=[2, 1])) == 1
    assert matches(one, boxes((6, 0, 16, 10))) == 0 and matches(one, boxes()) == 0


class Finds(nn.Module):
    """Detections that are fixed by how bright an image is; without some of them."""

    def __init__(self, loses: int = 0, score: float = 0.9) -> None:
        super().__init__()
        self.conv, self.last, self.loses, self.score = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), loses, score

    def forward(self, images: list[torch.Tensor], targets: Any = None) -> list[dict[str, torch.Tensor]]:
        self.last(self.conv(images[0][None]))
        found = []
        for image in images:
            count = max(0, round(float(image.mean()) * 255 / 50) - self.loses)
            corners = torch.tensor([[10.0 * i, 2.0, 10.0 * i + 8, 10.0] for i in range(count)]).view(-1, 4)
            labels = torch.ones(count, dtype=torch.long)
            found.append({"boxes": corners, "labels": labels, "scores": torch.full((count,), self.score)})
        return found


@pytest.fixture(scope="module")
def boxed(tmp_path_factory: pytest.TempPathFactory) -> PruningProblem:
    """Images with one, two or three boxes, the brighter the more."""
    root = tmp_path_factory.mktemp("boxed")
    for pool, count in (("train", 12), ("val", 9), ("test", 3)):
        (root / pool).mkdir()
        images, annotations = [], list[dict[str, Any]]()
        for i in range(count):
            several = 1 + i % 3
            Image.fromarray(np.full((16, 40, 3), 50 * several, dtype=np.uint8)).save(root / pool / f"{i}.png")
            images.append({"id": i, "file_name": f"{i}.png", "height": 16, "width": 40})
            for n in range(several):
                box = {"image_id": i, "category_id": 1, "bbox": [10 * n, 2, 8, 8]}
                annotations.append({"id": len(annotations), **box})
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cell"}]}
        (root / f"{pool}.json").write_text(json.dumps(content))
    return PruningProblem(Finds(), load_data(str(root)))


def test_detections_above_a_threshold_are_drawn_over_the_truth(boxed: PruningProblem, tmp_path: Path) -> None:
    found = find_examples(boxed, Finds(), Finds(loses=2))
    assert found is not None and "score of at least 0.50" in found.caption
    first = found.chosen[0]
    assert first.change == 2.0 and first.words in (
        "found 2 → 0 of 2; false boxes 0 → 0",
        "found 3 → 1 of 3; false boxes 0 → 0",
    )
    figure = draw_examples(found)
    truth, before, after = figure.axes[:3]
    several = len(first.truth["labels"])
    assert [len(axes.patches) for axes in (truth, before, after)] == [several, 2 * several, 2 * several - 2]
    assert {text.get_text() for text in before.texts} == {"cell 0.90"}
    assert truth.patches[0].get_linestyle() != before.patches[-1].get_linestyle()
    plots.save(figure, tmp_path / PICTURES)
    with Image.open(tmp_path / PICTURES) as image:
        assert image.width > 500
    # a network that is unsure of itself is shown at the score at which it finds as many boxes as there are
    unsure = find_examples(boxed, Finds(score=0.2), Finds(loses=1, score=0.2))
    assert unsure is not None and "score of at least 0.20" in unsure.caption and unsure.chosen[0].change == 1.0


class Guesses(nn.Module):
    """A linear classifier of digits whose first class may be favoured."""

    def __init__(self, favour: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc, self.favour = nn.Conv2d(1, 4, 3), nn.Linear(4, 10), favour

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = torch.nn.functional.one_hot(torch.tensor(0), 10)
        return self.fc(self.conv(x).mean((2, 3))) + self.favour * first


def test_classes_that_changed_come_first_and_are_counted() -> None:
    problem = PruningProblem(Guesses(), load_data("digits", control_size=40, calibration_size=20))
    before = Guesses().eval()
    with torch.no_grad():
        logits = torch.cat([before(images) for images, _ in problem.data.control.batches(8)])
    after = Guesses(favour=float((logits.amax(1) - logits[:, 0]).median())).eval()
    found = find_examples(problem, before, after)
    assert found is not None and len(found.chosen) == 6
    sides = []
    with torch.no_grad():
        for model in (before, after):
            sides.append(torch.cat([model(images).argmax(1) for images, _ in problem.data.control.batches(8)]))
    labels = torch.cat([labels for _, labels in problem.data.control.batches(8)])
    was, now = sides
    lost, won = int(((was == labels) & (now != labels)).sum()), int(((was != labels) & (now == labels)).sum())
    changed = int((was != now).sum())
    assert 6 < changed < 40, "or the test says nothing"
    assert f"The class changed on {changed}: {lost} lost, {won} won." in found.caption
    assert all(one.before.argmax() != one.after.argmax() for one in found.chosen)
    figure = draw_examples(found)
    one = found.chosen[0]
    assert figure.axes[0].get_title(loc="left") == f"is {problem.data.classes[one.truth]}"
    assert figure.axes[0].get_xlabel() == one.words and "→ 0 " in one.words
