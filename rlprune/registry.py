"""A name -> thing table with a decorator, and errors that suggest the closest name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from rlprune.errors import unknown_name

T = TypeVar("T")


class Registry(Generic[T]):
    """Things of one kind, by name.

    >>> shapes: Registry[type] = Registry("shape")
    >>> @shapes.register("round")
    ... class Round: ...
    >>> shapes.names()
    ['round']
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._things: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that enters a thing under `name`; a name can be taken once."""

        def enter(thing: T) -> T:
            if name in self._things:
                raise ValueError(f"{self.kind} {name!r} is registered already")
            self._things[name] = thing
            return thing

        return enter

    def get(self, name: str) -> T:
        """The thing called `name`; raises UserError naming the closest known one."""
        try:
            return self._things[name]
        except KeyError:
            raise unknown_name(self.kind, name, self._things) from None

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._things)
