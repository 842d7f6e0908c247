"""Images as a user has them, to the input of a model: what training did, without its data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional

from .backbone import ModelError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm")
Images = np.ndarray | Sequence[Image.Image]


def check_images(images: Images) -> None:
    """Raise a `ModelError` for what `prepare` does not take."""
    if isinstance(images, np.ndarray):
        sizes = images.shape[1:]
        if images.dtype != np.uint8 or len(sizes) != 3 or sizes[2] not in (1, 3) or 0 in sizes:
            raise ModelError(
                f"images: an array of them is uint8 of shape (N, H, W, 1 or 3), not "
                f"{images.dtype} of shape {images.shape}; convert it."
            )
    elif not isinstance(images, Sequence) or not all(isinstance(i, Image.Image) for i in images):
        raise ModelError("images: give a uint8 array (N, H, W, 1 or 3) or a list of PIL images.")


def prepare(images: Images, side: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Turn images into the input ``(N, 3, side, side)`` float32 of a model, as training did.

    Parameters
    ----------
    images : np.ndarray or sequence of PIL images
        uint8 ``(N, H, W, C)`` with C 1 (gray) or 3 (RGB), resized as a whole (bilinear, with
        antialiasing); or pictures, of which `square` takes the middle.
    side : int
        In pixels.
    mean, std : sequence of float
        One for each channel, or one for all, of pixels in 0..1.
    """
    if not isinstance(images, np.ndarray):
        images = np.stack([square(image, side) for image in images])
    pixels = torch.tensor(images).permute(0, 3, 1, 2) / 255
    centre, scale = (torch.tensor(values).expand(3).view(3, 1, 1) for values in (mean, std))
    normalised = (pixels - centre) / scale
    return functional.interpolate(normalised, (side, side), mode="bilinear", antialias=True)


def square(image: Image.Image, side: int) -> np.ndarray:
    """Return the middle of a picture, upright: RGB ``(side, side, 3)`` uint8.

    The shorter side is resized to `side`, and the longer one centre-cropped.

    Raises
    ------
    ModelError
        For more than 8 bits per channel, which Pillow would cut off.
    """
    if image.mode.startswith(("I", "F")):
        raise ModelError("images: one has more than 8 bits per channel; convert it to 8.")
    # Cameras store a rotation beside the pixels.
    upright = ImageOps.exif_transpose(image).convert("RGB")
    return np.asarray(ImageOps.fit(upright, (side, side), Image.Resampling.BILINEAR))


def read_image(path: Path, side: int) -> np.ndarray:
    """Read a file as `square` returns it; what is no image ends in a `ModelError`."""
    try:
        with Image.open(path) as image:
            return square(image, side)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ModelError(
            f"{path} cannot be read as an image ({error}); replace or remove it."
        ) from None


def find_images(folder: Path) -> list[Path]:
    """List the images in a folder and in its subfolders, in the order of their paths.

    Raises
    ------
    ModelError
        When there is no folder, or no image where they are looked for.
    """
    if not folder.is_dir():
        raise ModelError(f"there is no folder {folder}; give one that holds images.")
    found = sorted(
        path
        for pattern in ("*", "*/*")
        for path in folder.glob(pattern)
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not found:
        raise ModelError(
            f"{folder} holds no images, neither directly nor in its subfolders; known are "
            f"{', '.join(SUFFIXES)}."
        )
    return found
