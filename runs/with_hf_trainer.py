"""Prune a classifier of transformers and train it by its Trainer.

python runs/with_hf_trainer.py [OUT]; needs transformers (pip install 'rlprune[models]') and accelerate.
"""

import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset, default_collate
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments

import rlprune
from rlprune.artifact import load_pruned

CLASSES = 4
CONFIG = ResNetConfig(embedding_size=16, hidden_sizes=[32, 64], depths=[1, 1], layer_type="basic", num_labels=CLASSES)


class Gratings(Dataset):
    """Noisy stripes of four directions, in the form that Trainer takes."""

    def __init__(self, n, seed):
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(CLASSES, (n,), generator=generator)
        angle = self.labels[:, None, None] * torch.pi / CLASSES + 0.2 * torch.randn(n, 1, 1, generator=generator)
        y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
        waves = torch.sin((x * angle.cos() + y * angle.sin()) * 0.8)[:, None]
        self.images = waves + torch.randn(n, 3, 32, 32, generator=generator)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"pixel_values": self.images[index], "labels": self.labels[index]}


TRAIN, CONTROL, TEST = Gratings(768, 0), Gratings(192, 1), Gratings(192, 2)


def fit(model, epochs):
    """Train a model in place by Trainer."""
    settings = TrainingArguments("runs/hf-trainer", num_train_epochs=epochs, per_device_train_batch_size=64,
                                 learning_rate=2e-3, lr_scheduler_type="cosine", save_strategy="no", report_to="none",
                                 logging_strategy="no", disable_tqdm=True, use_cpu=True)  # fmt: skip
    Trainer(model=model, args=settings, train_dataset=TRAIN, data_collator=default_collate).train()
    model.eval()


if __name__ == "__main__":
    torch.manual_seed(0)
    model, out = ResNetForImageClassification(CONFIG), Path(sys.argv[1] if len(sys.argv) > 1 else "runs/hf")
    fit(model, 10)
    roles = {"train": TRAIN, "control": CONTROL, "test": TEST}
    loaders = {role: DataLoader(data, 64, collate_fn=default_collate) for role, data in roles.items()}
    result = rlprune.prune(model, **loaders, fit=fit, epochs=40, tolerance=0.02, skip=(), out=out)
    load_pruned(out / "model.pt", ResNetForImageClassification(CONFIG))
    share = result.macs / result.record["baseline"]["macs"]
    print(f"{share:.3f} of the MACs at a drop of {result.drop:.4f} from {result.baseline:.3f}")
