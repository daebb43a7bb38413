"""Networks of other libraries, from small configurations with random weights; each test skips without its library."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from channel_helpers import difference, random_plan
from torch import Tensor, nn

from rlprune.channels import ChannelGroups, mask_channels, remove_channels, trace_channels
from rlprune.channels.copying import shaken
from rlprune.cost import CostModel

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own


def share(groups: ChannelGroups) -> float:
    names = {p for g in groups.prunable if g.max_removable for p in g.producers}
    return sum(groups.layers[p].macs for p in names) / CostModel(groups).macs()


@pytest.mark.parametrize(
    "config", ["yolov8n.yaml", "yolo11n.yaml", pytest.param("rtdetr-l.yaml", marks=pytest.mark.slow)]
)
def test_losses_of_a_detector_in_its_own_training_mode(config: str) -> None:
    tasks = pytest.importorskip("ultralytics.nn.tasks")
    cfg = pytest.importorskip("ultralytics.cfg")
    torch.manual_seed(0)
    kind, size = (tasks.RTDETRDetectionModel, 128) if "detr" in config else (tasks.DetectionModel, 64)
    model = shaken(kind(config, ch=3, nc=5, verbose=False))
    model.args, model.nc = cfg.get_cfg(), 5
    images = torch.rand(2, 3, size, size)
    groups = trace_channels(model, images[:1], outputs=lambda result: result[0])
    assert share(groups) > (0.65 if "detr" in config else 0.9)  # its decoder is most of it on a small image
    plan = random_plan(groups, 0.3)
    batch = {
        "img": images,
        "batch_idx": torch.tensor([0.0, 1.0]),
        "cls": torch.tensor([[1.0], [2.0]]),
        "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.4, 0.6, 0.3, 0.5]]),
    }
    losses = []
    for small in (mask_channels(model, groups, plan), remove_channels(model, groups, plan)):
        torch.manual_seed(1)  # of the boxes that RT-DETR learns to clean
        loss, _ = small.train().loss(batch)
        loss.sum().backward()
        losses.append(loss.detach())
    assert float(losses[0].min()) > 0
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-4)


def test_a_diffusion_u_net_prunes_by_whole_norm_groups() -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    model = diffusers.UNet2DModel(
        sample_size=16, layers_per_block=1, block_out_channels=(32, 64), norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ).eval()  # fmt: skip
    inputs = torch.randn(1, 3, 16, 16), torch.tensor([5])
    groups = trace_channels(model, *inputs)
    assert share(groups) > 0.85  # a wider one has fewer channels on the edge of two streams
    assert groups["down_blocks.0.resnets.0.conv1"].size == 8  # of 32 channels in norm groups of 4
    assert difference(model, groups, random_plan(groups, 0.4), *inputs) < 1e-9


def test_a_pyramid_decoder_with_group_norms() -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    model, x = smp.FPN("resnet18", encoder_weights=None, classes=4).eval(), torch.randn(1, 3, 64, 64)
    groups = trace_channels(model, x)
    assert share(groups) > 0.95
    assert difference(model, groups, random_plan(groups, 0.4), x) < 1e-9


def timm_transformer(kind: str) -> nn.Module:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "swin_tiny_patch4_window7_224": {"embed_dim": 24, "depths": (2, 2), "num_heads": (3, 6), "window_size": 4},
        "vit_small_patch16_224": {"embed_dim": 48, "depth": 2, "num_heads": 4},
    }[kind]
    return timm.create_model(kind, img_size=64, **sizes).eval()


@pytest.mark.parametrize("kind", ["swin_tiny_patch4_window7_224", "vit_small_patch16_224"])
def test_whole_heads_go_with_their_position_tables_and_numbers(kind: str) -> None:
    model, x = timm_transformer(kind), torch.randn(1, 3, 64, 64)
    groups = trace_channels(model, x)
    heads = [group for group in groups.prunable if group.name.endswith("attn.qkv")]
    assert [group.size for group in heads] == ([3, 3, 6, 6] if "swin" in kind else [4, 4])
    assert difference(model, groups, random_plan(groups, 0.4), x) < 1e-9
    approximate = trace_channels(model, x, approximate=True)
    assert share(groups) < share(approximate) > 0.95
    small = remove_channels(model, approximate, random_plan(approximate, 0.4)).train()
    small(x).sum().backward()


def test_a_detector_of_transformers_keeps_its_position_features() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    backbone = transformers.ResNetConfig(
        out_features=["stage2"], hidden_sizes=[16, 32], depths=[1, 1], embedding_size=16, layer_type="basic"
    )
    config = transformers.DetrConfig(
        use_timm_backbone=False, backbone_config=backbone, d_model=32, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, num_queries=5,
    )  # fmt: skip
    model = transformers.DetrForObjectDetection(config).eval()
    x: dict[str, Tensor] = {"pixel_values": torch.randn(1, 3, 64, 64)}
    groups = trace_channels(model, kwargs=x)
    reasons = {text for text in groups.report().reasons.values() if "layer norm" not in text and "output" not in text}
    assert not reasons
    small = remove_channels(model, groups, random_plan(groups, 0.4))
    assert small.model.position_embedding.num_position_features == 16
