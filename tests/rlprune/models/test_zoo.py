from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rlprune.errors import UserError
from rlprune.models import create_model, list_models, resolve_model


def macs(model: torch.nn.Module, *shape: int) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, *shape))
    return counter.get_total_flops() // 2


# Published figures: Li et al. 2016 (VGG-16, ResNet-56, ResNet-110), He et al. 2016 (depths)
@pytest.mark.parametrize(
    ("name", "million_macs", "million_parameters"),
    [
        ("vgg16", 313.5, 14.99),
        ("resnet20", 40.55, 0.270),
        ("resnet56", 125.49, 0.853),
        ("resnet110", 252.9, 1.73),
    ],
)
def test_costs_are_the_published_ones(name: str, million_macs: float, million_parameters: float) -> None:
    model = create_model(name)
    parameters = sum(p.numel() for p in model.parameters())
    assert macs(model, 3, 32, 32) / 1e6 == pytest.approx(million_macs, rel=2e-4)
    assert parameters / 1e6 == pytest.approx(million_parameters, rel=2e-3)


def test_width_of_vgg_scales_its_macs_by_its_square() -> None:
    half = macs(resolve_model("vgg16:width=0.5", num_classes=10, in_channels=3), 3, 32, 32)
    assert half / macs(create_model("vgg16"), 3, 32, 32) == pytest.approx(0.25, rel=0.02)
    with pytest.raises(UserError, match="option width of vgg16 is 0"):
        resolve_model("vgg16:width=0", num_classes=10, in_channels=3)


CLASSIFIERS = [name for name in list_models() if not name.startswith(("unet", "ternausnet"))]


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_classifier_takes_both_channel_counts_and_any_class_count(name: str, channels: int) -> None:
    model = create_model(name, num_classes=7, in_channels=channels).eval()
    assert model(torch.zeros(2, channels, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_classifier_trains_every_parameter(name: str) -> None:
    model = create_model(name, in_channels=3).train()
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_lenet_is_plainly_pooled_at_28_pixels_and_also_takes_32() -> None:
    model = create_model("lenet5").eval()
    x = torch.randn(2, 1, 28, 28)
    features = torch.max_pool2d(torch.relu(model.conv2(torch.max_pool2d(torch.relu(model.conv1(x)), 2))), 2)
    expected = model.fc2(torch.relu(model.fc1(features.flatten(1))))
    assert torch.equal(model(x), expected)
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 10)
    with pytest.raises(UserError, match="at least 20 pixels"):
        model(torch.randn(1, 1, 16, 16))


def test_unknown_model_suggests_the_closest() -> None:
    with pytest.raises(UserError, match="did you mean 'vgg16'"):
        create_model("vgg-16")
