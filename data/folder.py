"""A user's own images: class folders, for each client where the clients are known."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from .image_set import DataError, ImageSet, Source
from .split import hold_out

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm")
LAYOUT = (
    "expected are images at class/image.png or at client/class/image.png below it, or such "
    "folders inside train/ and test/"
)


class _Picture(NamedTuple):
    path: Path
    label: str
    owner: str | None


def load_folder(data_dir: str, image_size: int, seed: int) -> Source:
    """Load images from class folders or client/class folders.

    Parameters
    ----------
    data_dir : str
        A folder that holds ``class/image.png`` or ``client/class/image.png``, or else ``train/``
        and perhaps ``test/`` (or ``val/``), each with one of the two. Without a test part a fifth
        is held out. Names that start with a dot are left out.
    image_size : int
        Side in pixels: the shorter side is resized to it, and the longer one centre-cropped.
    seed : int
        Seed of the test part that is held out.

    Returns
    -------
    Source
        RGB images ``(N, image_size, image_size, 3)``; classes in alphabetical order.

    Raises
    ------
    DataError
        If the folder is missing or laid out otherwise, or holds an unreadable image.
    """
    if not data_dir:
        raise DataError(f'data-dir: dataset "folder" needs one; {LAYOUT}.')
    root = Path(data_dir).expanduser()
    if not root.is_dir():
        raise DataError(f"data-dir: there is no folder {root}; {LAYOUT}.")
    parts = {path.name for path in root.iterdir() if path.is_dir() and path.name[0] != "."}
    # Beside other folders, "train" is a class like them (think of vehicles).
    has_parts = "train" in parts and parts <= {"train", "test", "val"}

    pictures = _find(root / "train" if has_parts else root)
    classes = tuple(sorted({picture.label for picture in pictures}))
    train = _read(pictures, classes, image_size)
    test_part = next((name for name in ("test", "val") if has_parts and name in parts), None)
    if test_part is None:
        train, test = hold_out(train, seed)
    else:
        test = _read(_find(root / test_part), classes, image_size)
    return Source(train, test, flip=True)


def _find(root: Path) -> list[_Picture]:
    """List the images below a folder, in the order of their paths."""
    by_class, by_client = (
        sorted(
            path
            for path in root.glob(pattern)
            if path.suffix.lower() in SUFFIXES
            and not any(part.startswith(".") for part in path.relative_to(root).parts)
        )
        for pattern in ("*/*", "*/*/*")
    )
    if by_class and by_client:
        raise DataError(
            f"data-dir: images lie at two levels of {root}, such as {by_class[0]} and "
            f"{by_client[0]}; {LAYOUT}."
        )
    if not by_class and not by_client:
        raise DataError(f"data-dir: {root} holds no images where they are looked for; {LAYOUT}.")
    if by_class:
        return [_Picture(path, path.parent.name, None) for path in by_class]
    return [_Picture(path, path.parent.name, path.parent.parent.name) for path in by_client]


def _read(pictures: Sequence[_Picture], classes: tuple[str, ...], image_size: int) -> ImageSet:
    numbers = {name: number for number, name in enumerate(classes)}
    if unknown := [picture for picture in pictures if picture.label not in numbers]:
        raise DataError(
            f"data-dir: {unknown[0].path} is of a class that train/ does not show; rename or "
            "remove its folder."
        )
    # One array from the start: a list of arrays would need the memory twice.
    images = np.empty((len(pictures), image_size, image_size, 3), dtype=np.uint8)
    with ThreadPoolExecutor() as pool:  # Pillow decodes without holding the interpreter's lock.
        decode = partial(_decode, image_size=image_size)
        for row, pixels in enumerate(pool.map(decode, (picture.path for picture in pictures))):
            images[row] = pixels
    labels = np.array([numbers[picture.label] for picture in pictures], dtype=np.int64)
    owners = tuple(picture.owner for picture in pictures if picture.owner is not None)
    return ImageSet(images, labels, classes, owners or None)


def _decode(path: Path, image_size: int) -> np.ndarray:
    """Return RGB pixels ``(image_size, image_size, 3)`` of an image file."""
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                # Pillow would cut all values above 255 off.
                raise ValueError("more than 8 bits per channel")
            # Cameras store a rotation beside the pixels.
            upright = ImageOps.exif_transpose(image).convert("RGB")
            side = (image_size, image_size)
            return np.asarray(ImageOps.fit(upright, side, Image.Resampling.BILINEAR))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"data-dir: {path} cannot be read as an image ({error}); replace or remove it."
        ) from None
