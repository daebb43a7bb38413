"""Gram matrices of what the layers read: all that least squares needs to know of the data, for any plan.

The inputs of a consumer layer, unfolded, are the rows of a matrix A. Its second moments ``E[a a^T]`` and means
``E[a]`` are collected in one pass over a few hundred calibration images; afterwards the best weights for any subset
of its inputs cost one small factorisation and no further look at the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rlprune.channels import ChannelGroups
from rlprune.errors import UserError
from rlprune.measuring.following import watching_norms
from rlprune.measuring.pairs import PairSum, pairs_read
from rlprune.measuring.room import Room
from rlprune.measuring.solving import WIDE
from rlprune.measuring.unfolding import Unfoldable, Unfolding, reading_table, sampled_rows
from rlprune.scoring.evaluation import evaluating
from rlprune.seeding import torch_generator

PANEL = 512


@dataclass(frozen=True, eq=False)
class LayerGram:
    """Second moments of one layer's unfolded inputs (float64; see `Unfolding` for the order of the columns).

    Attributes:
        unfolding: How the layer reads its input.
        gram: (groups, columns, columns), mean of a a^T over the sampled rows; in single precision where it is wide.
        mean: (groups, columns), mean of a.
        matrix: (groups, outputs per group, columns), the layer's weight.
        rows: How many rows were sampled.
        norm: Name of the batch norm that reads this layer's output, if one does.
        factors: By conv group, what error curves leave for least squares.
    """

    unfolding: Unfolding
    gram: Tensor
    mean: Tensor
    matrix: Tensor
    rows: int
    norm: str | None
    factors: dict[int, Factor] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Memory held."""
        return sum(t.nbytes for t in (self.gram, self.mean, self.matrix, *(f.lower for f in self.factors.values())))

    def covariance(self, group: int) -> Tensor:
        """Of all columns of a conv group, (columns, columns), in the precision it is in."""
        mean = self.mean[group].to(self.gram.dtype)
        return self.gram[group].addr(mean, mean, alpha=-1)

    def moments(self, group: int, rows: Tensor, columns: Tensor, *, centred: bool = True) -> Tensor:
        """E[a_i a_j] of some columns of a conv group with others, or their covariance, in the precision it is in."""
        found = self.gram.new_empty(len(rows), len(columns))
        for start in range(0, len(rows), PANEL):
            panel = self.gram[group].index_select(0, rows[start : start + PANEL])
            torch.index_select(panel, 1, columns, out=found[start : start + PANEL])
        if centred:
            mean = self.mean[group].to(found.dtype)
            found.addr_(mean[rows], mean[columns], alpha=-1)
        return found


@dataclass(frozen=True, eq=False)
class Factor:
    """A covariance, factored once in the order in which its columns are expected to go.

    The leading block of the factor is the factor of what stays when the last columns are gone, however many.

    Attributes:
        order: (columns,), the last go first.
        lower: The Cholesky factor of the covariance in this order, with `ridge` on its diagonal.
        ridge: What was added.
    """

    order: Tensor
    lower: Tensor
    ridge: float


class GramStore(Mapping[str, LayerGram]):
    """The Gram matrix of every consumer layer of one network, by layer name.

    They describe the network they were collected on: after a removal or a training step, collect again.

    Attributes:
        room: Where they lie.
    """

    def __init__(self, layers: dict[str, LayerGram], room: Room | None = None) -> None:
        self._layers = layers
        self.room = room or Room()

    def __getitem__(self, name: str) -> LayerGram:
        return self._layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    @property
    def bytes(self) -> int:
        """Memory held, files not counted."""
        return sum(gram.bytes for gram in self.values()) - self.room.filed

    @classmethod
    def collect(
        cls,
        model: nn.Module,
        groups: ChannelGroups,
        calls: Iterable[tuple[Any, ...]],
        *,
        positions_per_image: int = 16,
        rows_per_column: float = 8.0,
        seed: int = 0,
        memory: float = math.inf,
    ) -> GramStore:
        """Run `model` on calibration inputs and sample what its consumer layers read.

        Args:
            model: The network, before anything is removed. It is left as it was.
            groups: Its channel groups; every conv, transposed conv and linear module that reads a prunable group
                takes part. Layers that are called as functions do not, and least squares leaves them alone.
            calls: The model's positional arguments, a tuple a batch.
            positions_per_image: Output positions sampled in every image, all where there are fewer.
            rows_per_column: A layer is done once it has this many rows for every column of its Gram matrix (at
                least 2,048 rows); the run stops as soon as all layers are.
            seed: Which positions.
            memory: Bytes that they may take; those beyond lie in files.

        Raises:
            UserError: if `calls` is empty, the files do not fit on the disk, or the inputs make a layer see NaN.
        """
        modules = dict(model.named_modules())
        names = dict.fromkeys(name for group in groups.prunable for name in group.consumers)
        layers = {name: m for name in names if isinstance(m := modules.get(name), Unfoldable)}
        room, batch = Room(memory), 0
        sums = {name: _Sum(layer, positions_per_image, rows_per_column, room) for name, layer in layers.items()}

        def sample(name: str, inputs: Tensor) -> None:
            if not sums[name].full:
                sums[name].add(inputs, torch_generator(seed, "gram", name, batch))

        with watching_norms(model, layers) as norms, sampling(model, layers, sample):
            for batch, arguments in enumerate(calls):  # noqa: B007 (read by `sample`)
                model(*arguments)
                if all(s.full for s in sums.values()):
                    break
        found = {}
        for name in list(sums):
            found[name] = sums.pop(name).finish(name, norms.get(name))
            room.rest()
        return cls(found, room)


class _Sum:
    """Running sums of one layer."""

    def __init__(self, layer: Unfoldable, positions: int, rows_per_column: float, room: Room) -> None:
        self.layer, self.positions, self.room = layer, positions, room
        self.unfolding = Unfolding.of(layer)
        self.matrix = self.unfolding.matrix(layer.weight.detach())
        columns = self.matrix.shape[2]
        self.dtype = torch.float64 if columns <= WIDE else torch.float32
        self.rows = 0
        self.wanted = max(2048.0, rows_per_column * columns)
        self.pairs: PairSum | None = None
        self.space: tuple[int, ...] = ()
        self.gram, self.total = torch.empty(0), torch.empty(0)

    @property
    def full(self) -> bool:
        return self.rows >= self.wanted

    def add(self, inputs: Tensor, generator: torch.Generator) -> None:
        if self.rows == 0:
            self.pairs, self.space = self._by_pairs(inputs), inputs.shape[2:]
        if self.pairs is not None and inputs.shape[2:] == self.space:
            inputs, table = reading_table(self.layer, inputs)
            self.pairs.add(inputs)
            self.rows += len(inputs) * len(table)
            return
        rows = sampled_rows(self.layer, inputs, self.positions, generator).float()
        groups, count, columns = rows.shape
        if not len(self.gram):
            self.gram = self.room.zeros((groups, columns, columns), self.dtype, rows.device)
            self.total = torch.zeros(groups, columns, dtype=torch.float64, device=rows.device)
        for start in range(0, columns, PANEL):  # the matrix is symmetric: its upper half will do
            panel = rows[:, :, start : start + PANEL].transpose(1, 2)
            self.gram[:, start : start + PANEL, start:] += panel @ rows[:, :, start:]
        self.total += rows.sum(1, dtype=torch.float64)
        self.rows += count
        self.room.leave()

    def _by_pairs(self, inputs: Tensor) -> PairSum | None:
        """Sums by pairs of input positions, if that is less work for inputs of this size."""
        layer = self.layer
        if isinstance(layer, nn.Linear) or self.unfolding.transposed or self.unfolding.groups > 1:
            return None
        inputs, table = reading_table(layer, inputs)
        places = pairs_read(table, inputs.shape[2] - 1) if len(table) <= self.positions else None
        return None if places is None else PairSum(table, places, layer.in_channels, self.dtype, inputs.device)

    def _sums(self) -> tuple[Tensor, Tensor]:
        """The sums of a a^T and of a, by conv group."""
        gram, total = self.gram, self.total
        for start in range(0, gram.shape[-1], PANEL):
            end = start + PANEL
            gram[:, end:, start:end] = gram[:, start:end, end:].transpose(1, 2)
        if self.pairs is None:
            return gram, total
        if not len(gram):
            columns = self.matrix.shape[2]
            gram = self.room.zeros((1, columns, columns), self.dtype, self.matrix.device)
        summed = self.pairs.finish(gram[0])[None]
        return gram, summed + total if len(total) else summed

    def finish(self, name: str, norm: str | None) -> LayerGram:
        if self.rows == 0:
            raise UserError(f"layer {name!r} saw no calibration data; give at least one calibration image")
        gram, total = self._sums()
        if not bool(torch.isfinite(total).all() and torch.isfinite(gram).all()):
            raise UserError(
                f"layer {name!r} reads NaN, infinity or numbers whose squares are beyond all bounds on the "
                "calibration images; check the weights"
            )
        matrix = self.room.keep(self.matrix.to(self.dtype, copy=True))
        return LayerGram(self.unfolding, gram.div_(self.rows), total / self.rows, matrix, self.rows, norm)


@contextmanager
def sampling(
    model: nn.Module, layers: Mapping[str, nn.Module], sample: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """While the model runs, in eval mode: hand every layer's input to `sample`."""

    def reads(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            if arguments:
                sample(name, arguments[0])  # at once: a later in-place operator may change it

        return hook

    with ExitStack() as hooks, evaluating(model), torch.no_grad():
        for name, layer in layers.items():
            hooks.enter_context(layer.register_forward_pre_hook(reads(name)))
        yield
