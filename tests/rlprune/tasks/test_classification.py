from __future__ import annotations

import pytest
import torch
from torch import nn

from rlprune.errors import UserError
from rlprune.tasks import Score, get_task, wilson

TASK = get_task("classification")


class Fixed(nn.Module):
    def __init__(self, output: object) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: torch.Tensor) -> object:
        return self.output


def test_accuracy_and_loss_do_not_depend_on_the_batching() -> None:
    model, images, labels = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.randn(10, 1, 2, 2), torch.arange(10) % 3
    with torch.no_grad():
        whole = TASK.score(model, [(images, labels)])
        parts = TASK.score(model, [(images[:7], labels[:7]), (images[7:], labels[7:])])
    assert whole.value == parts.value == int((model(images).argmax(1) == labels).sum()) / 10
    assert whole.loss == pytest.approx(parts.loss)
    assert whole.n == 10


def test_outputs_in_dicts_and_tuples_are_found() -> None:
    logits, labels = torch.eye(3), torch.arange(3)
    for output in (logits, {"out": logits}, {"logits": logits}, (logits, None)):
        assert TASK.score(Fixed(output), [(logits, labels)]).value == 1.0
    with pytest.raises(UserError, match="returned a str"):
        TASK.score(Fixed("?"), [(logits, labels)])


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (torch.full((3, 3), float("nan")), "NaN"),
        (torch.full((3, 3), float("inf")), "NaN or infinity"),
        (torch.zeros(3, 2), "label 2 does not fit a model with 2 outputs"),
        (torch.zeros(3, 3, 1, 1), r"shape \(3, 3, 1, 1\)"),
    ],
)
def test_outputs_that_cannot_be_scored(output: torch.Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TASK.score(Fixed(output), [(torch.zeros(3), torch.arange(3))])


def test_no_images_is_an_error() -> None:
    with pytest.raises(UserError, match="no images"):
        TASK.score(Fixed(None), [])


def test_wilson_interval_is_the_published_one() -> None:
    # Newcombe 1998, table I: 81/263, 15/148, 0/20, 1/29
    for successes, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert Score(successes / n, n).interval() == pytest.approx((low, high), abs=5e-5)
    assert wilson(0.5, 0) == (0.0, 1.0)


def test_bootstrap_is_repeatable_and_holds_the_value() -> None:
    values = torch.rand(50, generator=torch.Generator().manual_seed(0)).numpy()
    score = Score(float(values.mean()), 50, "mean", resample=lambda index: float(values[index].mean()))
    low, high = score.interval()
    assert (low, high) == score.interval()
    assert low < score.value < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 50**0.5, rel=0.15)


def test_scores_come_back_from_json() -> None:
    score = Score(0.5, 10, "accuracy", 1.25, {"top5": 1.0})
    assert Score(**score.to_json()) == score  # type: ignore[arg-type]


def test_unknown_task() -> None:
    with pytest.raises(UserError, match="did you mean 'classification'"):
        get_task("clasification")
