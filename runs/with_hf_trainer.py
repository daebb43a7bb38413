"""Prune a classifier of transformers and train it by its Trainer.

python runs/with_hf_trainer.py [OUT]; needs transformers and accelerate (pip install 'rlprune[hf]').
"""

import sys
from pathlib import Path

import torch
from gratings import CLASSES, gratings
from torch.utils.data import DataLoader, default_collate
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments

import rlprune
from rlprune.artifact import load_pruned

CONFIG = ResNetConfig(embedding_size=16, hidden_sizes=[32, 64], depths=[1, 1], layer_type="basic", num_labels=CLASSES)


def collate(examples):
    """A batch as Trainer takes it."""
    images, labels = default_collate(examples)
    return {"pixel_values": images, "labels": labels}


TRAIN, CONTROL, TEST = gratings(768, 0), gratings(192, 1), gratings(192, 2)


def fit(model, epochs):
    """Train a model in place by Trainer."""
    settings = TrainingArguments("runs/hf-trainer", num_train_epochs=epochs, per_device_train_batch_size=64,
                                 learning_rate=2e-3, lr_scheduler_type="cosine", save_strategy="no", report_to="none",
                                 logging_strategy="no", disable_tqdm=True, use_cpu=True)  # fmt: skip
    Trainer(model=model, args=settings, train_dataset=TRAIN, data_collator=collate).train()
    model.eval()


if __name__ == "__main__":
    torch.manual_seed(0)
    model, out = ResNetForImageClassification(CONFIG), Path(sys.argv[1] if len(sys.argv) > 1 else "runs/hf")
    fit(model, 10)
    roles = {"train": TRAIN, "control": CONTROL, "test": TEST}
    loaders = {role: DataLoader(data, 64, collate_fn=collate) for role, data in roles.items()}
    result = rlprune.prune(model, **loaders, fit=fit, epochs=40, tolerance=0.02, skip=(), out=out)
    load_pruned(out / "model.pt", ResNetForImageClassification(CONFIG))
    share = result.macs / result.record["baseline"]["macs"]
    print(f"{share:.3f} of the MACs at a drop of {result.drop:.4f} from {result.baseline:.3f}")
