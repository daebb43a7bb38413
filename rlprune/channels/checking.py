"""The self-check: a removed network must compute what the masked one computes, or the group is locked.

About a third of every unlocked group is removed at once in evaluation mode, and one unit of every group in training
mode, where the smaller network must also give gradients. Four forward passes when all is well; see `lockstep` for how
the two networks are compared. A group that fails is first tried with other plain numbers of the model following it
(see `attributes`), and locked if none of them helps.

Approximate groups are held to running and training, and to outputs of the same shapes.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from rlprune.channels.attributes import Choice, Reads, watched_attributes
from rlprune.channels.copying import duplicate, shaken
from rlprune.channels.forward import Forward, tensors_in, training_paths
from rlprune.channels.groups import ChannelGroups
from rlprune.channels.lockstep import DIFFERS, Follow, Mismatch, Record, close
from rlprune.channels.plan import PruningPlan
from rlprune.channels.surgery import masked_copy, removed_copy
from rlprune.errors import UserError
from rlprune.seeding import numpy_generator

CHECKS = ("on", "strict", "off")
_NUMBER = re.compile(r"\d+")
TRIES = 24  # comparisons spent on finding out which plain numbers follow


def check_groups(
    model: nn.Module, groups: ChannelGroups, forward: Forward, strict: bool = False, choices: Sequence[Choice] = ()
) -> ChannelGroups:
    """The groups with every one locked whose removal would not equal its masking on the example inputs.

    Args:
        model: the model the groups were traced from.
        groups: the groups; locked ones are left out.
        forward: the example inputs.
        strict: raise instead of locking.
        choices: plain numbers of the model's modules that may follow.

    Raises:
        UserError: in strict mode, listing the groups that fail and why.
    """
    checker = Checker(model, groups, forward, choices)
    failed = checker.failures(0.3)
    checker.groups = checker.groups.with_locks(failed)
    checker.train()
    if not checker.runs():
        checker.train(False)
    failed.update(checker.failures(0.0))
    if failed and strict:
        lines = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise UserError(f"{len(failed)} channel groups fail the self-check ({lines}); lock them with keep=")
    return groups.with_attributes(checker.groups.attributes).with_locks(failed)


@dataclass(frozen=True)
class Difference:
    """What went wrong in a comparison: the reason in words, the layers at which it showed.

    If values were not compared, also how many operators ran until then, and which numbers (module, name) were read.
    """

    reason: str
    layers: tuple[str, ...] = ()
    numeric: bool = False
    steps: int = 0
    read: tuple[tuple[str, str], ...] = ()


class Checker:
    """Compares masked with removed networks of one model, in evaluation or in training mode."""

    def __init__(
        self,
        model: nn.Module,
        groups: ChannelGroups,
        forward: Forward,
        choices: Sequence[Choice] = (),
    ) -> None:
        self.model = shaken(model)
        self.training = False
        self.forward = forward
        self._sharpen()
        self.passes = 0
        self.groups = groups
        self._places = {name: place for place, name in enumerate(groups.names)}
        self._follow({choice: choice.first for choice in choices})
        self._tries = TRIES
        self._failing: dict[tuple[Any, str], str] = {}
        self._double: tuple[nn.Module, Forward] | None = None
        self._expected: tuple[PruningPlan, tuple[list[Any], list[Tensor]]] | None = None

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

    def _follow(self, chosen: dict[Choice, int]) -> None:
        self.chosen = chosen
        attributes = [choice.attribute(option) for choice, option in chosen.items()]
        self.groups = self.groups.with_attributes(a for a in attributes if a is not None)

    def train(self, training: bool = True) -> None:
        """Go on in training mode, or back in evaluation mode."""
        self.training = training
        self._double = self._expected = None
        if training:
            training_paths(self.model)
        else:
            self.model.eval()

    def runs(self) -> bool:
        """Whether the full network runs in this mode; many cannot train on bare example inputs."""
        try:
            plan = self.plan([group.name for group in self.groups.prunable if group.max_removable], 0.0)
            self._expected = plan, self._masked(self.model, self.forward, plan)
        except Exception:
            return False
        return True

    def failures(self, *shares: float) -> dict[str, str]:
        """Group name -> reason, for every group that must be locked; `shares` of the units are removed in turn."""
        able = [group for group in self.groups.prunable if group.max_removable]
        failed: dict[str, str] = {}
        exact = [group.name for group in able if not group.approximate]
        rounds = [exact, [group.name for group in able]] if len(exact) < len(able) else [exact]
        for share, names in itertools.product(shares or (0.0, 0.3), rounds):
            left = [name for name in names if name not in failed]
            while left:
                difference = self.compare(self.plan(left, share))
                if difference is None:
                    break
                if not difference.numeric and self._runs_further(left, share):
                    continue
                found, alone = self._culprits(left, share, difference)
                for name, what in found.items():
                    before = self.chosen
                    if self._other_numbers([name] if alone else list(found), share):
                        self._generalise(before, left, share)
                        break
                    failed[name] = self._named(name, what.reason)
                    if alone:
                        failed.update(self._alike(name, what.reason, left, failed))
                left = [name for name in left if name not in failed]
        return failed

    def _alike(self, name: str, reason: str, left: list[str], failed: dict[str, str]) -> dict[str, str]:
        """Groups of the same make as two that fail for the same reason, as those of repeated blocks do."""
        key = self._make(name), _NUMBER.sub("#", reason)
        first = self._failing.setdefault(key, name)
        if first == name:
            return {}
        alike = [other for other in left if other not in failed and self._make(other) == key[0]]
        return {other: self._named(other, f"as in {first}, {reason}") for other in alike}

    def _make(self, name: str) -> tuple[tuple[str, int, str], ...]:
        """Where a group lives, whichever of several equal blocks it is in."""
        return tuple(sorted({(_NUMBER.sub("#", s.tensor), s.dim, s.role) for s in self.groups[name].slots}))

    def _other_numbers(self, names: list[str], share: float, what: Difference | None = None) -> bool:
        """Whether groups that fail pass once other numbers follow; they then do.

        The number that was read last before the smaller network failed (`what`) is tried first. A change with which
        more operators run than before is kept while another is looked for.
        """
        before, plan = self.chosen, self.plan(names, share)
        what = what or self.compare(plan, values=False)
        for changed in self._changes(names, what):
            if self._tries <= 0:
                break
            self._tries -= 1
            self._follow({**before, **changed})
            result = self.compare(plan, values=False) or self.compare(plan)
            if result is None:
                return True
            if what is not None and result.steps > what.steps and self._other_numbers(names, share, result):
                return True
        self._follow(before)
        return False

    def _changes(self, names: list[str], what: Difference | None) -> list[dict[Choice, int]]:
        """Other ways for one of the numbers that may follow, those read last first."""
        found = []
        chosen = {choice: option for choice, option in self.chosen.items() if not choice.groups.isdisjoint(names)}
        if what is not None and what.read:
            last = {key: place for place, key in enumerate(what.read)}
            read = [choice for choice in chosen if (choice.module, choice.name) in last]
            chosen = {c: chosen[c] for c in sorted(read, key=lambda c: -last[c.module, c.name])}
        for choice, option in chosen.items():
            others = (len(choice.options), *range(len(choice.options)))  # to stay as it is comes first
            found += [{choice: other} for other in others if other != option]
        return found

    def _runs_further(self, names: list[str], share: float) -> bool:
        """Whether the network runs further once the number that was read last follows in another way; it then does."""
        before, plan = self.chosen, self.plan(names, share)
        what = self.compare(plan, values=False)
        for changed in self._changes(names, what)[:2] if what is not None and what.read and self._tries > 0 else ():
            self._tries -= 1
            self._follow({**before, **changed})
            result = self.compare(plan, values=False)
            if result is None or result.steps > what.steps:
                self._generalise(before, names, share)
                return True
        self._follow(before)
        return False

    def _generalise(self, before: dict[Choice, int], names: list[str], share: float) -> None:
        """Let numbers of modules of one kind follow alike, if the network then runs further than without."""
        now, plan = self.chosen, self.plan(names, share)
        changed = {(c.kind, c.name): option for c, option in now.items() if before[c] != option}
        alike = {c: min(changed.get((c.kind, c.name), option), len(c.options)) for c, option in now.items()}
        reached = self.compare(plan, values=False) if alike != now else None
        if reached is not None:
            self._follow(alike)
            result = self.compare(plan, values=False)
            if result is not None and result.steps <= reached.steps:
                self._follow(now)

    def _named(self, name: str, reason: str) -> str:
        """A reason with the plain numbers that stand in the way."""
        found = [choice for choice in self.chosen if name in choice.groups]
        if not found or DIFFERS in reason:
            return reason
        words = ", ".join(f"{'.'.join(filter(None, (c.module, c.name)))} = {c.value}" for c in found[:3])
        return f"{reason}; numbers that may stand for it: {words}"

    def _culprits(
        self, names: list[str], share: float, difference: Difference
    ) -> tuple[dict[str, Difference], bool]:
        """What is wrong with at least one group, given that all of `names` fail; and whether each fails alone."""
        if len(names) == 1:
            return {names[0]: difference}, True
        suspects = [n for n in names if set(difference.layers) & {*self.groups[n].consumers, *self.groups[n].producers}]
        if suspects and len(suspects) <= 8 and len(suspects) < len(names):
            alone = {n: self.compare(self.plan([n], share), difference.numeric) for n in suspects}
            found = {n: result for n, result in alone.items() if result is not None}
            if found:
                return found, True
        half = len(names) // 2
        for part in (names[:half], names[half:]):
            result = self.compare(self.plan(part, share), difference.numeric)
            if result is not None:
                return self._culprits(part, share, result)
        together = replace(difference, reason=f"together with other groups: {difference.reason}")
        return dict.fromkeys(names, together), False

    def plan(self, names: Sequence[str], share: float) -> PruningPlan:
        """A few units (share 0) or about a share of the units of each group, chosen by the group's name.

        Neighbouring groups lose different numbers, and others in the second check than in the first, so that widths
        which the code ties together do not fit by chance.
        """
        removed = {}
        for name in names:
            group, place = self.groups[name], self._places[name]
            wanted = (share * group.size * part for part in (0.7, 1.0, 1.3, 1.6)) if share else range(1, 5)
            counts = sorted({group.allowed(round(count)) for count in wanted} - {0})
            if not counts:
                counts = [next(c for c in (group.allowed(n) for n in range(1, group.size + 1)) if c)]
            turn = place if share else place + place // len(counts)
            chosen = numpy_generator(0, "check", name, str(share)).permutation(group.size)
            removed[name] = chosen[: counts[turn % len(counts)]].tolist()
        return PruningPlan(removed)

    def compare(self, plan: PruningPlan, values: bool = True) -> Difference | None:
        """None if masked equals removed, else what is wrong; numeric differences are confirmed in double precision.

        Without `values` the removed network has to run and to give the right shapes.
        """
        difference = self._compare(self.model, self.forward, plan, values)
        if difference is not None and difference.numeric:
            if self._double is None:
                self._double = duplicate(self.model).double(), self.forward.in_precision(torch.float64)
            try:
                return self._compare(*self._double, plan)
            except (RuntimeError, TypeError):  # code that insists on a precision
                return difference
        return difference

    def _masked(self, model: nn.Module, forward: Forward, plan: PruningPlan) -> tuple[list[Any], list[Tensor]]:
        self.passes += 1
        masked = masked_copy(model, self.groups, plan, share=True)
        record = Record(masked, self.groups)
        with torch.no_grad():
            outputs = self._outputs(masked, forward, record)
        return record.products, outputs

    def _outputs(self, model: nn.Module, forward: Forward, mode: TorchDispatchMode) -> list[Tensor]:
        with torch.random.fork_rng(devices=[]), mode:
            torch.manual_seed(0)
            result = forward(model)
        try:
            return forward.picked(result)
        except Exception:
            if not self.training:
                raise
            return []  # what counts in evaluation mode is not there in training mode

    def _full(
        self, model: nn.Module, forward: Forward, plan: PruningPlan, exact: bool
    ) -> tuple[list[Any], list[Tensor]]:
        """Products and outputs of the masked network; if only the outputs' shapes count, those of another plan will do."""
        own = model is self.model
        if own and self._expected is not None and (not exact or self._expected[0] == plan):
            return self._expected[1]
        if own:
            self._expected = None  # before there are others
        result = self._masked(model, forward, plan)
        if own:
            self._expected = plan, result
        return result

    def _compare(
        self, model: nn.Module, forward: Forward, plan: PruningPlan, values: bool = True
    ) -> Difference | None:
        exact = values and not any(self.groups[name].approximate for name in plan.removed)
        products, expected = self._full(model, forward, plan, exact)
        self.passes += 1
        removed = removed_copy(model, self.groups, plan, share=True)
        follow = Follow(removed, self.groups, plan, list(products) if exact else None)
        reads: Reads = {}
        with nullcontext() if values else watched_attributes(reads, set()):
            difference = self._run(removed, forward, follow, expected)
        if isinstance(difference, list):
            difference = self._gradients(model, removed, difference, plan)
        if difference is None:
            return None
        mode = "in training mode, " if self.training else ""
        paths = {id(module): path for path, module in removed.named_modules()} if reads else {}
        read = tuple((paths[module], name) for module, name in reads if module in paths)
        return replace(difference, reason=mode + difference.reason, steps=follow.steps, read=read)

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
            return Difference(reason, follow.at)
        if follow.wrong:
            return Difference(f"{DIFFERS}: layer {follow.wrong[0]} sees other values", tuple(follow.wrong), True)
        if follow.left:
            left = tuple(product.layer for product in follow.left)
            return Difference("the smaller network leaves out some layers", left)
        return self._compare_outputs(expected, outputs, follow.left is not None) or outputs

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

    def _gradients(
        self, model: nn.Module, removed: nn.Module, outputs: list[Tensor], plan: PruningPlan
    ) -> Difference | None:
        """Whether the smaller network gives gradients, if the masked one does."""
        error = _backward(removed, outputs) if self.training else None
        if error is None:
            return None
        masked = masked_copy(model, self.groups, plan, share=True)
        with torch.enable_grad():
            full = tensors_in(self.forward(masked)) if model is self.model else []
        if _backward(masked, full) is not None:
            return None
        return Difference(f"sizes are constants in the model's code: gradients fail ({error})")


def _backward(model: nn.Module, outputs: list[Tensor]) -> str | None:
    """Why gradients of the outputs cannot be computed, if so."""
    loss = [t.float().sum() for t in outputs if t.requires_grad and t.is_floating_point()]
    parameters = [p for p in model.parameters() if p.requires_grad]
    if loss and parameters:
        try:
            torch.autograd.grad(sum(loss), parameters, allow_unused=True)  # type: ignore[arg-type]
        except Exception as error:
            return " ".join(str(error).split())[:160]
    return None
