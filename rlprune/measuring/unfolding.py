"""A convolution as a matrix product: which inputs each output position reads, and the weight as a matrix.

For every conv (any kernel, stride, padding, dilation, groups, one to three dimensions), transposed conv and linear
layer, ``rows @ matrix.T`` is the layer's output (less its bias) at the positions the rows were taken from. The
columns of rows and matrix are ordered (input channel, kernel offset), so removing input channel c removes the columns
``c * taps ... c * taps + taps - 1``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Unfoldable = (
    nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d | nn.Linear
)


@dataclass(frozen=True)
class Unfolding:
    """How one layer reads its input.

    Attributes:
        groups: Number of groups of a grouped conv; 1 for linear layers.
        taps: Kernel positions (1 for linear layers).
        transposed: Whether the layer is a transposed conv, whose weight has the input channels first.
    """

    groups: int
    taps: int
    transposed: bool

    @classmethod
    def of(cls, layer: Unfoldable) -> Unfolding:
        """The unfolding of a layer."""
        if isinstance(layer, nn.Linear):
            return cls(groups=1, taps=1, transposed=False)
        return cls(groups=layer.groups, taps=math.prod(layer.kernel_size), transposed=bool(layer.transposed))

    def matrix(self, weight: Tensor) -> Tensor:
        """The weight as (groups, outputs per group, inputs per group * taps)."""
        if self.transposed:  # (in, out / groups, *kernel)
            split = weight.reshape(self.groups, weight.shape[0] // self.groups, weight.shape[1], self.taps)
            return split.transpose(1, 2).reshape(self.groups, weight.shape[1], -1)
        return weight.reshape(self.groups, weight.shape[0] // self.groups, -1)

    def columns(self, channels: Tensor) -> Tensor:
        """The matrix columns of these input channels (int64, counted within their conv group)."""
        return (channels[:, None] * self.taps + torch.arange(self.taps, device=channels.device)).reshape(-1)


def sampled_rows(layer: Unfoldable, inputs: Tensor, positions: int, generator: torch.Generator) -> Tensor:
    """Unfolded inputs at random output positions, drawn anew for every image.

    Args:
        layer: A conv, transposed conv or linear layer.
        inputs: What it is called with: (N, C, *space), or (N, ..., features) for a linear layer.
        positions: Output positions an image; all of them, in order, where there are no more than that.
        generator: A CPU generator.

    Returns:
        (groups, rows, inputs per group * taps).
    """
    if isinstance(layer, nn.Linear):
        rows = inputs.reshape(inputs.shape[0], -1, inputs.shape[-1]) if inputs.dim() > 1 else inputs[None, None]
        if rows.shape[1] > positions:
            picks = _picks(rows.shape[0], rows.shape[1], positions, generator).to(rows.device)
            rows = rows.gather(1, picks[..., None].expand(-1, -1, rows.shape[-1]))
        return rows.reshape(1, -1, rows.shape[-1])
    inputs, table = reading_table(layer, inputs)
    if table.shape[0] > positions:
        picks = _picks(inputs.shape[0], table.shape[0], positions, generator).to(inputs.device)
        where = table[picks]  # (N, positions, taps)
    else:
        where = table.expand(inputs.shape[0], -1, -1)
    n, channels, _ = inputs.shape
    flat = where.reshape(n, 1, -1).expand(-1, channels, -1)
    patches = inputs.gather(2, flat).reshape(n, layer.groups, channels // layer.groups, where.shape[1], -1)
    return patches.permute(1, 0, 3, 2, 4).reshape(layer.groups, n * where.shape[1], -1)


def _picks(images: int, available: int, wanted: int, generator: torch.Generator) -> Tensor:
    """(images, wanted) positions, drawn with replacement: independent rows, and one cheap call."""
    return torch.randint(available, (images, wanted), generator=generator)


def reading_table(layer: Unfoldable, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs as (N, C, positions + 1), the last one zero, and for every output position the ones its taps read.

    Args:
        layer: A conv or transposed conv layer.
        inputs: What it is called with, (N, C, *space) or (C, *space).
    """
    assert not isinstance(layer, nn.Linear)
    if inputs.dim() == len(layer.kernel_size) + 1:  # a single image without its batch axis
        inputs = inputs[None]
    if layer.transposed:
        padding: Sequence[int] = [int(p) for p in layer.padding]
        output_padding: Sequence[int] = layer.output_padding
    elif layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        pads = list(layer._reversed_padding_repeated_twice)
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        inputs = F.pad(inputs, pads, mode=mode)
        padding, output_padding = [0] * len(layer.kernel_size), []
    else:
        padding, output_padding = [int(p) for p in layer.padding], []
    space = inputs.shape[2:]
    reads, valid = [], []
    for axis, size in enumerate(space):
        kernel, stride, dilation = layer.kernel_size[axis], layer.stride[axis], layer.dilation[axis]
        taps = torch.arange(kernel) * dilation
        if layer.transposed:
            extent = (size - 1) * stride - 2 * padding[axis] + int(taps[-1]) + output_padding[axis] + 1
            scaled = torch.arange(extent)[:, None] + padding[axis] - taps
            read = scaled.div(stride, rounding_mode="floor")
            inside = (scaled % stride == 0) & (read >= 0) & (read < size)
        else:
            extent = (size + 2 * padding[axis] - int(taps[-1]) - 1) // stride + 1
            read = torch.arange(extent)[:, None] * stride - padding[axis] + taps
            inside = (read >= 0) & (read < size)
        reads.append(read)
        valid.append(inside)
    table, inside = reads[0], valid[0]
    for read, ok, size in zip(reads[1:], valid[1:], space[1:], strict=True):
        shape = (table.shape[0] * read.shape[0], -1)
        table = (table[:, None, :, None] * size + read[None, :, None, :]).reshape(shape)
        inside = (inside[:, None, :, None] & ok[None, :, None, :]).reshape(shape)
    zero = math.prod(space)
    table = table.masked_fill(~inside, zero).to(inputs.device)
    return F.pad(inputs.flatten(2), (0, 1)), table
