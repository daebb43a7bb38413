"""A layer is its unfolded inputs times its weight as a matrix."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rlprune.measuring.unfolding import Unfolding, sampled_rows

CASES = {
    "plain": (nn.Conv2d(4, 6, 3, padding=1), (2, 4, 7, 8)),
    "strided, dilated, grouped": (
        nn.Conv2d(4, 6, (3, 5), stride=(2, 1), padding=(0, 2), dilation=(2, 1), groups=2),
        (2, 4, 9, 8),
    ),
    "one dimension, same": (nn.Conv1d(4, 6, 3, padding="same", dilation=2), (2, 4, 9)),
    "three dimensions": (nn.Conv3d(2, 3, 3, padding=1, stride=2), (2, 2, 5, 6, 7)),
    "reflected": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (2, 4, 7, 8)),
    "depthwise": (nn.Conv2d(4, 8, 3, padding=1, groups=4), (2, 4, 5, 5)),
    "transposed": (nn.ConvTranspose2d(4, 6, 2, stride=2), (2, 4, 5, 4)),
    "transposed, overlapping, grouped": (
        nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1, output_padding=1, groups=2, dilation=2),
        (2, 4, 5, 4),
    ),
    "transposed, one dimension": (nn.ConvTranspose1d(4, 6, 3, stride=3, padding=1), (2, 4, 5)),
    "linear": (nn.Linear(5, 3), (2, 5)),
    "linear on a sequence": (nn.Linear(5, 3), (2, 4, 5)),
}


@pytest.mark.parametrize("name", CASES)
def test_rows_times_matrix_is_the_layer(name):
    layer, shape = CASES[name]
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    unfolding = Unfolding.of(layer)
    rows = sampled_rows(layer, inputs, 10**6, torch.Generator())
    got = rows @ unfolding.matrix(layer.weight).transpose(1, 2)  # (groups, rows, outputs per group)
    output = layer(inputs)
    if isinstance(layer, nn.Linear):
        wanted = (output - layer.bias).reshape(1, -1, 3)
    else:
        flat = (output - layer.bias.view(-1, *[1] * (output.dim() - 2))).flatten(2)  # (N, C, positions)
        n, channels, positions = flat.shape
        split = flat.reshape(n, unfolding.groups, channels // unfolding.groups, positions)
        wanted = split.permute(1, 0, 3, 2).reshape(unfolding.groups, n * positions, -1)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_sampled_rows_are_rows(name):
    layer, shape = CASES[name]
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    every = sampled_rows(layer, inputs, 10**6, torch.Generator())
    some = sampled_rows(layer, inputs, 3, torch.Generator().manual_seed(1))
    assert some.shape[1] == min(3 * shape[0], every.shape[1])
    distance = (some[:, :, None] - every[:, None]).abs().amax(3)
    assert float(distance.min(2).values.max()) == 0


def test_columns_of_channels():
    unfolding = Unfolding.of(nn.Conv2d(4, 6, (1, 3)))
    assert unfolding.columns(torch.tensor([0, 2])).tolist() == [0, 1, 2, 6, 7, 8]
