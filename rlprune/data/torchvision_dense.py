"""torchvision's segmentation and detection sets: Pascal VOC, Cityscapes, COCO."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from rlprune.data.boxes import BACKGROUND, BoxedImage, splits_from_boxes
from rlprune.data.coco_files import is_coco_folder, load_coco_folder
from rlprune.data.cutting import Cut
from rlprune.data.segmentation import splits_from_masks
from rlprune.data.splits import DataSplits
from rlprune.data.torchvision_sets import TORCHVISION_SETS
from rlprune.errors import UserError, first_line

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


@TORCHVISION_SETS.register("VOCSegmentation")
def load_voc_segmentation(root: Path, cut: Cut) -> DataSplits:
    """Pascal VOC 2012: train for training, val held out (the test masks are not public); 21 classes."""
    pools = {}
    for pool in ("train", "val"):
        dataset = _voc("VOCSegmentation", root, pool)
        pools[pool] = [(Path(a), Path(b)) for a, b in zip(dataset.images, dataset.masks, strict=True)]
    return splits_from_masks("torchvision:VOCSegmentation", pools, ("background", *VOC_CLASSES), cut)


@TORCHVISION_SETS.register("VOCDetection")
def load_voc_detection(root: Path, cut: Cut) -> DataSplits:
    """Pascal VOC 2012: train for training, val held out; 20 classes, boxes marked difficult left out of scoring."""
    pools = {}
    for pool in ("train", "val"):
        dataset = _voc("VOCDetection", root, pool)
        pools[pool] = [_voc_image(Path(a), Path(b)) for a, b in zip(dataset.images, dataset.targets, strict=True)]
    return splits_from_boxes("torchvision:VOCDetection", pools, (BACKGROUND, *VOC_CLASSES), cut)


@TORCHVISION_SETS.register("Cityscapes")
def load_cityscapes(root: Path, cut: Cut) -> DataSplits:
    """Cityscapes fine annotations: train for training, val held out; the 19 classes of the benchmark."""
    from torchvision import datasets

    pools = {}
    for pool in ("train", "val"):
        try:
            dataset = datasets.Cityscapes(str(root), split=pool, mode="fine", target_type="semantic")
        except (RuntimeError, OSError):
            raise UserError(
                f"no Cityscapes in {root}; it cannot be downloaded freely: give --root a folder with leftImg8bit and "
                "gtFine"
            ) from None
        pools[pool] = [(Path(a), Path(b[0])) for a, b in zip(dataset.images, dataset.targets, strict=True)]
    known = [one for one in datasets.Cityscapes.classes if 0 <= one.train_id < 255]
    table = {one.id: one.train_id for one in known}
    names = tuple(one.name for one in sorted(known, key=lambda one: one.train_id))
    return splits_from_masks("torchvision:Cityscapes", pools, names, cut, table=table)


@TORCHVISION_SETS.register("CocoDetection")
def load_coco(root: Path, cut: Cut) -> DataSplits:
    """COCO as its authors lay it out: annotations/instances_train2017.json, train2017/, and the same for val."""
    if not is_coco_folder(root):
        raise UserError(
            f"no COCO in {root}; give --root a folder with annotations/instances_train2017.json, train2017/ and "
            "val2017/"
        )
    return load_coco_folder(root, cut)


def _voc(name: str, root: Path, pool: str) -> Any:
    from torchvision import datasets

    make: Any = getattr(datasets, name)
    try:
        return make(str(root), year="2012", image_set=pool, download=not (root / "VOCdevkit" / "VOC2012").is_dir())
    except (RuntimeError, OSError) as error:
        reason = first_line(error, 120)
        raise UserError(f"cannot get {name} ({reason}); put VOCdevkit/VOC2012 into {root}, or choose --root") from None


def _voc_image(image: Path, file: Path) -> BoxedImage:
    boxes, labels, difficult = [], [], []
    try:
        tree = ElementTree.parse(file).getroot()
        size = int(tree.findtext("size/height", "")), int(tree.findtext("size/width", ""))
        for one in tree.iter("object"):
            box = [float(one.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")]
            boxes.append([box[0] - 1, box[1] - 1, *box[2:]])  # VOC counts pixels from 1, both corners inside
            labels.append(VOC_CLASSES.index(one.findtext("name", "")) + 1)
            difficult.append(int(one.findtext("difficult", "0")))
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise UserError(f"cannot read {file} as a VOC annotation ({error}); it is damaged or something else") from None
    return BoxedImage(
        image,
        np.asarray(boxes, dtype=np.float64).reshape(-1, 4),
        np.asarray(labels, dtype=np.int64),
        np.asarray(difficult, dtype=np.int64),
        size,
    )
