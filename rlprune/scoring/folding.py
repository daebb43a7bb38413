"""Batch norms folded into the convolutions before them: the same function in fewer passes over memory.

Only for scoring. A folded network has other parameters than the one it came from, so nothing is pruned, repaired or
trained on it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from rlprune.channels.copying import duplicate
from rlprune.channels.forward import tensors_in
from rlprune.measuring.following import following_norms
from rlprune.scoring.evaluation import evaluating

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
AGREEMENT = 1e-3  # of the folded network's outputs on the example, relative to their largest


def foldable(model: nn.Module, example: tuple[Any, ...]) -> dict[str, str]:
    """Convolution -> the batch norm that can be folded into it, by module name.

    A norm counts if it reads the convolution's output. Whether something else reads that output too, or one of the two
    runs more than once, is seen from the folded network's outputs: if they differ, nothing is foldable.

    Args:
        model: Left as it was.
        example: Positional arguments of one call.
    """
    modules = dict(model.named_modules())
    convolutions = {name for name, module in modules.items() if _folds(module)}
    found = following_norms(model, convolutions, example)
    pairs = {conv: norm for conv, norm in found.items() if type(modules[norm]) in NORMS}
    if len(set(pairs.values())) < len(pairs):
        return {}
    with evaluating(model), torch.inference_mode():
        wanted = tensors_in(model(*example))
        try:
            given = tensors_in(folded(model, pairs)(*example))
        except (AttributeError, RuntimeError, TypeError):  # it asks its norms for more than their output
            return {}
    return pairs if len(wanted) == len(given) and all(map(_agree, wanted, given)) else {}


def folded(model: nn.Module, pairs: Mapping[str, str]) -> nn.Module:
    """A copy, in eval mode, with these norms folded into these convolutions and an identity in each norm's place.

    Args:
        model: Of the architecture that `foldable` looked at; left as it was. Tensors that stay as they are are shared.
        pairs: From `foldable`.
    """
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    copied = duplicate(model, memo).eval()
    fold(copied, pairs)
    return copied


@torch.no_grad()
def fold(
    model: nn.Module, pairs: Mapping[str, str], like: nn.Module | None = None, changed: Collection[str] = ()
) -> None:
    """Fold these norms into these convolutions in place, and put an identity where each norm was.

    Args:
        model: Of the architecture that `foldable` looked at, in eval mode.
        pairs: From `foldable`.
        like: The folded network that `model` is a variant of; what they have in common is taken from it.
        changed: Modules in which they differ.
    """
    for conv_name, norm_name in pairs.items():
        conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
        assert isinstance(conv, CONVOLUTIONS) and isinstance(norm, NORMS)
        if like is not None and conv_name not in changed and norm_name not in changed:
            same = like.get_submodule(conv_name)
            assert isinstance(same, CONVOLUTIONS)
            conv.weight, conv.bias = same.weight, same.bias
        else:
            assert norm.running_mean is not None and norm.running_var is not None
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight,
                conv.bias,
                norm.running_mean,
                norm.running_var,
                norm.eps,
                norm.weight if norm.affine else None,
                norm.bias if norm.affine else None,
                transpose=conv.transposed,
            )
        parent, _, leaf = norm_name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, nn.Identity())


def _folds(module: nn.Module) -> bool:
    """Whether it is a plain convolution (grouped transposed ones lay out their weight in another way)."""
    return (
        isinstance(module, CONVOLUTIONS)
        and module._parameters.get("weight") is not None
        and not (module.transposed and module.groups > 1)
    )


def _agree(wanted: torch.Tensor, given: torch.Tensor) -> bool:
    if wanted.shape != given.shape:
        return False
    size = float(wanted.abs().max()) if wanted.numel() else 0.0
    return torch.allclose(given.double(), wanted.double(), rtol=0.0, atol=AGREEMENT * size)
