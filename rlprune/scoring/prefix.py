"""Score many variants of one network without computing again what comes before the first difference.

Modules that run wholly before the first changed one return the output they gave in the unchanged network. Only outputs
that something later still reads are kept in memory; the others are replaced by hollow tensors of the same shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

Call = tuple[Any, ...]
Slice = tuple[int, Tensor]


class _Finished(Exception):
    pass


class PrefixCache:
    """Outputs of a network's first modules on fixed inputs.

    Args:
        model: The unchanged network, in eval mode. It is left as it was.
        example: Positional arguments of one call on a single example, to see what runs when.
        calls: Gives the inputs that the variants will be run on, always the same, a tuple a batch.
        limit: Bytes to keep at most; batches beyond are computed from the start.
    """

    def __init__(
        self, model: nn.Module, example: Call, calls: Callable[[], Iterable[Call]], limit: int = 2 * 2**30
    ) -> None:
        self._model, self._example, self._calls, self._limit = model, example, calls, limit
        self._start: dict[str, int] = {}
        self._end: dict[str, int] = {}
        self._outputs: dict[str, list[Any]] = {}  # of every module on the example
        self._overwritten: set[str] = set()  # modules into whose output something writes afterwards
        self._result = self._trace()
        self._position = 0
        self._prefix: tuple[str, ...] = ()
        self._live: set[str] = set()
        self._kept: dict[int, dict[str, list[Any]]] = {}  # batch -> module -> an output a call

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that return what they returned before."""
        return self._prefix

    @property
    def bytes(self) -> int:
        """Memory held."""
        tensors = [t for kept in self._kept.values() for t in tree_flatten(kept)[0] if isinstance(t, Tensor)]
        return sum(t.untyped_storage().nbytes() for t in tensors)

    def position(self, changed: Collection[str]) -> int:
        """When the first of these modules starts; changes are cheapest to visit in this order."""
        return min((self._start[self._started(name)] for name in changed), default=0)

    def advance(self, changed: Collection[str], sliced: Collection[str] = ()) -> None:
        """Prepare for variants that differ in the modules of these names, and in no other.

        Args:
            changed: The modules that differ.
            sliced: Those of them whose output, before any of the others runs, only loses channels.

        Raises:
            ValueError: if it is before the last one's position; visit changes in order.
        """
        position = self.position(changed)
        if position < self._position:
            raise ValueError("the prefix cache moves forwards only; visit changes in the order of `position`")
        others = [name for name in changed if name not in sliced]
        reached = self.position(others) if others else position
        prefix = tuple(self._before("", position)) + tuple(n for n in sliced if self._end.get(n, reached) < reached)
        self._position = position
        if set(prefix) == set(self._prefix):
            return
        live = {name for name in prefix if self._read(name, prefix)}
        if not self._same(prefix, live):
            live = set(prefix)
        if any(name in self._prefix and name not in self._live for name in live):  # it was not kept; start again
            self._prefix, self._live, self._kept = (), set(), {}
        new = [name for name in prefix if name not in self._prefix]
        last = max(new, key=lambda name: self._end[name], default="")
        kept: dict[int, dict[str, list[Any]]] = {}
        used = 0
        with torch.inference_mode():
            for batch, call in enumerate(self._calls()):
                if used > self._limit:
                    break
                known = self._kept.get(batch)
                found = self._record(known, call, new if known else list(prefix), live, last) if new else {}
                for name in prefix:
                    if name not in found:
                        outputs = (known or {})[name]
                        found[name] = outputs if name in live else tree_map(_hollow, outputs)
                kept[batch] = found
                used += sum(t.untyped_storage().nbytes() for t in tree_flatten(found)[0] if isinstance(t, Tensor))
        self._prefix, self._live, self._kept = prefix, live, kept

    @contextmanager
    def attached(self, variant: nn.Module, kept: Mapping[str, Slice] | None = None) -> Iterator[Callable[[int], None]]:
        """Let a variant's first modules answer from memory; the result says which batch comes next.

        Args:
            variant: The changed network.
            kept: For the sliced modules: axis and positions of the channels that the variant has left.
        """
        place: dict[str, int] = dict.fromkeys(self._prefix, 0)
        current: dict[str, list[Any]] = {}

        def select(batch: int) -> None:
            current.clear()
            current.update(self._kept.get(batch, {}))
            place.update(dict.fromkeys(self._prefix, 0))

        with self._answering(variant, self._prefix, current.get, place, self._live, kept):
            yield select

    def _trace(self) -> list[Any]:
        """Run once on the example: when every module first starts and last ends, what it gives, and if that stays."""
        clock = 0
        given: list[tuple[str, Tensor, int]] = []

        def starts(name: str) -> Callable[..., None]:
            def hook(*_: Any) -> None:
                nonlocal clock
                clock += 1
                self._start.setdefault(name, clock)

            return hook

        def ends(name: str) -> Callable[..., None]:
            def hook(_: nn.Module, __: Any, output: Any) -> None:
                nonlocal clock
                clock += 1
                self._end[name] = clock
                self._outputs.setdefault(name, []).append(tree_map(_copy, output))
                given.extend((name, t, t._version) for t in tree_flatten(output)[0] if isinstance(t, Tensor))

            return hook

        with ExitStack() as hooks, torch.no_grad():  # in inference mode tensors do not count writes
            for name, module in self._model.named_modules():
                hooks.enter_context(module.register_forward_pre_hook(starts(name)))
                hooks.enter_context(module.register_forward_hook(ends(name)))
            result = self._model(*self._example)
        self._overwritten = {name for name, tensor, version in given if tensor._version != version}
        return tree_flatten(result)[0]

    def _started(self, name: str) -> str:
        """The module, or the innermost one around it that is called (its parameters may be used by a function)."""
        while name not in self._start:
            name = name.rpartition(".")[0]
        return name

    def _before(self, name: str, position: int) -> Iterator[str]:
        """The largest modules inside `name` whose last call ends before `position`."""
        for child, _ in self._model.get_submodule(name).named_children():
            path = f"{name}.{child}" if name else child
            if path in self._end and self._end[path] < position:
                yield path
            elif path not in self._end or self._start[path] < position:
                yield from self._before(path, position)

    def _read(self, name: str, prefix: tuple[str, ...]) -> bool:
        """Whether anything behind the prefix reads this module's output."""
        return not self._same(prefix, {other for other in prefix if other != name})

    def _same(self, prefix: tuple[str, ...], live: set[str]) -> bool:
        """Whether the network gives its result on the example when of its prefix only `live` gives what it should."""
        spoiled = partial(_hollow, fill=math.nan)  # whatever reads it
        outputs = {n: self._outputs[n] if n in live else tree_map(spoiled, self._outputs[n]) for n in prefix}
        place = dict.fromkeys(prefix, 0)
        try:
            with torch.inference_mode(), self._answering(self._model, prefix, outputs.get, place, live):
                result = tree_flatten(self._model(*self._example))[0]
        except (RuntimeError, ValueError, IndexError):  # it writes into the tensor, or looks at values
            return False
        pairs = zip(result, self._result, strict=True)
        return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)

    def _record(
        self, known: dict[str, list[Any]] | None, call: Call, wanted: list[str], live: set[str], last: str
    ) -> dict[str, list[Any]]:
        """Outputs of the modules that join the prefix, computed from what is known of a batch."""
        found: dict[str, list[Any]] = {name: [] for name in wanted}

        def keep(name: str) -> Callable[..., None]:
            def hook(_: nn.Module, __: Any, output: Any) -> None:
                found[name].append(tree_map(_copy if name in live else _hollow, output))
                if name == last and len(found[name]) == len(self._outputs[name]):
                    raise _Finished

            return hook

        place = dict.fromkeys(self._prefix, 0)
        answering = self._answering(self._model, self._prefix if known else (), (known or {}).get, place, self._live)
        with suppress(_Finished), ExitStack() as hooks, answering:
            for name in wanted:
                hooks.enter_context(self._model.get_submodule(name).register_forward_hook(keep(name)))
            self._model(*call)
        return found

    @contextmanager
    def _answering(
        self,
        model: nn.Module,
        names: Iterable[str],
        answers: Callable[[str], list[Any] | None],
        place: dict[str, int],
        live: Collection[str],
        kept: Mapping[str, Slice] | None = None,
    ) -> Iterator[None]:
        """Let modules return, call after call, what `answers` gives for their name; None lets them compute."""

        def answer(name: str, module: nn.Module) -> Callable[..., Any]:
            compute = module.forward

            def forward(*arguments: Any, **keywords: Any) -> Any:
                outputs = answers(name)
                if outputs is None:
                    return compute(*arguments, **keywords)
                output = outputs[place[name]]
                place[name] += 1
                if kept and name in kept:
                    axis, positions = kept[name]
                    return (
                        _selected(output, axis, positions) if name in live else output.narrow(axis, 0, len(positions))
                    )
                return tree_map(_copy, output) if name in live and name in self._overwritten else output

            return forward

        modules = [(name, model.get_submodule(name)) for name in names]
        own = [vars(module).get("forward") for _, module in modules]
        for name, module in modules:
            module.forward = answer(name, module)
        try:
            yield
        finally:
            for (_, module), forward in zip(modules, own, strict=True):
                if forward is None:
                    del module.forward
                else:
                    module.forward = forward


def _selected(output: Tensor, axis: int, positions: Tensor) -> Tensor:
    """Some channels, in the memory format of the whole."""
    if output.dim() == 4 and output.is_contiguous(memory_format=torch.channels_last) and axis == 1:
        return output.permute(0, 2, 3, 1).index_select(3, positions).permute(0, 3, 1, 2)
    return output.index_select(axis, positions)


def _copy(value: Any) -> Any:
    """A copy: what reads it may work in place."""
    return value.clone() if isinstance(value, Tensor) else value


def _hollow(value: Any, fill: float = 0.0) -> Any:
    """A tensor of the same shape that takes no memory and cannot be written to."""
    if not isinstance(value, Tensor):
        return value
    one = torch.full((), fill if value.is_floating_point() else 0, dtype=value.dtype, device=value.device)
    return one.expand(value.shape)
