"""Image files: finding, measuring and decoding them, with errors that name the file."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rlprune.data.cutting import Cut
from rlprune.errors import UserError

if TYPE_CHECKING:  # imported where it is used: the pruning engine works without it
    from PIL import Image

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp"})
_SAMPLE = 256
LONGEST = 200  # times the shorter side; to cover a square, such an image would be brought to gigabytes


def image_files(folder: Path, *, recursive: bool = False) -> list[Path]:
    """Image files of a folder, sorted by name; hidden files are left out.

    Raises:
        UserError: One is no file, such as a pipe or a broken link, or its name cannot be written down.
    """
    found = folder.rglob("*") if recursive else folder.iterdir()
    paths = sorted(path for path in found if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
    for path in paths:
        if not path.is_file():
            raise UserError(f"{str(path)!r} is no file but a folder, a pipe or a broken link; repair or remove it")
        if not str(path).isprintable() and any("\ud800" <= letter <= "\udfff" for letter in str(path)):
            raise UserError(f"{str(path)!r} has a name that is not UTF-8; rename it")
    return paths


def open_image(path: Path) -> Image.Image:
    """Open and decode an image; raises UserError naming the file if it is missing, truncated or no image."""
    from PIL import Image

    try:
        with path.open("rb") as file:
            image = Image.open(file)
            if max(image.size) > LONGEST * min(image.size):
                raise ValueError(f"{image.width}x{image.height} pixels, more than {LONGEST} times as long as wide")
            image.load()
    except FileNotFoundError:
        raise UserError(f"no such image: {path}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from None
    return image


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = str(error).replace(str(path), "").splitlines()[0][:100]
    return UserError(f"cannot read image {path} ({reason}); it is damaged or no image: repair or remove it")


def image_size(path: Path) -> tuple[int, int]:
    """(height, width), from the header alone."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from None


def survey(paths: Sequence[Path]) -> tuple[set[tuple[int, int]], bool]:
    """Sizes (height, width) of at most 256 evenly spaced images, and whether all of those are grey."""
    from PIL import Image

    step = max(1, len(paths) // _SAMPLE)
    sizes, grey = set(), True
    for path in paths[::step]:
        sizes.add(image_size(path))
        with Image.open(path) as image:
            grey = grey and image.mode in ("1", "L", "I;16")
    return sizes, grey


def to_array(image: Image.Image, channels: int) -> np.ndarray:
    """uint8 (C, H, W) of an image in RGB (3 channels) or grey (1)."""
    array = np.asarray(image.convert("RGB" if channels == 3 else "L"))
    return np.ascontiguousarray(array.transpose(2, 0, 1)) if channels == 3 else array[None].copy()


def resize_and_crop(image: Image.Image, height: int, width: int) -> Image.Image:
    """Resize so that the image covers (height, width) by 8/7, and crop the middle (ImageNet's 256 to 224)."""
    from PIL import Image

    return cover(image, height, width, Image.Resampling.BILINEAR, 8 / 7 if min(height, width) >= 64 else 1.0)


def cover(image: Image.Image, height: int, width: int, method: Image.Resampling, by: float = 1.0) -> Image.Image:
    """The middle of an image that is resized to cover (height, width), or more; as it is if that is its size."""
    if (image.height, image.width) == (height, width):
        return image
    scale = max(height / image.height, width / image.width) * by
    size = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return image.resize(size, method).crop((left, top, left + width, top + height))


def decode_all(paths: Sequence[Path], channels: int, height: int, width: int, threads: int = 4) -> np.ndarray:
    """Decode many images to one uint8 array (N, C, H, W), several at a time."""
    out = np.empty((len(paths), channels, height, width), dtype=np.uint8)

    def decode(index: int) -> None:
        out[index] = to_array(resize_and_crop(open_image(paths[index]), height, width), channels)

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(decode, range(len(paths))):
            pass
    return out


def common_shape(paths: Sequence[Path], cut: Cut, limit: int, default: int) -> tuple[int, int, int]:
    """(channels, height, width) to bring images to: as asked for, else their own size and colours.

    Args:
        paths: The images.
        cut: What was asked for.
        limit: Images that all have one size keep it up to this side.
        default: Side of the square that others are brought to.
    """
    sizes, grey = survey(paths)
    channels = cut.channels or (1 if grey else 3)
    if cut.size is None and len(sizes) == 1 and max(next(iter(sizes))) <= limit:
        return channels, *next(iter(sizes))
    side = cut.size or default
    return channels, side, side
