"""Prune a timm model and train it by the parts of timm's own train script: optimizer, schedule, loss, averaged weights.

python runs/with_timm.py [OUT]; needs timm (pip install 'rlprune[models]').
"""

import sys
from pathlib import Path

import timm
import torch
from gratings import CLASSES, gratings
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch.utils.data import DataLoader

import rlprune
from rlprune.artifact import load_pruned

MODEL = "resnet10t"


def fit(model, epochs):
    """Train a model in place, as timm's train script does."""
    optimizer = create_optimizer_v2(model, opt="adamw", lr=2e-3, weight_decay=0.05)
    scheduler, epochs = create_scheduler_v2(optimizer, sched="cosine", num_epochs=epochs, warmup_epochs=0)
    loss_of, average = LabelSmoothingCrossEntropy(0.05), ModelEmaV3(model, decay=0.9)
    for epoch in range(epochs):
        model.train()
        for images, labels in TRAIN:
            optimizer.zero_grad()
            loss_of(model(images), labels).backward()
            optimizer.step()
            average.update(model)
        scheduler.step(epoch + 1)
    model.load_state_dict(average.module.state_dict())


TRAIN = DataLoader(gratings(384, 0), 64, shuffle=True, generator=torch.Generator().manual_seed(0))
CONTROL, TEST = DataLoader(gratings(192, 1), 64), DataLoader(gratings(192, 2), 64)

if __name__ == "__main__":
    torch.manual_seed(0)
    model, out = timm.create_model(MODEL, num_classes=CLASSES), Path(sys.argv[1] if len(sys.argv) > 1 else "runs/timm")
    fit(model, 4)
    result = rlprune.prune(model, train=TRAIN, control=CONTROL, test=TEST, fit=fit, epochs=6, tolerance=0.02, out=out)
    again = load_pruned(out / "model.pt", timm.create_model(MODEL, num_classes=CLASSES))
    assert sum(p.numel() for p in again.parameters()) == result.parameters
    print(f"{result.macs / result.record['baseline']['macs']:.3f} of the MACs at a drop of {result.drop:.4f}")
