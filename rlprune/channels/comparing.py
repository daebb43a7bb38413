"""Masked and removed networks of one model, run and compared.

There is one masked network: some units of every group are silent in it. A removal takes out such units of the groups
under test, so that whatever is tested, in evaluation or in training mode, the network to compare with runs once.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from rlprune.channels.attributes import MODE, Choice, Reads, choices, watched_attributes
from rlprune.channels.copying import duplicate, modules_in, shaken_tensors
from rlprune.channels.forward import Forward, Step, modeless, tensors_in, training_paths, working_copy
from rlprune.channels.groups import ChannelGroups
from rlprune.channels.lockstep import DIFFERS, Follow, Mismatch, Product, Record, ShapesOfGradients, close
from rlprune.channels.plan import PruningPlan
from rlprune.channels.reuse import Reuse
from rlprune.channels.stopping import Stop
from rlprune.channels.surgery import Changes, masked_copy, removed_copy
from rlprune.channels.units import ChannelGroup
from rlprune.seeding import numpy_generator, seeded

SHARE = 0.3  # of the units, which go in the first check


@dataclass(frozen=True)
class Difference:
    """What went wrong in a comparison: the reason in words, the layers at which it showed.

    Also how many operators ran until then, which numbers (module, name) were read, and where an error was raised.
    """

    reason: str
    layers: tuple[str, ...] = ()
    numeric: bool = False
    steps: int = 0
    read: tuple[tuple[str, str], ...] = ()
    stop: Stop | None = None

    @property
    def inside(self) -> list[str]:
        """Paths of the modules in which an error was raised, innermost first."""
        return [] if self.stop is None else [call.path for call in self.stop.calls]


def around(path: str) -> list[str]:
    """Paths of the modules around a tensor or module, the outermost first.

    >>> around("a.b.weight")
    ['', 'a', 'a.b']
    """
    parts = path.split(".")
    return [".".join(parts[:end]) for end in range(len(parts))]


class Comparer:
    """Compares masked with removed networks of one model, in evaluation or in training mode."""

    def __init__(
        self,
        model: nn.Module,
        groups: ChannelGroups,
        forward: Forward,
        follow: Sequence[Choice] = (),
    ) -> None:
        self.training = False
        self.forward = forward
        self.passes = 0
        self._reuse = Reuse()  # much of the masked network computes alike in training mode
        self.groups = groups
        self._places = _places(groups)
        self._orders: dict[str, list[int]] = {}
        self.turn = 0
        able = [group for group in groups.prunable if group.max_removable]
        most = {g.name: self._units(g, max(self._counts(g, 0.0) + self._counts(g, SHARE))) for g in able}
        self.model = masked_copy(model, groups, PruningPlan(most), shaken_tensors(model)).eval()
        self._sharpen()
        self.follow({choice: choice.first for choice in follow})
        self.forget()
        self._double: tuple[nn.Module, Forward] | None = None
        self._expected: dict[bool, tuple[list[Product], list[Tensor]]] = {}  # by mode, of the one that ran last
        self.path: list[Step] = []  # what it ran
        self._modeless = False  # whether the network computes the same in both modes

    def _sharpen(self) -> None:
        """Compare half precision models in single precision, where a difference shows."""
        if any(p.dtype in (torch.float16, torch.bfloat16) for p in self.model.parameters()):
            model, forward = duplicate(self.model).float(), self.forward.in_precision(torch.float32)
            try:
                with torch.no_grad():
                    forward(model)
            except Exception:  # code that insists on a precision
                return
            self.model, self.forward = model, forward

    def follow(self, chosen: dict[Choice, int]) -> None:
        """Let numbers follow in other ways than so far."""
        self.chosen = chosen
        attributes = (choice.attribute(option) for choice, option in chosen.items())
        self.groups = self.groups.with_attributes(a for a in attributes if a is not None)

    def changes(self, plan: PruningPlan, chosen: dict[Choice, int]) -> Changes:
        """What a plan changes in numbers that follow so."""
        attributes = (choice.attribute(option) for choice, option in chosen.items())
        return self.groups.with_attributes(a for a in attributes if a is not None).attributes_after(plan)

    def train(self, training: bool = True) -> None:
        """Go on in training mode, or back in evaluation mode."""
        self.training = training
        self._double = None
        self.forget()
        if training:
            training_paths(self.model)
        else:
            self.model.eval()

    def runs(self) -> bool:
        """Whether the full network runs in this mode; many cannot train on bare example inputs."""
        try:
            self._full(self.model, self.forward)
        except Exception:
            return False
        return True

    def follow_more(self) -> None:
        """Numbers that only the mode that ran last reads may follow, too; until they are tried they stay."""
        known = {(choice.module, choice.name) for choice in self.chosen}
        new = [c for c in choices(self.model, self.groups, self._read) if (c.module, c.name) not in known]
        self.follow({**self.chosen, **{choice: len(choice.options) for choice in new}})

    def plan(self, names: Sequence[str], share: float, turn: int | None = None) -> PruningPlan:
        """A few units (share 0) or about a share of the units of each group, chosen by the group's name.

        Groups of one size lose different numbers, and others in the second check than in the first, so that widths
        which the code ties together do not fit by chance. Where numbers are few, two groups may lose as many in both;
        in another `turn` (None: the present one) they do not.
        """
        groups, turn = [self.groups[name] for name in names], self.turn if turn is None else turn
        return PruningPlan({group.name: self._units(group, self._count(group, share, turn)) for group in groups})

    def _units(self, group: ChannelGroup, count: int) -> list[int]:
        """So many units of a group; fewer are among them."""
        if group.name not in self._orders:
            self._orders[group.name] = numpy_generator(0, "check", group.name).permutation(group.size).tolist()
        return self._orders[group.name][:count]

    @staticmethod
    def _counts(group: ChannelGroup, share: float) -> list[int]:
        """The numbers of units that a group may lose, to choose from."""
        wanted = (share * group.size * part for part in (0.7, 1.0, 1.3, 1.6)) if share else range(1, 5)
        counts = sorted({group.allowed(round(count)) for count in wanted} - {0})
        return counts or [next(c for c in (group.allowed(n) for n in range(1, group.size + 1)) if c)]

    def _count(self, group: ChannelGroup, share: float, turn: int = 0) -> int:
        """How many units of a group go."""
        place, counts = self._places[group.name], self._counts(group, share)
        if share:
            rounds: int = len(counts) ** turn
            return counts[place // rounds % len(counts)]
        counts = [count for count in counts if count != self._count(group, SHARE, turn)] or counts
        return counts[(place + place // len(counts)) % len(counts)]

    def undecided(self) -> bool:
        """Whether a number that follows might as well follow other groups: they lost as much in every turn so far.

        The next turn then tells them apart.
        """
        able = [group.name for group in self.groups.prunable if group.max_removable]
        self.turn += 1
        counts = [plan.counts for plan in self.earlier(able, SHARE)]
        for choice, option in self.chosen.items():
            ways = (choice.attribute(way) for way in range(len(choice.options)))
            after = [[way.after(lost).value for lost in counts] for way in ways if way is not None]
            if option < len(after) and after.count(after[option]) > 1:
                return True
        return False

    def earlier(self, names: Sequence[str], share: float) -> list[PruningPlan]:
        """The plans of the turns before this one."""
        return [self.plan(names, share, turn) for turn in range(self.turn)]

    def compare(self, plan: PruningPlan, values: bool = True) -> Difference | None:
        """None if masked equals removed, else what is wrong; numeric differences are confirmed in double precision.

        Without `values` the removed network has to run and to give the right shapes. What was compared since `forget`
        is known.
        """
        key = values, plan, repr(self.groups.attributes_after(plan))
        if key not in self._known:
            self._known[key] = self._confirmed(plan, values)
        return self._known[key]

    def forget(self) -> None:
        """Compare anew, and let go of the networks that stopped."""
        self._known: dict[Any, Difference | None] = {}

    def _confirmed(self, plan: PruningPlan, values: bool) -> Difference | None:
        difference = self._compare(self.model, self.forward, plan, values)
        if difference is not None and difference.numeric:
            if self._double is None:
                self._double = duplicate(self.model).double(), self.forward.in_precision(torch.float64)
            try:
                return self._compare(*self._double, plan)
            except (RuntimeError, TypeError):  # code that insists on a precision
                return difference
        return difference

    def _full(self, model: nn.Module, forward: Forward) -> tuple[list[Product], list[Tensor]]:
        """Products and outputs of the network at full size."""
        own = model is self.model
        if own and self._modeless and self._expected:
            self._expected = {self.training: next(iter(self._expected.values()))}
        if own and self.training in self._expected:
            return self._expected[self.training]
        self.passes += 1
        full = working_copy(model)
        record = Record(full, self.groups, self._reuse)
        reads: Reads = {}
        watched = watched_attributes(reads, set()) if own else nullcontext()
        with self._reuse.another_pass(), torch.no_grad(), watched:
            result = record.products, self._outputs(full, forward, record)
        if own:
            self._read = set(_named(reads, full))
            self._modeless = modeless(full, {module for module, name in reads if name == MODE})
            self._expected = {self.training: result}
            self.path = record.path
        return result

    def _outputs(self, model: nn.Module, forward: Forward, mode: TorchDispatchMode) -> list[Tensor]:
        with seeded(0), mode:
            result = forward(model)
        try:
            return forward.picked(result)
        except Exception:
            if not self.training:
                raise
            return []  # what counts in evaluation mode is not there in training mode

    def _compare(self, model: nn.Module, forward: Forward, plan: PruningPlan, values: bool = True) -> Difference | None:
        exact = values and not any(self.groups[name].approximate for name in plan.removed)
        products, expected = self._full(model, forward)
        self.passes += 1
        removed = removed_copy(model, self.groups, plan, share=True)
        follow = Follow(removed, self.groups, plan, list(products), exact)
        reads: Reads = {}
        with watched_attributes(reads, set()):
            found = self._run(removed, forward, follow, expected)
        difference = self._gradients(model, removed, found) if isinstance(found, list) else found
        if difference is None:
            return None
        mode = "in training mode, " if self.training else ""
        return replace(difference, reason=mode + difference.reason, steps=follow.steps, read=_named(reads, removed))

    def _run(
        self, removed: nn.Module, forward: Forward, follow: Follow, expected: list[Tensor]
    ) -> Difference | list[Tensor]:
        """What is wrong with the smaller network's forward pass, else its outputs."""
        try:
            with torch.set_grad_enabled(self.training):
                outputs = self._outputs(removed, forward, follow)
        except Mismatch as mismatch:
            return Difference(str(mismatch), follow.at)
        except Exception as error:
            text = " ".join(str(error).split())[:160]
            reason = f"sizes are constants in the model's code: the smaller network does not run ({text})"
            return Difference(reason, follow.at, stop=Stop(removed, error, self.groups.attributes_after(follow.plan)))
        if follow.wrong:
            return Difference(f"{DIFFERS}: layer {follow.wrong[0]} sees other values", tuple(follow.wrong), True)
        if follow.left and follow.values:
            left = tuple(product.layer for product in follow.left)
            return Difference("the smaller network leaves out some layers", left)
        return self._compare_outputs(expected, outputs, follow.values) or outputs

    @staticmethod
    def _compare_outputs(expected: list[Tensor], outputs: list[Tensor], exact: bool) -> Difference | None:
        if len(expected) != len(outputs):
            return Difference("the smaller network gives another number of outputs")
        for a, b in zip(expected, outputs, strict=True):
            if a.shape != b.shape:
                return Difference(f"an output has shape {tuple(b.shape)} instead of {tuple(a.shape)}")
            if exact and not close(a, b.detach()):
                return Difference(f"{DIFFERS}: the outputs differ", numeric=True)
        return None

    def _gradients(self, model: nn.Module, removed: nn.Module, outputs: list[Tensor]) -> Difference | None:
        """Whether the smaller network gives gradients, if the masked one does."""
        error = _backward(removed, outputs) if self.training else None
        if error is None:
            return None
        whole = working_copy(model)
        with torch.enable_grad():
            full = tensors_in(self.forward(whole)) if model is self.model else []
        if _backward(whole, full) is not None:
            return None
        return Difference(f"sizes are constants in the model's code: gradients fail ({error})")


def _places(groups: ChannelGroups) -> dict[str, int]:
    """Places of groups among those of their size, each size counted from another number."""
    found: dict[int, list[str]] = {}
    for group in groups.prunable:
        found.setdefault(group.size, []).append(group.name)
    return {name: start + place for start, names in enumerate(found.values()) for place, name in enumerate(names)}


def _named(reads: Reads, model: nn.Module) -> tuple[tuple[str, str], ...]:
    """The numbers that were read: paths of the model's modules, and names."""
    paths = {id(module): path for path, module in modules_in(model).items()} if reads else {}
    return tuple((paths[module], name) for module, name in reads if module in paths and name != MODE)


def _backward(model: nn.Module, outputs: list[Tensor]) -> str | None:
    """Why gradients of the outputs cannot be computed, if so."""
    loss = [t.float().sum() for t in outputs if t.requires_grad and t.is_floating_point()]
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not (loss and parameters):
        return None
    error = None
    for mode in (ShapesOfGradients(), nullcontext()):  # type: ignore[no-untyped-call]  # some code needs more than zeros
        try:
            with mode:
                torch.autograd.grad(sum(loss), parameters, retain_graph=True, allow_unused=True)  # type: ignore[arg-type]
            return None
        except Exception as failed:
            error = " ".join(str(failed).split())[:160]
    return error
