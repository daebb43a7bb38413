from __future__ import annotations

import pytest
import torch
from torch import nn

from rlprune.data import DataSplits, load_data
from rlprune.errors import UserError
from rlprune.models import create_model
from rlprune.scoring.evaluation import Evaluator, Ledger, check_fits
from rlprune.tasks import get_task


@pytest.fixture(scope="module")
def data() -> DataSplits:
    return load_data("digits")


@pytest.fixture
def evaluator(data: DataSplits) -> Evaluator:
    return Evaluator(get_task("classification"), data)


def test_scoring_leaves_the_model_as_it_was(evaluator: Evaluator) -> None:
    model = create_model("resnet20", in_channels=1).train()
    model.layer2.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    evaluator.score(model, limit=64)
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.conv1.weight.is_contiguous()


def test_scores_repeat_and_batch_size_does_not_matter(evaluator: Evaluator, data: DataSplits) -> None:
    model = create_model("lenet5")
    first = evaluator.score(model)
    assert first == evaluator.score(model)
    other = Evaluator(get_task("classification"), data, batch_size=100).score(model)
    assert other.value == first.value
    assert other.loss == pytest.approx(first.loss)
    assert evaluator.score(model, limit=10).n == 10


def test_the_ledger_counts(evaluator: Evaluator, data: DataSplits) -> None:
    model = create_model("lenet5")
    evaluator.score(model)
    evaluator.score(model, "test", limit=10)
    expected = {
        "evaluations": 2,
        "images_evaluated": len(data.control) + 10,
        "images_trained": 0,
        "test_evaluations": 1,
    }
    assert evaluator.ledger.state_dict() == expected
    ledger = Ledger()
    ledger.load_state_dict(expected)
    assert ledger == evaluator.ledger


class Viewing(nn.Module):
    """Reshapes by `view`, which only takes tensors laid out plainly."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.linear = nn.Linear(4 * 30 * 30, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.conv(x).view(len(x), -1))


def test_models_that_view_are_scored_too(evaluator: Evaluator) -> None:
    model = Viewing()
    assert evaluator.score(model) == evaluator.score(model)


def test_models_that_do_not_fit_the_images(evaluator: Evaluator, data: DataSplits) -> None:
    with pytest.raises(UserError, match="takes images of 3 channels and those of 'digits' have 1"):
        evaluator.score(create_model("resnet20"))
    with pytest.raises(UserError, match="cannot take the 1x32x32 images"):
        check_fits(nn.Linear(5, 10), data, get_task("classification"))
    with pytest.raises(UserError, match="label 9 does not fit a model with 4 outputs"):
        evaluator.score(create_model("lenet5", num_classes=4))


def test_networks_that_give_nan(evaluator: Evaluator) -> None:
    model = create_model("lenet5")
    with torch.no_grad():
        model.fc2.weight[0, 0] = float("nan")
    with pytest.raises(UserError, match="NaN or infinity"):
        evaluator.score(model)
    assert evaluator.ledger.evaluations == 0


def test_unknown_role(evaluator: Evaluator) -> None:
    with pytest.raises(UserError, match="did you mean 'control'"):
        evaluator.score(create_model("lenet5"), "kontrol")
