"""A folded network computes what the network computes, and what cannot be folded is left alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rlprune.models import create_model
from rlprune.scoring.folding import foldable, folded


def lived_in(model: nn.Module) -> nn.Module:
    """Batch norms with statistics of their own."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.eval()


class Transposed(nn.Module):
    """A transposed and a grouped transposed convolution, each with its norm."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.up_norm = nn.ConvTranspose2d(3, 8, 2, stride=2), nn.BatchNorm2d(8)
        self.grouped, self.grouped_norm = nn.ConvTranspose2d(8, 4, 2, groups=2), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.grouped_norm(self.grouped(self.up_norm(self.up(x)).relu()))


class ReadTwice(nn.Module):
    """A skip taken before the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return self.norm(x) + x


class SharedNorm(ReadTwice):
    """One norm behind two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.second(self.norm(self.conv(x)).relu()))


class AsksItsNorm(ReadTwice):
    """Uses an attribute that an identity has not."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x)) * self.norm.weight.sum()


@pytest.mark.parametrize(("name", "norms"), [("resnet20", 19), ("mobilenet_v2", 52), ("transposed", 1)])
def test_the_function_stays_and_the_norms_go(name: str, norms: int) -> None:
    model = lived_in(Transposed() if name == "transposed" else create_model(name, num_classes=10, in_channels=3))
    x = torch.randn(4, 3, 32, 32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pairs = foldable(model, (x[:1],))
    small = folded(model, pairs)
    assert len(pairs) == norms
    assert all(isinstance(small.get_submodule(norm), nn.Identity) for norm in pairs.values())
    with torch.no_grad():
        wanted = model(x)
        torch.testing.assert_close(small(x), wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("make", [ReadTwice, SharedNorm, AsksItsNorm])
def test_what_would_change_the_function_is_not_folded(make: type[nn.Module]) -> None:
    model = lived_in(make())
    x = torch.randn(2, 3, 8, 8)
    assert foldable(model, (x,)) == {}
    with torch.no_grad():
        assert torch.equal(folded(model, {})(x), model(x))
