from __future__ import annotations

import pytest
import torch

from rlprune.errors import UserError
from rlprune.models import resolve_model


def parameters(spec: str) -> int:
    return sum(p.numel() for p in resolve_model(spec, num_classes=1, in_channels=3).parameters())


def test_sizes_are_the_published_ones() -> None:
    assert parameters("unet:norm=false") == pytest.approx(31.03e6, rel=1e-3)  # Ronneberger et al. 2015
    assert parameters("ternausnet") == pytest.approx(22.9e6, rel=2e-3)  # Iglovikov & Shvets 2018
    assert parameters("unet:width=16") < parameters("unet") / 15


@pytest.mark.parametrize("spec", ["unet:width=4", "unet:width=4,norm=false", "ternausnet:width=2"])
@pytest.mark.parametrize("size", [(32, 32), (30, 45)])
def test_the_output_has_the_size_of_the_input(spec: str, size: tuple[int, int]) -> None:
    model = resolve_model(spec, num_classes=3, in_channels=1).train()
    output = model(torch.randn(2, 1, *size))
    assert output.shape == (2, 3, *size)
    output.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_ternausnet_has_no_batch_norm() -> None:
    modules = resolve_model("ternausnet:width=2", num_classes=2, in_channels=3).modules()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in modules)


def test_widths_below_one_are_refused() -> None:
    for name in ("unet", "ternausnet"):
        with pytest.raises(UserError, match="must be at least 1"):
            resolve_model(f"{name}:width=0", num_classes=2, in_channels=3)
