"""Two random views of each image, for training without labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .transforms import BatchTransform

JITTERED, GREY = 0.8, 0.2  # shares of the views


class ViewTransform(BatchTransform):
    """Turn images ``(B, H, W, C)`` uint8 into two views of each, ``(2B, 3, S, S)`` float32.

    Rows i and B + i are views of image i. Each is drawn by itself, from torch's global CPU
    generator: a random part of the image, resized to the input and maybe mirrored; of eight in
    ten, brightness, contrast, saturation and hue are changed, and two in ten lose their colour.
    SimCLR also blurs, but not images as small as CIFAR's; here none is blurred.

    Parameters
    ----------
    image_size, mean, std, flip, device
        As of `BatchTransform`.
    smallest : float
        Smallest share of an image's area that a view shows; SimCLR's is 0.08.
    jitter : float
        Strength of the changes of colour: 1 is SimCLR's for ImageNet, 0.5 its for CIFAR, 0 none.

    References
    ----------
    Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020.
    """

    def __init__(
        self,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        smallest: float = 0.2,
        jitter: float = 0.5,
        flip: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        from torchvision.transforms import v2  # slow to import

        super().__init__(image_size, mean, std, device=device)
        colours = v2.ColorJitter(0.8 * jitter, 0.8 * jitter, 0.8 * jitter, 0.2 * jitter)
        self._view = v2.Compose(
            [
                v2.RandomResizedCrop(image_size, scale=(smallest, 1.0), antialias=True),
                *([v2.RandomHorizontalFlip()] if flip else []),
                v2.RandomApply([colours], p=JITTERED),
                v2.RandomGrayscale(GREY),
            ]
        )

    @property
    def deterministic(self) -> bool:
        """Views are drawn anew each time."""
        return False

    def __call__(self, images: np.ndarray) -> Tensor:
        """Draw two views of each image of a batch; first views first."""
        pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        # One by one: torchvision draws once for all it is given.
        views = torch.stack([self._view(image) for image in (*pixels, *pixels)])
        return super().__call__(views.permute(0, 2, 3, 1).numpy())
