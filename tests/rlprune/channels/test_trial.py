"""The self-check runs on smaller images where they show as much, and on the example inputs wherever they do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from channel_structures import Net, conv
from torch import Tensor, nn

from rlprune.channels import trace_channels
from rlprune.channels.checking import Checker
from rlprune.channels.forward import Forward
from rlprune.channels.trial import smaller

X = torch.randn(1, 3, 192, 224)


class Seeing(Net):
    """Notes the sizes of its images."""

    sizes: list[tuple[int, int]]

    def forward(self, x: Tensor, *rest: Any) -> Tensor:
        self.sizes.append(tuple(x.shape[2:]))  # type: ignore[arg-type]
        return self.function(self, x, *rest)


def seeing(forward: Any, **modules: nn.Module) -> Seeing:
    model = Seeing(forward, **modules).eval()
    Seeing.sizes = []
    return model


def strided(i: int, o: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(i, o, 7, stride=4), nn.BatchNorm2d(o), nn.ReLU())


def plain(s: Any, x: Tensor) -> Tensor:
    return s.c(s.b(s.a(x)))


def test_smaller_images_do_where_nothing_fails() -> None:
    model = seeing(plain, a=strided(3, 8), b=conv(8, 6), c=conv(6, 4))
    groups = trace_channels(model, X)
    assert [g.name for g in groups.prunable] == ["a.0", "b"]
    assert Seeing.sizes == [(192, 224)] * 2 + [(96, 96)] * 3  # traced and compared with its copy, then checked


def test_what_fails_is_told_by_the_example() -> None:
    def forward(s: Any, x: Tensor) -> Tensor:
        return s.c(s.b(s.a(x)).reshape(1, 6, 47, 55))

    model = seeing(forward, a=strided(3, 8), b=nn.Conv2d(8, 6, 1), c=conv(6, 4))
    assert trace_channels(model, X)["b"].locked.startswith("sizes are constants in the model's code")
    assert Seeing.sizes[-1] == (192, 224)


@pytest.mark.parametrize("fewest", [97, 193])
def test_a_constant_that_only_large_images_meet_is_found(fewest: int) -> None:
    def forward(s: Any, x: Tensor) -> Tensor:
        y = s.b(s.a(x))
        if x.shape[3] >= fewest:
            y = y.reshape(6, -1).reshape(1, -1, *y.shape[2:])
        return s.c(y)

    groups = trace_channels(seeing(forward, a=strided(3, 8), b=nn.Conv2d(8, 6, 1), c=conv(6, 4)), X)
    assert groups["b"].locked and groups["a.0"].locked is None


def test_images_that_shrink_to_a_point_show_less() -> None:
    """Less their mean over one position they are zero, and zeros are equal."""

    def forward(s: Any, x: Tensor) -> Tensor:
        y = F.max_pool2d(s.a(x), 50)
        return s.c(y - y.mean((2, 3), keepdim=True))

    model = seeing(forward, a=conv(3, 8), c=conv(8, 4, 1))
    assert trace_channels(model, X).prunable and Seeing.sizes[-1] == (192, 224)


def test_a_number_that_the_forward_pass_reads_may_be_of_the_image() -> None:
    def forward(s: Any, x: Tensor) -> Tensor:
        return s.c(s.b(s.a(x)).unflatten(1, (s.dim, -1)).flatten(1, 2))

    model = seeing(forward, a=strided(3, 8), b=conv(8, 6), c=conv(6, 4))
    model.dim = 6
    groups = trace_channels(model, X)
    assert [g.name for g in groups.prunable] == ["a.0", "b"] and [a.name for a in groups.attributes] == ["dim"]
    assert set(Seeing.sizes) == {(192, 224)}


@pytest.mark.parametrize(
    "inputs", [(torch.zeros(1, 3, 191, 224),), (X, torch.zeros(3)), (X.long(),), (X[0],), ({"x": 1},), ()]
)
def test_other_inputs_stay_as_they_are(inputs: tuple[Any, ...]) -> None:
    assert smaller(Forward(inputs)) is None


def test_all_images_shrink_alike() -> None:
    forward = smaller(Forward((X, [X]), {"more": X.to(memory_format=torch.channels_last)}, outputs=len))
    assert forward is not None and forward.outputs is len
    images = [forward.args[0], forward.args[1][0], forward.kwargs["more"]]
    assert all(image.shape == (1, 3, 96, 96) for image in images)
    assert images[2].is_contiguous(memory_format=torch.channels_last)


class Mode(nn.Module):
    """Reads its mode, as dropout by a function does."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, self.training)


class Own(nn.Module):
    """Does its own when the mode changes."""

    def train(self, mode: bool = True) -> Own:
        self.mode = mode
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + self.mode)


@pytest.mark.parametrize(("between", "passes"), [(nn.Dropout(), 3), (nn.BatchNorm2d(8), 3), (Mode(), 4), (Own(), 4)])
def test_the_masked_network_runs_again_in_training_mode_where_that_may_change_something(
    between: nn.Module, passes: int
) -> None:
    model, x = nn.Sequential(conv(3, 8), between, conv(8, 4)).eval(), torch.randn(1, 3, 9, 9)
    checker = Checker(model, trace_channels(model, x, check="off"), Forward((x,)))
    assert checker.settle() == {} and checker.passes == passes
