"""From batches of decoded images to the input of a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .image_set import DataError

AUGMENTATIONS = ("none", "shift", "crop")
CROP_RATIOS = (3 / 4, 4 / 3)  # width by height
CROP_TRIES = 10
MATRIX_SIDE = 64  # pixels; up to here a matrix product resizes faster than torch's interpolation


class BatchTransform:
    """Turn images ``(B, H, W, C)`` uint8 into the input ``(B, 3, S, S)`` float32 of a model.

    Pixels are scaled to 0..1 and normalised, gray is copied to three channels, and another size
    is resized to (bilinear, with antialiasing).

    Parameters
    ----------
    image_size : int
        Side S in pixels.
    mean, std : sequence of float
        One for each channel, or one for all, of pixels in 0..1.
    augment : str
        ``none``. ``shift``: each image by up to an eighth of its sides, filled with black.
        ``crop``: a random part of each image is resized to the whole input. Both draw from
        torch's global CPU generator, for each image by itself.
    flip : bool
        Whether ``shift`` and ``crop`` also mirror each image with probability 1/2.
    crop_scale : tuple[float, float]
        Smallest and largest share of the area that ``crop`` shows; the share is uniform between
        them, and the logarithm of width by height between those of 3/4 and 4/3.
    device : torch.device or str
        Where the arithmetic runs and the result lies. Images go there as uint8.

    Raises
    ------
    DataError
        For an unknown kind of augmentation.

    References
    ----------
    Szegedy et al., "Going Deeper with Convolutions", 2015 (the random crop).
    """

    def __init__(
        self,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        augment: str = "none",
        flip: bool = False,
        crop_scale: tuple[float, float] = (0.08, 1.0),
        device: torch.device | str = "cpu",
    ) -> None:
        if augment not in AUGMENTATIONS:
            raise DataError(f"augment: '{augment}' is not one of {', '.join(AUGMENTATIONS)}.")
        self._side = image_size
        self._augment = augment
        self._flip = flip
        self._crop_scale = crop_scale
        self._device = torch.device(device)
        means, stds = (torch.tensor(values).expand(3).view(1, 3, 1, 1) for values in (mean, std))
        # (pixel / 255 - mean) / std = gain * pixel + offset
        self._gain = (1 / (255 * stds)).to(self._device)
        self._offset = (-means / stds).to(self._device)

    @property
    def deterministic(self) -> bool:
        """Whether the same images always give the same tensor, so that it may be kept."""
        return self._augment == "none"

    def __call__(self, images: np.ndarray) -> Tensor:
        """Transform a batch ``(B, H, W, C)`` uint8 to ``(B, 3, S, S)`` float32 on the device."""
        # A model's autocast would round the pixels where matrix products resize them.
        with torch.autocast(self._device.type, enabled=False):
            return self._transform(images)

    def _transform(self, images: np.ndarray) -> Tensor:
        pixels = self._upload(images).permute(0, 3, 1, 2)
        if self._augment == "shift":
            pixels = _shift(pixels)
        if self._augment != "none" and self._flip:
            pixels = _flip(pixels)
        floats = pixels.to(torch.float32, memory_format=torch.contiguous_format)
        # Normalised before it is resized: the same result, as both are linear, and on small
        # images, which backbones enlarge, less work. The product also copies gray.
        normalised = torch.addcmul(self._offset, floats, self._gain)
        if self._augment == "crop":
            return _random_crop(normalised, self._side, self._crop_scale)
        return _resize(normalised, self._side)

    def _upload(self, images: np.ndarray) -> Tensor:
        """Return the images as a uint8 tensor on the device."""
        # torch warns of arrays that it must not write to, although nothing here does.
        pixels = torch.from_numpy(np.require(images, requirements=["C", "W"]))
        if self._device.type == "cuda":
            pixels = pixels.pin_memory()
        return pixels.to(self._device, non_blocking=True)


def _resize(pixels: Tensor, side: int) -> Tensor:
    """Resize ``(B, C, H, W)`` to ``(B, C, side, side)``: bilinear, with antialiasing."""
    height, width = pixels.shape[2:]
    if height == width == side:
        return pixels
    if max(height, width) > MATRIX_SIDE or pixels.is_cuda:
        return _interpolate(pixels, side, side)
    # Resizing is linear along each side: two matrix products, much faster for small images. On
    # a GPU they gain little, and lose precision where TF32 is allowed.
    return _resize_weights(height, side) @ (pixels @ _resize_weights(width, side).mT)


@lru_cache(maxsize=4 * MATRIX_SIDE)
def _resize_weights(source: int, target: int) -> Tensor:
    """Return the matrix ``(target, source)`` that resizes a column: the resized unit columns."""
    return _interpolate(torch.eye(source)[None, None], target, source)[0, 0]


def _interpolate(pixels: Tensor, height: int, width: int) -> Tensor:
    return functional.interpolate(pixels, (height, width), mode="bilinear", antialias=True)


# torchvision's random transforms draw once for a whole batch; these draw for each image.


def _random_crop(pixels: Tensor, side: int, scale: tuple[float, float]) -> Tensor:
    """Resize a random part of each image of ``(B, C, H, W)`` to ``(B, C, side, side)``."""
    count, _, height, width = pixels.shape
    boxes = _draw_boxes(count, height, width, scale).T.tolist()
    return torch.cat(
        [
            _resize(image[None, :, top : top + rows, left : left + columns], side)
            for image, (top, left, rows, columns) in zip(pixels, boxes, strict=True)
        ]
    )


def _draw_boxes(count: int, height: int, width: int, scale: tuple[float, float]) -> Tensor:
    """Draw tops, lefts, heights and widths, ``(4, count)`` int64, of random crops.

    A size that exceeds the image is drawn again, and after ten times the largest part with an
    allowed ratio is taken.
    """
    areas = height * width * torch.empty(CROP_TRIES, count).uniform_(*scale)
    ratios = torch.empty(CROP_TRIES, count).uniform_(*map(math.log, CROP_RATIOS)).exp()
    heights = (areas / ratios).sqrt().round().clamp(min=1)
    widths = (areas * ratios).sqrt().round().clamp(min=1)
    narrowest, widest = CROP_RATIOS
    heights = torch.cat([heights, torch.full((1, count), min(height, round(width / narrowest)))])
    widths = torch.cat([widths, torch.full((1, count), min(width, round(height * widest)))])
    first = ((heights <= height) & (widths <= width)).int().argmax(0, keepdim=True)
    sizes = torch.cat([heights.gather(0, first), widths.gather(0, first)]).long()
    room = torch.tensor([[height], [width]]) - sizes
    # In single precision a product could be rounded up to one place too many.
    places = (torch.rand(2, count, dtype=torch.float64) * (room + 1)).long()
    return torch.cat([places, sizes])


def _shift(pixels: Tensor) -> Tensor:
    """Shift each image of ``(B, C, H, W)`` at random: a crop of the image padded with black."""
    height, width = pixels.shape[2:]
    down, right = height // 8, width // 8
    padded = functional.pad(pixels, (right, right, down, down))
    tops = torch.randint(2 * down + 1, (len(pixels),)).tolist()
    lefts = torch.randint(2 * right + 1, (len(pixels),)).tolist()
    return torch.stack(
        [
            image[:, top : top + height, left : left + width]
            for image, top, left in zip(padded, tops, lefts, strict=True)
        ]
    )


def _flip(pixels: Tensor) -> Tensor:
    """Mirror each image of ``(B, C, H, W)`` left to right with probability 1/2."""
    mirrored = (torch.rand(len(pixels)) < 0.5).to(pixels.device)
    return torch.where(mirrored[:, None, None, None], pixels.flip(3), pixels)
