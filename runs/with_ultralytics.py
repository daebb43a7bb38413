"""Prune a YOLO to a tolerance of mAP50 in ultralytics' own trainer; `YOLO(...)` scores, loads and exports it.

python runs/with_ultralytics.py DATA [OUT [SIZE [EPOCHS]]]; DATA: COCO's train.json, val.json, and folders called so.
"""

import copy
import json
import shutil
import sys
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor
from ultralytics import YOLO
from ultralytics.data.converter import convert_coco
from ultralytics.models.yolo.detect import DetectionTrainer

import rlprune

DATA, OUT, SIZE, EPOCHS = [*sys.argv[1:], *("", "runs/yolo", 160, 30)[len(sys.argv) - 1 :]]
OUT, SIZE, EPOCHS, CONFIG = Path(OUT).resolve(), int(SIZE), int(EPOCHS), "yolov8n.yaml"
COMMON = {"data": f"{OUT}/data.yaml", "imgsz": SIZE, "workers": 0, "plots": False, "device": "cpu", "project": str(OUT)}
TRAIN = {"optimizer": "AdamW", "lr0": 0.002, "nbs": 16, "warmup_epochs": 1, "mosaic": 0.0, "val": False}


def fit(model, epochs):
    """Train a network in place, or a new one. A trainer that has a network builds none from CONFIG."""
    trainer = DetectionTrainer(overrides={**COMMON, **TRAIN, "epochs": epochs, "model": CONFIG})
    trainer.model = model or CONFIG
    trainer.train()
    if model is not None:
        model.load_state_dict(trainer.ema.ema.state_dict())
    return trainer.ema.ema


def yolo(model):
    """A network with the face of ultralytics."""
    found = YOLO(CONFIG)
    found.model = copy.deepcopy(model)
    return found


if __name__ == "__main__":
    names = [one["name"] for one in json.loads(Path(DATA, "train.json").read_text())["categories"]]
    if not (OUT / "data.yaml").exists():
        convert_coco(DATA, OUT / "coco", cls91to80=False)
        shutil.copytree(DATA, OUT / "coco/images", dirs_exist_ok=True)
        (OUT / "data.yaml").write_text(f"path: {OUT}/coco\ntrain: images/train\nval: images/val\nnames: {names}\n")
    if not (OUT / "base.pt").exists():
        yolo(fit(None, EPOCHS)).save(OUT / "base.pt")
    files = sorted((OUT / "coco/images/train").iterdir())[:128]
    images = torch.stack([to_tensor(Image.open(file).convert("RGB").resize((SIZE, SIZE))) for file in files])
    model, score = YOLO(OUT / "base.pt").model, lambda model: yolo(model).val(**COMMON).box.map50
    result = rlprune.prune(model, evaluate=score, fit=fit, calibration=[images], epochs=EPOCHS, tolerance=0.02)
    for part in (part for part in result.model.modules() if hasattr(part, "forward_split")):
        part.c = part.cv1.conv.out_channels // 2  # which the exporter splits by
    yolo(result.model).save(OUT / "pruned.pt")
    YOLO(OUT / "pruned.pt").export(format="torchscript", imgsz=SIZE)
    print(f"{result.macs / result.record['baseline']['macs']:.3f} of the MACs at a drop of {result.drop:.4f}")
