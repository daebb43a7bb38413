"""Gram matrices of convolutions that have few output positions, all of which are looked at.

Neighbouring output positions read the same inputs. Unfolded, two inputs are multiplied once for every output position
that reads both; here once, and their product is added wherever it belongs: a sixth of the work for 3x3 kernels on 4x4
positions, a sixteenth on 2x2.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

FOLDED = 1024  # images multiplied at a time, in single precision

Places = dict[tuple[int, int], list[tuple[int, int]]]


def pairs_read(table: Tensor, positions: int) -> Places | None:
    """Pairs of input positions, with the pairs of taps at which some output reads them; None if they save no work.

    Args:
        table: (output positions, taps), the input position each tap reads; `positions` where it reads a zero. Input
            positions must rise with the taps.
        positions: How many input positions there are.
    """
    found: Places = defaultdict(list)
    for reads in table.tolist():
        taps = [(tap, read) for tap, read in enumerate(reads) if read < positions]
        for place, (first, here) in enumerate(taps):
            for second, there in taps[place:]:
                found[here, there].append((first, second))
    return found if 2 * len(found) < table.numel() * table.shape[1] else None


class PairSum:
    """Running sums of one convolution with one conv group.

    Args:
        table: As of `pairs_read`.
        places: From it.
        channels: That the convolution reads.
        dtype: Of the sums; products are in single precision.
        device: Where.
    """

    def __init__(self, table: Tensor, places: Places, channels: int, dtype: torch.dtype, device: torch.device) -> None:
        self._table, self._places = table, places
        self._channels, self._dtype, self._device = channels, dtype, device
        self._blocks: Tensor | None = None  # (taps, taps, channels, channels), the upper half of the blocks
        self._total = torch.zeros(table.shape[1], channels, dtype=torch.float64, device=device)
        self._held: list[Tensor] = []

    def add(self, inputs: Tensor) -> None:
        """Count in (images, channels, input positions + 1), the last of which is zero."""
        self._held.append(inputs.float())
        if sum(map(len, self._held)) >= FOLDED:
            self._fold()

    def _fold(self) -> None:
        if not self._held:
            return
        seen = torch.cat(self._held).permute(2, 0, 1).contiguous()  # (positions, images, channels)
        self._held.clear()
        taps = self._table.shape[1]
        if self._blocks is None:
            shape = (taps, taps, self._channels, self._channels)
            self._blocks = torch.zeros(shape, dtype=self._dtype, device=self._device)
        for (here, there), places in self._places.items():
            product = seen[here].T @ seen[there]
            for first, second in places:
                self._blocks[first, second] += product
        self._total += seen.sum(1, dtype=torch.float64)[self._table].sum(0)

    def finish(self, gram: Tensor) -> Tensor:
        """Add the sums of a a^T to `gram`, (columns, columns); returns those of a, (columns,). Called once."""
        self._fold()
        blocks, taps, channels = self._blocks, self._table.shape[1], self._channels
        assert blocks is not None
        self._blocks = None
        for first in range(taps):
            for second in range(first + 1, taps):
                blocks[second, first] = blocks[first, second].T
        gram.view(channels, taps, channels, taps).add_(blocks.permute(2, 0, 3, 1))
        return self._total.T.reshape(-1)
