"""Where a smaller network stopped: the modules that it was in, which can be run again alone.

Whether another number would have let it go on shows there at a fraction of a forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rlprune.channels.forward import Forward, OperatorMode
from rlprune.channels.surgery import Changes, set_numbers
from rlprune.seeding import seeded


@dataclass(frozen=True)
class Call:
    """A call of a module that did not come to its end."""

    path: str
    module: nn.Module
    forward: Forward


class _Count(OperatorMode):
    """Counts operators."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.steps += 1
        return func(*args, **(kwargs or {}))


class Stop:
    """The calls, innermost first, in which a network raised an error."""

    def __init__(self, model: nn.Module, error: BaseException, changes: Changes) -> None:
        """Note them; `changes` are those of the model's numbers, as `ChannelGroups.attributes_after` gives them."""
        self._model = model
        self._changes = changes
        self._reached: dict[str, int] = {}
        self.calls: list[Call] = []
        paths = {id(module): path for path, module in model.named_modules()}
        trace = error.__traceback__
        while trace is not None:
            seen = trace.tb_frame.f_locals
            if trace.tb_frame.f_code is nn.Module._call_impl.__code__ and id(seen["self"]) in paths:
                forward = Forward(tuple(seen["args"]), dict(seen["kwargs"]))
                self.calls.insert(0, Call(paths[id(seen["self"])], seen["self"], forward))
            trace = trace.tb_next

    def gets(self, path: str, original: nn.Module, changes: Changes) -> int | None:
        """How many operators more run, inside the call around a module, with these numbers.

        Returns:
            0 if none do, -1 if the call comes to its end, None if only a run of the whole network can tell.
        """
        around = [call for call in self.calls if call.path and f"{path}.".startswith(f"{call.path}.")]
        if not around:
            return None
        call = around[0]
        if call.path not in self._reached:
            self._reached[call.path] = self._run(call)
        set_numbers(self._model, changes, original, self._changes)
        try:
            reached = self._run(call)
        finally:
            set_numbers(self._model, self._changes, original, changes)
        return reached if reached < 0 else max(reached - self._reached[call.path], 0)

    @staticmethod
    def _run(call: Call) -> int:
        count = _Count()
        try:
            with seeded(0), torch.no_grad(), count:
                call.forward(call.module)
        except Exception:
            return count.steps
        return -1
