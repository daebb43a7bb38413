"""A device beside the CPU that every machine has, to find code that mixes devices.

Its tensors are numbers on the CPU behind a wrapper that says it lives on the device `foreign` (torch's PrivateUse1). An
operator unwraps its arguments, runs on the CPU and wraps the results; it refuses CPU tensors beside foreign ones just
as CUDA does: single numbers, index tensors and copies between devices are let through, the rest is an error.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "foreign"
_COPIES = {"copy_", "_to_copy"}
_INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}


class Foreign(Tensor):
    """A tensor on the second device; `local` holds its numbers."""

    local: Tensor

    @staticmethod
    def __new__(cls, local: Tensor) -> Foreign:
        wrapper = Tensor._make_wrapper_subclass(
            cls, local.shape, local.stride(), local.storage_offset(), dtype=local.dtype, device=f"{NAME}:0",
            requires_grad=False,
        )  # fmt: skip
        wrapper.local = local
        return wrapper

    def __repr__(self) -> str:
        return f"Foreign({self.local})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        return return_and_correct_aliasing(func, args, kwargs, run(func, args, kwargs))


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operator on the second device."""
    name = func._schema.name.split("::")[-1]
    target = kwargs.get("device")
    if target is not None:
        kwargs["device"] = torch.device("cpu")
    _refuse_mixtures(name, args, kwargs)
    result = func(*tree_map(_unwrap, args), **tree_map(_unwrap, kwargs))
    if target is not None and torch.device(target).type == "cpu":
        return result
    if name == "copy_" and not isinstance(args[0], Foreign):
        return args[0]
    return tree_map(lambda value: Foreign(value) if isinstance(value, Tensor) else value, result)


def _unwrap(value: Any) -> Any:
    return value.local if isinstance(value, Foreign) else value


def _refuse_mixtures(name: str, args: Any, kwargs: dict[str, Any]) -> None:
    if name in _COPIES:
        return
    checked = (args[0], *args[2:]) if name in _INDEXED else args
    tensors = [value for value in tree_flatten((checked, kwargs))[0] if isinstance(value, Tensor)]
    if any(isinstance(t, Foreign) for t in tensors):
        strays = [t for t in tensors if not isinstance(t, Foreign) and t.ndim]
        if strays:
            raise RuntimeError(f"Expected all tensors to be on the same device: {name} got cpu and {NAME} tensors")


def setup() -> torch.device:
    """Register the device; once per process."""
    if torch._C._get_privateuse1_backend_name() != NAME:
        _setup_privateuseone_for_python_backend(NAME)
        library = torch.library.Library("_", "IMPL")
        library.fallback(lambda func, *args, **kwargs: run(func, args, kwargs), "PrivateUse1")
        globals()["_library"] = library  # the registration lives as long as this object
    return torch.device(NAME)
