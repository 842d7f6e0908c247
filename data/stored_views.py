"""A fixed number of random views of each image, so that what is computed from them can be kept."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .image_set import Part
from .transforms import BatchTransform


class StoredViews:
    """A random transform that gives each image one of a few views, which are always the same.

    View v of the image at position i of its set is drawn from a seed that follows from the run's, i
    and v alone; so it need not be stored to be the same in every epoch, round and process.

    Parameters
    ----------
    transform : BatchTransform
        Gives k images for each one, 1 or a pair; the first of each come first.
    count : int
        Views of each image, 1 or more.
    seed : int
        Of the run.
    """

    def __init__(self, transform: BatchTransform, count: int, seed: int) -> None:
        self.transform = transform
        self.count = count
        self.seed = seed

    def __call__(self, images: np.ndarray, positions: np.ndarray, views: np.ndarray) -> Tensor:
        """Return one view of each image.

        Parameters
        ----------
        images : np.ndarray
            ``(B, H, W, C)`` uint8.
        positions, views : np.ndarray
            ``(B,)``: places of the images in their set, and which view of each.

        Returns
        -------
        Tensor
            ``(k B, 3, S, S)`` float32.
        """
        found = []
        with torch.random.fork_rng(devices=[]):
            for image, position, view in zip(images, positions, views, strict=True):
                words = np.random.SeedSequence([self.seed, int(position), int(view)])
                # torch.manual_seed would also write a stack trace for every kind of device.
                torch.default_generator.manual_seed(int(words.generate_state(1)[0]))
                found.append(self.transform(image[None]))
        return torch.stack(found, dim=1).flatten(0, 1)


# Turns images into the input of a model.
Transform = BatchTransform | StoredViews


def read_pixels(part: Part, places: np.ndarray, transform: Transform, views: np.ndarray) -> Tensor:
    """Return the input of some images of a part; `views` counts where there are several of each."""
    positions = part.positions[places]
    images = part.images.images[positions]
    if isinstance(transform, StoredViews):
        return transform(images, positions, views)
    return transform(images)
