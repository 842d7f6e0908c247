"""What is computed from the images alone, kept for every image where no training changes it."""

from __future__ import annotations

from logging import WARNING
from typing import Protocol
from weakref import WeakKeyDictionary, WeakSet

import numpy as np
import torch
from flwr.common import log
from torch import Tensor

from data import BatchTransform, ImageSet, Part

EVALUATION_BATCH = 64  # larger ones are not faster on a CPU, and take more than training does


class Sized(Protocol):
    """A cache, as far as its budget cares."""

    @property
    def size(self) -> int:
        """Bytes that are held."""


class Describing(Protocol):
    """A model that can tell, for each exit, what is to be kept of an image.

    Attributes
    ----------
    exits : tuple[int, ...]
    """

    exits: tuple[int, ...]

    @property
    def device(self) -> torch.device:
        """Where the model runs."""

    @property
    def feature_width(self) -> int:
        """Numbers D of `features` for each exit."""

    def feature_versions(self, depth: int | None = None) -> tuple[int, ...]:
        """Return by exit within `depth` what changes when its features do; maybe nothing."""

    def features(self, images: Tensor, depth: int | None = None) -> Tensor:
        """Return what is kept of images, ``(B, exits, D)``, without gradients."""

    def reach(self, depth: int | None = None) -> tuple[int, ...]:
        """Return the exits within `depth` blocks."""


class FeatureBudget:
    """The room that several caches share; what a cache lets go of is free again.

    Parameters
    ----------
    limit : int
        Bytes of all caches together.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._caches: WeakSet[Sized] = WeakSet()

    @property
    def free(self) -> int:
        """Bytes that no cache holds."""
        return self.limit - sum(cache.size for cache in self._caches)

    def share(self, cache: Sized) -> None:
        """Count a cache from now on, for as long as it is there."""
        self._caches.add(cache)


class FeatureCache:
    """Features ``(N, E, D)`` of the images of each set, computed once per process and image.

    Images are looked up by their place in the set, so it does not matter which client comes to
    which process. Rows are filled when they are first asked for.

    Parameters
    ----------
    model : Describing
    budget : FeatureBudget
        A set whose features would go beyond is computed anew every time, and a warning tells so.
    """

    def __init__(self, model: Describing, budget: FeatureBudget) -> None:
        self.model = model
        self.budget = budget
        self._versions: tuple[int, ...] = ()
        # By set: the features, and how many exits of each image are filled.
        self._kept: WeakKeyDictionary[ImageSet, tuple[Tensor, np.ndarray]] = WeakKeyDictionary()
        self._refused: WeakSet[ImageSet] = WeakSet()
        budget.share(self)

    @property
    def size(self) -> int:
        """Bytes of the features of all sets that are still there."""
        return sum(features.nbytes for features, _ in self._kept.values())

    def get(self, part: Part, transform: BatchTransform, depth: int | None) -> Tensor | None:
        """Return the part's features ``(n, exits, D)``; None where they cannot be kept."""
        if not transform.deterministic:
            return None
        self._forget(self.model.feature_versions(depth))
        if not self._reserve(part.images):
            return None
        features, filled = self._kept[part.images]
        count = len(self.model.reach(depth))
        # Sorted: the same batches, and so the same bits, whatever the client's order is today.
        missing = np.sort(part.positions[filled[part.positions] < count])
        for start in range(0, len(missing), EVALUATION_BATCH):
            chosen = missing[start : start + EVALUATION_BATCH]
            pixels = transform(part.images.images[chosen])
            features[chosen, :count] = self.model.features(pixels, depth).to(features.dtype)
            filled[chosen] = count
        return features[part.positions, :count]

    def _forget(self, versions: tuple[int, ...]) -> None:
        """Let go of features that were computed with anything else than now."""
        known = min(len(versions), len(self._versions))
        if versions[:known] != self._versions[:known]:
            self._kept.clear()
            self._versions = versions
        elif len(versions) > known:
            self._versions = versions

    def _reserve(self, images: ImageSet) -> bool:
        """Make room for a set at its first use; tell whether there is any."""
        if images in self._kept or images in self._refused:
            return images in self._kept
        shape = (len(images), len(self.model.exits), self.model.feature_width)
        size = 4 * int(np.prod(shape))
        if size > self.budget.free:
            self._refused.add(images)
            log(
                WARNING,
                "Features of %d images take %.0f MB, more than is left of cache-megabytes; they "
                "are computed in every epoch.",
                len(images),
                size / 1e6,
            )
            return False
        # Pages of an empty tensor take memory only when they are filled.
        features = torch.empty(shape, device=self.model.device)
        self._kept[images] = features, np.zeros(len(images), dtype=np.int64)
        return True
