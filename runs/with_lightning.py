"""Prune what Lightning has trained, by a Callback that fine-tunes and scores by the module's own steps.

python runs/with_lightning.py [OUT]; needs lightning (pip install 'rlprune[lightning]').
"""

import sys

import lightning
import torch
from gratings import CLASSES, gratings
from torch import nn

import rlprune

QUIET = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)  # noqa: C408


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
                                    epochs=20, tolerance=0.02, out=(sys.argv[1:] or [None])[0])  # fmt: skip
        module.net, module.trainer = self.result.model, trainer


class Classifier(lightning.LightningModule):
    """Nothing in it knows of pruning."""

    def __init__(self):
        super().__init__()
        layers = [nn.Conv2d(3, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)]
        self.net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 36, CLASSES))

    def training_step(self, batch, _):  # noqa: D102
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, _):  # noqa: D102
        self.log("accuracy", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):  # noqa: D102
        return torch.optim.AdamW(self.parameters(), 1e-3)


if __name__ == "__main__":
    lightning.seed_everything(0)
    train, control = (torch.utils.data.DataLoader(gratings(n, n), 64, shuffle=n > 200) for n in (512, 192))
    lightning.Trainer(max_epochs=10, callbacks=[pruning := Pruning()], **QUIET).fit(Classifier(), train, control)
    macs, before = pruning.result.macs, pruning.result.record["baseline"]["macs"]
    print(f"{macs / before:.3f} of the MACs at a drop of {pruning.result.drop:.4f}")
