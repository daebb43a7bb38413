"""Which layout and precision train a network fastest here: found by timing a few steps of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from rlprune.channels.copying import duplicate
from rlprune.errors import UserError
from rlprune.scoring.evaluation import evaluating
from rlprune.scoring.pace import LAYOUTS, Pace
from rlprune.tasks.base import Batch, Task, cut
from rlprune.training.settings import TrainSettings

WORTH = 2**27  # input numbers a run must look at (45,000 images of CIFAR) before timing pays
IMAGES = 16  # in a timed step
STEPS = 2
GAIN = 0.85  # share of the usual way's time below which another one is taken: timings vary

Loss = Callable[[nn.Module, Batch], Tensor]


def choose_pace(
    model: nn.Module,
    task: Task,
    batch: Batch,
    settings: TrainSettings,
    device: torch.device,
    *,
    steps: float = math.inf,
    loss: Loss | None = None,
) -> Pace:
    """Layout and precision for training `model`: as the settings say, and the fastest where they say "auto".

    Without timing it is the usual layout in full precision, so short runs depend on nothing but their arguments. For
    longer ones give `steps`, or write the choice into the settings (`layout`, `amp`) once and keep it: two timings may
    come out differently.

    Args:
        model: Left as it is.
        task: Calls it.
        batch: The first one of the training.
        settings: What may be chosen.
        device: Where to compute.
        steps: Of the training, or of all that will be done with this choice. Few are not worth a timing.
        loss: What a step differentiates; the task's loss by default.

    Raises:
        UserError: the settings ask for what the network or the device cannot do.
    """
    usual = Pace.usual(device)
    spatial = any(isinstance(leaf, Tensor) and leaf.dim() == 4 for leaf in tree_leaves(batch[0]))
    layouts = (*dict.fromkeys((usual.layout, *LAYOUTS)),) if settings.layout == "auto" else (settings.layout,)
    layouts = tuple(name for name in layouts if name == "contiguous" or (spatial and _takes(model, task, batch, name)))
    if not layouts and spatial:
        raise UserError(f"this network cannot be trained in layout {settings.layout!r}; set layout to auto")
    amps = (False, True) if settings.amp == "auto" else (bool(settings.amp),)
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        if settings.amp is True:
            raise UserError("amp needs a device with bfloat16, which this one has not; set amp to auto or off")
        amps = (False,)
    ways = [Pace(layout, amp) for amp in amps for layout in layouts or ("contiguous",)]
    work = sum(leaf.numel() for leaf in tree_leaves(batch[0]) if isinstance(leaf, Tensor))
    if len(ways) == 1 or steps * work < WORTH:
        return ways[0]
    return fastest(model, loss or task.loss, cut(batch, slice(IMAGES)), ways, device)


def _takes(model: nn.Module, task: Task, batch: Batch, layout: str) -> bool:
    """Whether the network runs in a layout: one that calls `view` behind a convolution does not."""
    way = Pace(layout)
    two = way.arranged(cut(batch, slice(2)))
    put_back = lay_out([model], way)
    try:
        with evaluating(model), torch.no_grad():
            model(*task.inputs(two))
    except RuntimeError:
        return False
    finally:
        put_back()
    return True


def fastest(
    model: nn.Module, loss: Loss, batch: Batch, ways: Sequence[Pace], device: torch.device, gain: float = GAIN
) -> Pace:
    """The way in which a step of a copy of `model` takes least; the first unless another is clearly faster."""
    times: dict[Pace, float] = {}
    generators = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=generators):
        for way in ways:
            network = duplicate(model).to(memory_format=way.memory_format).train()
            spent = [_step(network, loss, way, batch, device)]  # the first warms up
            if not times or spent[0] < 2 * min(times.values()):
                spent = [_step(network, loss, way, batch, device) for _ in range(STEPS)]
            times[way] = min(spent)
    best = min(ways, key=times.__getitem__)
    return best if times[best] < gain * times[ways[0]] else ways[0]


def _step(network: nn.Module, loss: Loss, way: Pace, batch: Batch, device: torch.device) -> float:
    """Seconds of one step; on a CPU the processor's, so that what else the machine does falls on none of the ways."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    _wait(device)
    start = clock()
    arranged = way.arranged(batch)
    with way.precision(device):
        value = loss(network, arranged)
    value.backward()  # type: ignore[no-untyped-call]
    _wait(device)
    return clock() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def lay_out(models: Iterable[nn.Module | None], way: Pace) -> Callable[[], None]:
    """Bring the weights of some networks into a layout; the result puts them back."""
    changed = [
        model
        for model in models
        if model is not None and any(p.dim() == 4 and p.is_contiguous() for p in model.parameters())
    ]
    if way.layout == "contiguous":
        return lambda: None
    for model in changed:
        model.to(memory_format=way.memory_format)

    def back() -> None:
        for model in changed:
            model.to(memory_format=torch.contiguous_format)

    return back
