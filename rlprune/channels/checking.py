"""The self-check: a removed network must compute what the masked one computes, or the group is locked.

About a third of every unlocked group is removed at once in evaluation mode, and one unit of every group in training
mode, where the smaller network must also give gradients. Four forward passes when all is well; see `lockstep` for how
the two networks are compared. A group that fails is first tried with other plain numbers of the model following it
(see `attributes`), and locked if none of them helps.

Approximate groups are held to running and training, and to outputs of the same shapes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from rlprune.channels.attributes import Choice
from rlprune.channels.copying import duplicate
from rlprune.channels.forward import Forward, tensors_in, training_paths
from rlprune.channels.groups import ChannelGroups
from rlprune.channels.lockstep import DIFFERS, Follow, Mismatch, Record, close
from rlprune.channels.plan import PruningPlan
from rlprune.channels.surgery import masked_copy, removed_copy
from rlprune.errors import UserError
from rlprune.seeding import numpy_generator, torch_generator

CHECKS = ("on", "strict", "off")
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
    """What went wrong in a comparison: the reason in words, and the layers at which it showed."""

    reason: str
    layers: tuple[str, ...] = ()
    numeric: bool = False


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
        self._follow(dict.fromkeys(choices, 0))
        self._tries = TRIES
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
                found = self._culprits(left, share, difference)
                locked = {name: reason for name, reason in found.items() if not self._other_numbers(name, share)}
                failed.update({name: self._named(name, reason) for name, reason in locked.items()})
                left = [name for name in left if name not in locked]
        return failed

    def _other_numbers(self, name: str, share: float) -> bool:
        """Whether a group that fails passes once other numbers follow; they then do."""
        before = self.chosen
        plan = self.plan([name], share)
        for choice, option in before.items():
            if name not in choice.groups:
                continue
            for other in range(len(choice.options) + 1):
                if other == option or self._tries <= 0:
                    continue
                self._tries -= 1
                self._follow({**before, choice: other})
                if self.compare(plan) is None:
                    return True
        self._follow(before)
        return False

    def _named(self, name: str, reason: str) -> str:
        """A reason with the plain numbers that stand in the way."""
        found = [choice for choice in self.chosen if name in choice.groups]
        if not found or DIFFERS in reason:
            return reason
        words = ", ".join(f"{'.'.join(filter(None, (c.module, c.name)))} = {c.value}" for c in found[:3])
        return f"{reason}; numbers that may stand for it: {words}"

    def _culprits(self, names: list[str], share: float, difference: Difference) -> dict[str, str]:
        """At least one group to lock, given that all of `names` together fail."""
        if len(names) == 1:
            return {names[0]: difference.reason}
        suspects = [n for n in names if set(difference.layers) & {*self.groups[n].consumers, *self.groups[n].producers}]
        if suspects and len(suspects) <= 8 and len(suspects) < len(names):
            alone = {n: self.compare(self.plan([n], share)) for n in suspects}
            found = {n: result.reason for n, result in alone.items() if result is not None}
            if found:
                return found
        half = len(names) // 2
        for part in (names[:half], names[half:]):
            result = self.compare(self.plan(part, share))
            if result is not None:
                return self._culprits(part, share, result)
        return dict.fromkeys(names, f"together with other groups: {difference.reason}")

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

    def compare(self, plan: PruningPlan) -> Difference | None:
        """None if masked equals removed, else what is wrong; numeric differences are confirmed in double precision."""
        difference = self._compare(self.model, self.forward, plan)
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

    def _compare(self, model: nn.Module, forward: Forward, plan: PruningPlan) -> Difference | None:
        if self._expected is not None and model is self.model and self._expected[0] == plan:
            products, expected = self._expected[1]
        else:
            products, expected = self._masked(model, forward, plan)
        self._expected = None
        exact = not any(self.groups[name].approximate for name in plan.removed)
        self.passes += 1
        removed = removed_copy(model, self.groups, plan, share=True)
        follow = Follow(removed, self.groups, plan, products if exact else None)
        mode = "in training mode, " if self.training else ""
        try:
            with torch.set_grad_enabled(self.training):
                outputs = self._outputs(removed, forward, follow)
        except Mismatch as mismatch:
            return Difference(f"{mode}{mismatch}", follow.at)
        except Exception as error:
            text = " ".join(str(error).split())[:160]
            reason = f"{mode}sizes are constants in the model's code: the smaller network does not run ({text})"
            return Difference(reason, follow.at)
        if follow.wrong:
            return Difference(f"{mode}{DIFFERS}: layer {follow.wrong[0]} sees other values", tuple(follow.wrong), True)
        if follow.left:
            left = tuple(product.layer for product in follow.left)
            return Difference(f"{mode}the smaller network leaves out some layers", left)
        return self._compare_outputs(expected, outputs, exact, mode) or self._gradients(model, removed, outputs, plan)

    @staticmethod
    def _compare_outputs(expected: list[Tensor], outputs: list[Tensor], exact: bool, mode: str) -> Difference | None:
        if len(expected) != len(outputs):
            return Difference(f"{mode}the smaller network gives another number of outputs")
        for a, b in zip(expected, outputs, strict=True):
            if a.shape != b.shape:
                return Difference(f"{mode}an output has shape {tuple(b.shape)} instead of {tuple(a.shape)}")
            if exact and not close(a, b.detach()):
                return Difference(f"{mode}{DIFFERS}: the outputs differ", numeric=True)
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
        return Difference(f"in training mode, sizes are constants in the model's code: gradients fail ({error})")


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


def shaken(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode with random normalisation statistics, so that fresh initial values hide nothing.

    Weights are shared with the model; vectors and all-zero parameters are changed in the copy.
    """
    memo: dict[int, Any] = {id(p): p for p in model.parameters() if p.ndim > 1 and bool(p.any())}
    copied = duplicate(model, memo).eval()
    generator = torch_generator(0, "check", "statistics")
    shared = {id(p) for p in model.parameters()}
    with torch.no_grad():
        for name, tensor in [*copied.named_parameters(), *copied.named_buffers()]:
            leaf = name.rpartition(".")[2]
            if id(tensor) in shared or not tensor.is_floating_point() or tensor.numel() == 0:
                continue
            if not isinstance(tensor, nn.Parameter) and leaf not in ("weight", "bias", "running_mean", "running_var"):
                continue
            noise = torch.rand(tensor.shape, generator=generator).to(tensor)
            if leaf == "running_var":
                tensor.mul_(0.5 + noise)
            elif float(tensor.abs().max()) < 0.02:  # also what starts next to zero, as a layer's scale does
                tensor.add_((noise - 0.5) * 0.2)
            else:
                tensor.mul_(0.75 + 0.5 * noise)
    return copied
