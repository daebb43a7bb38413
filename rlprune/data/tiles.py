"""Aerial images too big for a network, cut into tiles on the fly: Inria's and AIRS's own folders.

Uncompressed TIFFs (Inria) are read window by window, so that training can cut elsewhere in every epoch. Of compressed
ones, where a window costs the whole image, a fixed sample of tiles that fits into memory stands for all.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from rlprune.data.cutting import CALIBRATION_LIMIT, CONTROL_LIMIT, Cut, cut_roles
from rlprune.data.images import image_files, image_size, open_image
from rlprune.data.masks import mask_augment
from rlprune.data.samples import MEMORY_LIMIT, Sample
from rlprune.data.segmentation import assemble_masks, pools_of
from rlprune.data.splits import DataSplits
from rlprune.errors import UserError
from rlprune.seeding import numpy_generator

TILE = 256
CLASSES = ("background", "building")
_INRIA_HELD_OUT = 5  # the set's authors validate on the first five images of every city
_OPEN_IMAGES = 3  # compressed images kept decoded


@dataclass
class TileReader:
    """Tiles of big images, in a grid without overlap; training moves every tile by up to half its side.

    Attributes:
        pairs: Image and mask files. Masks hold 0 and anything else for buildings (Inria: 255, AIRS: 1).
        tile: Side of a tile.
        places: (tiles, 3): image, top, left.
        sizes: (height, width) of every image.
        moves: Whether training moves the tiles.
    """

    pairs: Sequence[tuple[Path, Path]]
    tile: int
    places: np.ndarray
    sizes: list[tuple[int, int]]
    moves: bool = True
    _open: OrderedDict[Path, np.ndarray] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return len(self.places)

    def read(self, index: int, generator: np.random.Generator | None) -> Sample:
        """A tile, uint8 (3, tile, tile), and its mask, uint8 (tile, tile)."""
        image, top, left = map(int, self.places[index])
        if generator is not None:
            height, width = self.sizes[image]
            shift = generator.integers(-(self.tile // 2), self.tile // 2 + 1, 2)
            top = int(np.clip(top + shift[0], 0, height - self.tile))
            left = int(np.clip(left + shift[1], 0, width - self.tile))
        image_path, mask_path = self.pairs[image]
        pixels, values = self._window(image_path, top, left), self._window(mask_path, top, left)
        if pixels.ndim != 3 or pixels.shape[2] < 3 or values.ndim != 2:
            raise UserError(f"{image_path} must be a colour image and {mask_path} an image of one channel")
        colour = np.ascontiguousarray(pixels[:, :, :3].transpose(2, 0, 1))
        return torch.from_numpy(colour), torch.from_numpy((values > 0).astype(np.uint8))

    def nbytes(self) -> int:
        """Image and mask."""
        return 4 * self.tile**2

    def _window(self, path: Path, top: int, left: int) -> np.ndarray:
        if path not in self._open:
            self._open[path] = np.asanyarray(map_pixels(path))
            while len(self._open) > 2 * _OPEN_IMAGES:
                self._open.popitem(last=False)
        self._open.move_to_end(path)
        return np.array(self._open[path][top : top + self.tile, left : left + self.tile])


def map_pixels(path: Path, decode: bool = True) -> np.ndarray | None:
    """The pixels (H, W) or (H, W, C) of an image; of an uncompressed TIFF without reading them all.

    Inria's files are such TIFFs: a window of them costs a window, not 75 MB. Without `decode`, None for other files.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            tags = getattr(image, "tag_v2", {})
            offsets, counts = tags.get(273, ()), tags.get(279, ())
            plain = tags.get(259) == 1 and tags.get(284, 1) == 1 and set(np.atleast_1d(tags.get(258, 0))) == {8}
            bands = len(image.getbands())
            whole = sum(counts) == image.height * image.width * bands
            joined = all(a + n == b for a, n, b in zip(offsets, counts, offsets[1:], strict=False))
            if plain and offsets and whole and joined and image.mode in ("L", "RGB", "RGBA"):
                shape = (image.height, image.width) if bands == 1 else (image.height, image.width, bands)
                return np.memmap(path, np.uint8, "r", offsets[0], shape)
    except (OSError, SyntaxError, ValueError, TypeError):
        pass  # whatever is wrong with it, decoding will say so
    if not decode:
        return None
    image = open_image(path)
    return np.asarray(image.convert("L") if image.mode in ("1", "P") else image)


def is_inria(root: Path) -> bool:
    """Whether a folder is laid out as the Inria Aerial Image Labeling set: `train/images` and `train/gt`."""
    return (root / "train" / "images").is_dir() and (root / "train" / "gt").is_dir()


def load_inria(root: Path, cut: Cut) -> DataSplits:
    """Inria's set; its test images have no masks, so the first five images of each city are the held-out ones."""
    pairs = _pair_up(root / "train" / "images", root / "train" / "gt")
    held_out = [pair for pair in pairs if _number(pair[0]) is not None and (_number(pair[0]) or 0) <= _INRIA_HELD_OUT]
    train = [pair for pair in pairs if pair not in held_out]
    if not held_out or not train:
        raise UserError(f"{root}: Inria's images are named like austin1.tif, with numbers below and above 5")
    return _load(str(root), {"train": train, "test": held_out}, cut)


def is_airs(root: Path) -> bool:
    """Whether a folder is laid out as AIRS: `train/image` and `train/label`."""
    return (root / "train" / "image").is_dir() and (root / "train" / "label").is_dir()


def load_airs(root: Path, cut: Cut) -> DataSplits:
    """AIRS, with its train, val and test folders."""
    pools = {
        pool: _pair_up(root / pool / "image", root / pool / "label")
        for pool in ("train", "val", "test")
        if (root / pool / "label").is_dir()
    }
    return _load(str(root), pools, cut)


def _pair_up(images: Path, masks: Path) -> list[tuple[Path, Path]]:
    pairs = []
    for image in image_files(images):
        mask = masks / image.name
        if not mask.is_file():
            raise UserError(f"image {image} has no mask; expected {mask}")
        if image_size(image) != image_size(mask):
            (height, width), (other, across) = image_size(image), image_size(mask)
            raise UserError(f"mask {mask} is {across}x{other} and its image {width}x{height}; they must be of one size")
        pairs.append((image, mask))
    if not pairs:
        raise UserError(f"{images} holds no image; there must be at least one")
    return pairs


def _number(path: Path) -> int | None:
    digits = path.stem[len(path.stem.rstrip("0123456789")) :]
    return int(digits) if digits else None


def _load(name: str, found: dict[str, list[tuple[Path, Path]]], cut: Cut) -> DataSplits:
    tile = cut.size or TILE
    readers = {pool: _reader(pairs, tile) for pool, pairs in found.items()}
    pools = pools_of(found)
    # Tiles of one image are alike: images get roles, and their tiles follow.
    whole = replace(cut, control_size=None, calibration_size=None)
    by_image = cut_roles(whole, pools["train"], pools.get("test"), pools.get("val"))
    most = {"control": cut.control_size or CONTROL_LIMIT, "calibration": cut.calibration_size or CALIBRATION_LIMIT}
    positions = {}
    for role, (pool, chosen) in by_image.items():
        tiles = np.flatnonzero(np.isin(readers[pool].places[:, 0], chosen))
        if len(tiles) > most.get(role, len(tiles)):
            tiles = np.sort(numpy_generator(cut.seed, "tiles", role).permutation(tiles)[: most[role]])
        positions[role] = (pool, tiles)
    shape = (3, tile, tile)
    more = {"positions": positions, "details": {"tile": tile}}
    return assemble_masks(name, CLASSES, shape, pools, cut, readers, mask_augment(shape, overhead=True), **more)


def _reader(pairs: list[tuple[Path, Path]], tile: int) -> TileReader:
    sizes = [image_size(image) for image, _ in pairs]
    places = []
    for index, (height, width) in enumerate(sizes):
        if min(height, width) < tile:
            raise UserError(f"{pairs[index][0]} is {width}x{height}; it must be at least {tile}x{tile}, one tile")
        corners = itertools.product(range(0, height - tile + 1, tile), range(0, width - tile + 1, tile))
        places += [(index, top, left) for top, left in corners]
    grid = np.asarray(places, dtype=np.int64)
    if all(isinstance(map_pixels(image, decode=False), np.memmap) for image, _ in pairs):
        return TileReader(pairs, tile, grid, sizes)
    room = MEMORY_LIMIT // (4 * tile**2)
    if len(grid) > room:
        grid = grid[np.sort(numpy_generator(0, "tiles").permutation(len(grid))[:room])]
    return TileReader(pairs, tile, grid, sizes, moves=False)
