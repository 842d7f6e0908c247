"""From batches of decoded images to the input of a model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class BatchTransform:
    """Turn images ``(B, H, W, C)`` uint8 into the input ``(B, 3, S, S)`` float32 of a model.

    Pixels are scaled to 0..1 and normalised, gray is copied to three channels, and another size
    is resized to (bilinear, with antialiasing).

    Parameters
    ----------
    image_size : int
        Side S in pixels.
    mean, std : sequence of float
        Per channel, of pixels in 0..1, as the backbone was trained.
    flip : bool
        Whether augmentation may mirror an image.
    augment : bool
        Shift each image by up to an eighth of its sides, filled with black, and with `flip`
        mirror each with probability 1/2. Numbers come from torch's global generator.
    """

    def __init__(
        self,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        flip: bool = False,
        augment: bool = False,
    ) -> None:
        from torchvision.transforms import v2

        self._normalise = v2.Compose(
            [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]
        )
        self._resize = v2.Resize((image_size, image_size), antialias=True)
        self._flip = flip
        self._augment = augment

    @property
    def deterministic(self) -> bool:
        """Whether the same images always give the same tensor, so that it may be kept."""
        return not self._augment

    def __call__(self, images: np.ndarray) -> Tensor:
        """Transform a batch ``(B, H, W, C)`` uint8 to ``(B, 3, S, S)`` float32."""
        pixels = torch.tensor(images).permute(0, 3, 1, 2)
        if self._augment:
            pixels = _shift(pixels)
            if self._flip:
                pixels = _flip(pixels)
        # Normalised before it is resized: the same result, as both are linear, at fewer pixels.
        return self._resize(self._normalise(pixels.expand(-1, 3, -1, -1).contiguous()))


# torchvision's random transforms draw once for a whole batch; these two draw for each image.


def _shift(pixels: Tensor) -> Tensor:
    """Shift each image of ``(B, C, H, W)`` at random: a crop of the image padded with black."""
    height, width = pixels.shape[2:]
    down, right = height // 8, width // 8
    padded = torch.nn.functional.pad(pixels, (right, right, down, down))
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
    mirrored = torch.rand(len(pixels)) < 0.5
    return torch.where(mirrored[:, None, None, None], pixels.flip(3), pixels)
