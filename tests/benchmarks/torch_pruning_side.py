"""What Torch-Pruning makes of a model: its times, how much it narrows, and whether its network is right.

Right means what it means for this engine: the pruned network computes what the full network computes with the same
channels set to zero. Which channels those are is recorded from Torch-Pruning's own groups while it prunes.
"""

from __future__ import annotations

import copy
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlprune.channels import ChannelGroups
from rlprune.channels.copying import shaken
from rlprune.channels.forward import Forward, tensors_in
from rlprune.channels.lockstep import close
from rlprune.cost import CostModel

LIMIT_S = 60


class Selection:
    """The original numbers of the channels that are gone, by module and side."""

    def __init__(self, model: nn.Module) -> None:
        self._names = {module: name for name, module in model.named_modules()}
        self._left: dict[tuple[str, str], np.ndarray] = {}
        self._gone: dict[tuple[str, str], list[int]] = {}

    def add(self, module: Any, side: str, indices: list[int]) -> None:
        """Note a cut, given in the numbers of what is left."""
        if module not in self._names or not isinstance(getattr(module, "weight", None), Tensor):
            return
        key = (self._names[module], side)
        size = max([getattr(module, a) for a in _SIZES[side] if hasattr(module, a)] or [len(module.weight)])
        left = self._left.get(key, np.arange(size))
        self._gone.setdefault(key, []).extend(left[indices].tolist())
        self._left[key] = np.delete(left, indices)

    def mask(self, model: nn.Module) -> nn.Module:
        """A copy of the full model with these channels at zero."""
        model = copy.deepcopy(model)
        modules = dict(model.named_modules())
        with torch.no_grad():
            for (name, side), gone in self._gone.items():
                module: Any = modules[name]
                grouped = getattr(module, "groups", 1) > 1
                rows = side == "prune_out_channels" or not isinstance(module, (nn.Linear, nn.modules.conv._ConvNd))
                dim = int(rows == getattr(module, "transposed", False))  # a transposed kernel is (in, out, ...)
                if not (grouped and dim == 1):
                    module.weight.index_fill_(dim, torch.tensor(gone), 0)
                if rows and getattr(module, "bias", None) is not None:
                    module.bias.index_fill_(0, torch.tensor(gone), 0)
        return model


_SIZES = {
    "prune_out_channels": ("out_channels", "out_features", "num_features"),
    "prune_in_channels": ("in_channels", "in_features", "num_features"),
}


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise TimeoutError after some processor seconds, again and again until it gets through (Unix, main thread)."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"no result within {seconds} processor seconds")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def columns(model: nn.Module, inputs: tuple[Any, ...], groups: ChannelGroups, clock: Callable[[], float]) -> str:
    """Seconds to build its graph, milliseconds to prune 30 %, share of the MACs it narrowed, and the verdict."""
    try:
        import torch_pruning as tp
    except ImportError:
        return "- | - | - | not installed"
    full = copy.deepcopy(shaken(model))  # shaken shares weights
    model = copy.deepcopy(full)
    outputs = {g.name for g in groups if g.locked == "it is an output of the model"}
    ignored = [module for name, module in model.named_modules() if name in outputs]
    wide = {name: layer.shape for name, layer in groups.layers.items()}
    selection = Selection(model)
    try:
        with limited(LIMIT_S):
            start = clock()
            pruner = tp.pruner.BasePruner(
                model, inputs, importance=tp.importance.RandomImportance(), pruning_ratio=0.3,
                ignored_layers=ignored,
            )  # fmt: skip
            graph = clock() - start
            prune = 0.0
            steps = pruner.step(interactive=True)
            while True:
                start = clock()
                group = next(steps, None)
                if group is None:
                    break
                cuts = [(item[0].target.module, item[0].handler.__name__, _plain(item[1])) for item in group]
                for cut in cuts:
                    selection.add(*cut)
                group.prune()
                prune += clock() - start
    except TimeoutError as error:  # ours, from `limited`
        return f"- | - | - | {error}"
    except Exception as error:
        return f"- | - | - | raises {_words(error)}"
    modules = dict(model.named_modules())
    narrower = [n for n, shape in wide.items() if n in modules and modules[n].weight.shape[0] < shape[0]]
    share = sum(groups.layers[name].macs for name in narrower) / CostModel(groups).macs()
    verdict = _verdict(full.double(), model.double(), Forward(inputs).double(), selection)
    return f"{graph:.2f} | {1e3 * prune:.0f} | {100 * share:.1f} % | {verdict}"


def _verdict(full: nn.Module, pruned: nn.Module, forward: Forward, selection: Selection) -> str:
    with torch.no_grad():
        try:
            found = tensors_in(forward(pruned.eval()))
        except Exception as error:
            return f"pruned network raises {_words(error)}"
        expected = tensors_in(forward(selection.mask(full)))
    same = len(found) == len(expected) and all(
        a.shape == b.shape and close(a, b, 1e-6) for a, b in zip(expected, found, strict=True)
    )
    return "equals its mask" if same else "WRONG: runs, and differs from its mask"


def _plain(indices: Any) -> list[int]:
    """Indices without the root index that Torch-Pruning carries along."""
    return [int(getattr(index, "idx", index)) for index in indices]


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:80]}".replace("|", "/")
