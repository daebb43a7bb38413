"""Prune what Lightning has trained, by a Callback that fine-tunes and scores through trainers and the module's own steps.

python runs/with_lightning.py [OUT]; needs lightning (pip install 'rlprune[lightning]').
"""

import sys

import lightning
import torch
from gratings import CLASSES, gratings
from torch import nn
from torch.utils.data import DataLoader

import rlprune

OUT = sys.argv[1] if len(sys.argv) > 1 else "runs/lightning"
QUIET = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}


class Pruning(lightning.Callback):
    """Prunes `module.net` when the training is over; `result` is what came of it."""

    def on_fit_end(self, trainer, module):
        """Prune to a drop of 0.02 of what the module logs as accuracy."""

        def evaluate(net):
            module.net = net
            return lightning.Trainer(**QUIET).validate(module, trainer.val_dataloaders, verbose=False)[0]["accuracy"]

        def fit(net, epochs):
            module.net = net
            lightning.Trainer(max_epochs=epochs, limit_val_batches=0, **QUIET).fit(module, trainer.train_dataloader)

        self.result = rlprune.prune(module.net, evaluate=evaluate, fit=fit, calibration=trainer.train_dataloader,
                                    epochs=20, tolerance=0.02, out=OUT)  # fmt: skip
        module.net, module.trainer = self.result.model, trainer


class Classifier(lightning.LightningModule):
    """Three convolutions; nothing in it knows of pruning."""

    def __init__(self):
        super().__init__()
        layers = []
        for wide, wider in ((3, 32), (32, 64), (64, 64)):
            layers += [nn.Conv2d(wide, wider, 3, padding=1), nn.BatchNorm2d(wider), nn.ReLU(), nn.MaxPool2d(2)]
        self.net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES))

    def training_step(self, batch, _):  # noqa: D102
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, _):  # noqa: D102
        self.log("accuracy", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):  # noqa: D102
        optimizer = torch.optim.AdamW(self.parameters(), 3e-3)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.max_epochs)]


if __name__ == "__main__":
    lightning.seed_everything(0)
    pruning, module = Pruning(), Classifier()
    train, control = DataLoader(gratings(512, 0), 64, shuffle=True), DataLoader(gratings(192, 1), 64)
    lightning.Trainer(max_epochs=10, callbacks=[pruning], **QUIET).fit(module, train, control)
    result = pruning.result
    print(f"{result.macs / result.record['baseline']['macs']:.3f} of the MACs at a drop of {result.drop:.4f}")
