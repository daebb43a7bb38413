"""The self-check: a removed network must compute what the masked one computes, or the group is locked.

One unit of every unlocked group is removed at once, then about a third of every group. Masked and removed network run
in lockstep: at every convolution and matrix product with a weight the two outputs are compared, and the removed
network goes on with the masked one's values. So rounding never adds up, a data-dependent choice (a detector's
proposals) is the same in both, and a difference names the layer it enters, hence the group. Four forward passes when
all is well.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from rlprune.channels.computed import graph_tensors
from rlprune.channels.forward import Forward, tensors_in, training_paths
from rlprune.channels.groups import ChannelGroups
from rlprune.channels.plan import PruningPlan
from rlprune.channels.surgery import masked_copy, removed_copy
from rlprune.channels.units import IntArray
from rlprune.errors import UserError
from rlprune.seeding import numpy_generator, torch_generator

CHECKS = ("on", "strict", "off")
_PRODUCTS = {"convolution": (1,), "_convolution": (1,), "mm": (0, 1), "bmm": (0, 1), "linear": (1,),
             "addmm": (1, 2), "baddbmm": (1, 2)}  # fmt: skip
_DIFFERS = "removing a channel changes more than that channel"
_TOLERANCES = {torch.float64: 1e-7, torch.float32: 1e-4}


def check_groups(
    model: nn.Module, groups: ChannelGroups, forward: Forward, strict: bool = False, training: bool = False
) -> ChannelGroups:
    """The groups with every one locked whose removal would not equal its masking on the example inputs.

    Args:
        model: the model the groups were traced from.
        groups: the groups; locked ones are left out.
        forward: the example inputs.
        strict: raise instead of locking.
        training: check the training-time paths (auxiliary heads), too.

    Raises:
        UserError: in strict mode, listing the groups that fail and why.
    """
    failed: dict[str, str] = {}
    for mode in (False, True) if training else (False,):
        failed.update(Checker(model, groups.with_locks(failed), forward, mode).failures())
    if failed and strict:
        lines = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise UserError(f"{len(failed)} channel groups fail the self-check ({lines}); lock them with keep=")
    return groups.with_locks(failed)


@dataclass(frozen=True)
class Difference:
    """What went wrong in a comparison: the reason in words, and the layers at which it showed."""

    reason: str
    layers: tuple[str, ...] = ()
    numeric: bool = False


class Checker:
    """Compares masked with removed networks of one model."""

    def __init__(self, model: nn.Module, groups: ChannelGroups, forward: Forward, training: bool = False) -> None:
        self.model = shaken(model)
        if training:
            training_paths(self.model)
        self.groups = groups
        self.forward = forward
        self.passes = 0
        self._double: tuple[nn.Module, Forward] | None = None

    def failures(self) -> dict[str, str]:
        """Group name -> reason, for every group that must be locked."""
        names = [group.name for group in self.groups.prunable if group.max_removable]
        failed: dict[str, str] = {}
        for share in (0.0, 0.3):
            while names:
                difference = self.compare(self.plan(names, share))
                if difference is None:
                    break
                found = self._culprits(names, share, difference)
                failed.update(found)
                names = [name for name in names if name not in found]
        return failed

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
        """The fewest units (share 0) or a share of the units of each group, chosen by the group's name."""
        removed = {}
        for name in names:
            group = self.groups[name]
            count = group.allowed(round(share * group.size))
            if not count:
                count = next(c for c in (group.allowed(n) for n in range(1, group.size + 1)) if c)
            chosen = numpy_generator(0, "check", name, str(share)).permutation(group.size)[:count]
            removed[name] = chosen.tolist()
        return PruningPlan(removed)

    def compare(self, plan: PruningPlan) -> Difference | None:
        """None if masked equals removed, else what is wrong; numeric differences are confirmed in double precision."""
        difference = self._compare(self.model, self.forward, plan)
        if difference is not None and difference.numeric:
            if self._double is None:
                self._double = copy.deepcopy(self.model).double(), self.forward.double()
            try:
                return self._compare(*self._double, plan)
            except (RuntimeError, TypeError):  # code that insists on a precision
                return difference
        return difference

    def _compare(self, model: nn.Module, forward: Forward, plan: PruningPlan) -> Difference | None:
        self.passes += 2
        masked = masked_copy(model, self.groups, plan, share=True)
        record = _Record(masked, self.groups)
        expected = _run(masked, forward, record)
        del masked
        removed = removed_copy(model, self.groups, plan, share=True)
        follow = _Follow(removed, self.groups, plan, record.outputs)
        try:
            outputs = _run(removed, forward, follow)
        except _Mismatch as mismatch:
            return Difference(str(mismatch), follow.at)
        except Exception as error:
            text = " ".join(str(error).split())[:160]
            reason = f"sizes are constants in the model's code: the smaller network does not run ({text})"
            return Difference(reason, follow.at)
        if follow.wrong:
            return Difference(f"{_DIFFERS}: layer {follow.wrong[0]} sees other values", tuple(follow.wrong), True)
        if len(follow.outputs):
            return Difference("the smaller network leaves out some layers", tuple(n for n, _ in follow.outputs if n))
        if len(expected) != len(outputs):
            return Difference("the smaller network gives another number of outputs")
        for a, b in zip(expected, outputs, strict=True):
            if a.shape != b.shape:
                return Difference(f"the smaller network's output has shape {tuple(b.shape)}, not {tuple(a.shape)}")
            if not close(a, b):
                return Difference(f"{_DIFFERS}: the outputs differ", numeric=True)
        return None


def _run(model: nn.Module, forward: Forward, mode: TorchDispatchMode) -> list[Tensor]:
    with torch.random.fork_rng(devices=[]), torch.no_grad(), mode:
        torch.manual_seed(0)
        return tensors_in(forward(model))


class _Mismatch(RuntimeError):
    """The removed network departs from the masked one's path or shapes."""


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every product with a weight of the model."""

    def __init__(self, model: nn.Module, groups: ChannelGroups) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        names = {layer.weight: layer.name for layer in groups.layers.values()}
        self._layers = {
            p.untyped_storage()._cdata: names[name] for name, p in model.named_parameters() if name in names
        }

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        places = _PRODUCTS.get(func._schema.name.split("::")[-1])
        if places is None:
            return func(*args, **(kwargs or {}))
        found = [self._layers.get(args[place].untyped_storage()._cdata) for place in places]
        name = next((layer for layer in found if layer is not None), None)
        if name is None:
            return func(*args, **(kwargs or {}))
        return self.layer(name, lambda: func(*args, **(kwargs or {})))

    def layer(self, name: str, run: Any) -> Tensor:
        raise NotImplementedError


class _Record(_Watch):  # type: ignore[no-untyped-call]
    def __init__(self, model: nn.Module, groups: ChannelGroups) -> None:
        super().__init__(model, groups)
        self.outputs: list[tuple[str, Tensor]] = []

    def layer(self, name: str, run: Any) -> Tensor:
        output: Tensor = run()
        self.outputs.append((name, output.clone()))  # in-place activations follow
        return output


class _Follow(_Watch):  # type: ignore[no-untyped-call]
    """Compares each layer's output with the recorded one, and goes on with the recorded one."""

    def __init__(
        self, model: nn.Module, groups: ChannelGroups, plan: PruningPlan, outputs: list[tuple[str, Tensor]]
    ) -> None:
        super().__init__(model, groups)
        self.outputs = outputs
        self.wrong: list[str] = []
        self.at: tuple[str, ...] = ()
        self._kept = groups.kept(plan)
        self._groups = groups

    def layer(self, name: str, run: Any) -> Tensor:
        if not self.outputs or self.outputs[0][0] != name:
            self.at = (name,)
            raise _Mismatch("the smaller network runs its layers in another order")
        self.at = (name,)
        output: Tensor = run()
        _, full = self.outputs.pop(0)
        expected = self._expected(name, full, output)
        if expected.shape != output.shape:
            raise _Mismatch(f"sizes are constants in the model's code (layer {name} gets another shape)")
        if not close(expected, output):
            self.wrong.append(name)
        if self.outputs:
            self.at = (name, self.outputs[0][0])
        return _like(expected, output)

    def _expected(self, name: str, full: Tensor, output: Tensor) -> Tensor:
        keep = self._rows(name)
        axes = [a for a in range(full.ndim) if full.ndim == output.ndim and full.shape[a] != output.shape[a]]
        if keep is None or len(axes) != 1 or output.shape[axes[0]] != len(keep) or keep[-1] >= full.shape[axes[0]]:
            return full
        return full.index_select(axes[0], torch.from_numpy(keep).to(full.device))

    def _rows(self, name: str) -> IntArray | None:
        """Which output channels of a layer stay, or None if all do."""
        layer = self._groups.layers[name]
        dim = int(layer.kind == "conv_transpose" and not layer.groups_follow_channels)
        keep = self._kept.get((layer.weight, dim))
        if keep is None:
            return None
        if layer.kind != "conv_transpose":
            return keep
        rows = np.arange(layer.shape[0] * layer.shape[1]).reshape(layer.shape[0], -1)
        return (
            rows[keep].ravel() if dim == 0 else np.concatenate([g * layer.shape[1] + keep for g in range(layer.groups)])
        )


def _like(values: Tensor, layout: Tensor) -> Tensor:
    """Values in the memory layout of another tensor, so that views of it go on working."""
    result = torch.empty_like(layout)
    result.copy_(values)
    return result


def close(a: Tensor, b: Tensor, tolerance: float | None = None) -> bool:
    """Equal up to rounding, relative to the largest value."""
    if a.numel() == 0:
        return True
    if not a.is_floating_point() and not a.is_complex():
        return bool(torch.equal(a, b))
    tolerance = tolerance or _TOLERANCES.get(a.dtype, 2e-2)
    scale = float(a.abs().max())
    if not np.isfinite(scale):
        return bool(torch.equal(a.isfinite(), b.isfinite())) and close(
            a.nan_to_num(0, 0, 0), b.nan_to_num(0, 0, 0), tolerance
        )
    return float((a - b).abs().max()) <= tolerance * max(scale, 1e-12)


def shaken(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode with random normalisation statistics, so that fresh initial values hide nothing.

    Weights are shared with the model; vectors and all-zero parameters are changed in the copy.
    """
    memo: dict[int, Any] = {id(p): p for p in model.parameters() if p.ndim > 1 and bool(p.any())}
    memo.update(graph_tensors(model))
    copied: nn.Module = copy.deepcopy(model, memo).eval()
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
            elif not bool(tensor.any()):
                tensor.add_((noise - 0.5) * 0.2)
            else:
                tensor.mul_(0.75 + 0.5 * noise)
    return copied
