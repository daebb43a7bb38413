"""Prune a U-Net of segmentation_models_pytorch and train it by that package's loss, scored by its metrics.

python runs/with_smp.py [OUT]; needs segmentation-models-pytorch (pip install 'rlprune[smp]').
"""

import sys

import segmentation_models_pytorch as smp
import torch
from torch.utils.data import DataLoader, TensorDataset

import rlprune

OUT = sys.argv[1] if len(sys.argv) > 1 else "runs/smp"


def discs(n, seed):
    """Noisy images, (n, 3, 32, 32), of a bright disc among dark ones, and where it is, (n, 1, 32, 32)."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    cx, cy, r = (low + span * torch.rand(3, n, 1, 1, generator=generator) for low, span in ((6, 20), (6, 20), (3, 5)))
    light, dark, other = ((x - cx[i]) ** 2 + (y - cy[i]) ** 2 < r[i] ** 2 for i in range(3))
    shade = light.float() - (dark & ~light).float() - (other & ~light).float()
    return TensorDataset(shade[:, None] + 0.7 * torch.randn(n, 3, 32, 32, generator=generator), light[:, None].long())


TRAIN, CONTROL = DataLoader(discs(256, 0), 16, shuffle=True), DataLoader(discs(96, 1), 96)


def fit(model, epochs):
    """Train a model in place."""
    optimizer, loss_of = torch.optim.AdamW(model.parameters(), 1e-3), smp.losses.DiceLoss("binary")
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=epochs * len(TRAIN))
    model.train()
    for _ in range(epochs):
        for images, masks in TRAIN:
            optimizer.zero_grad()
            loss_of(model(images), masks).backward()
            optimizer.step()
            schedule.step()


def evaluate(model):
    """Intersection over union on all control images together."""
    images, masks = next(iter(CONTROL))
    with torch.no_grad():
        counts = smp.metrics.get_stats(model.eval()(images), masks, mode="binary", threshold=0.0)
    return float(smp.metrics.iou_score(*counts, reduction="micro"))


if __name__ == "__main__":
    torch.manual_seed(0)
    model = smp.Unet("resnet18", encoder_depth=3, encoder_weights=None, decoder_channels=(64, 32, 16))
    fit(model, 8)
    result = rlprune.prune(model, evaluate=evaluate, fit=fit, calibration=TRAIN, epochs=16, tolerance=0.02, out=OUT)
    print(f"{result.macs / result.record['baseline']['macs']:.3f} of the MACs at a drop of {result.drop:.4f}")
