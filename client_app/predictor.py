"""Logits of a part's images, batch by batch, with the features that no training changes kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from logging import WARNING
from typing import Protocol
from weakref import WeakKeyDictionary, WeakSet

import numpy as np
import torch
from flwr.common import log
from torch import Tensor

from data import BatchTransform, ImageSet, Part
from models import AdapterModel, ExitScores, FixedFeaturesModel, score_exits

EVALUATION_BATCH = 256


class Describing(Protocol):
    """A model of which something about an image may be kept, for each exit."""

    @property
    def exits(self) -> tuple[int, ...]:
        """The blocks after which there is a prediction."""

    @property
    def device(self) -> torch.device:
        """Where the model runs."""

    def reach(self, depth: int | None = None) -> tuple[int, ...]:
        """Return the exits within `depth` blocks."""

    def features(self, images: Tensor, depth: int | None = None) -> Tensor:
        """Return what may be kept of images, ``(B, exits, D)``, without gradients."""


class FeatureBudget:
    """The memory that several caches share; what a cache lets go of is free again.

    Parameters
    ----------
    limit : int
        Bytes of all caches together.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._caches: WeakSet[FeatureCache] = WeakSet()

    @property
    def free(self) -> int:
        """Bytes that no cache holds."""
        return self.limit - sum(cache.size for cache in self._caches)

    def share(self, cache: FeatureCache) -> None:
        """Count a cache from now on, for as long as it is there."""
        self._caches.add(cache)


class FeatureCache:
    """Features ``(N, E, D)`` of the images of each set, computed once per process and image.

    Images are looked up by their place in the set, so it does not matter which client comes to
    which process. Rows are filled when they are first asked for.

    Parameters
    ----------
    model : Describing
    width : int
        D of its features.
    budget : FeatureBudget
        A set whose features would go beyond is computed anew every time, and a warning tells so.
    """

    def __init__(self, model: Describing, width: int, budget: FeatureBudget) -> None:
        self.model = model
        self.width = width
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

    def get(
        self,
        part: Part,
        transform: BatchTransform,
        depth: int | None,
        versions: tuple[int, ...] = (),
    ) -> Tensor | None:
        """Return the part's features ``(n, exits, D)``; None where they cannot be kept.

        `versions` marks, exit by exit, what the features are computed with; where that is another
        than it was, all are computed anew.
        """
        known = min(len(versions), len(self._versions))
        if versions[:known] != self._versions[:known]:
            self._kept.clear()
            self._versions = versions
        self._versions += versions[len(self._versions) :]
        if not transform.deterministic or not self._reserve(part.images):
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

    def _reserve(self, images: ImageSet) -> bool:
        """Make room for a set at its first use; tell whether there is any."""
        if images in self._kept or images in self._refused:
            return images in self._kept
        shape = (len(images), len(self.model.exits), self.width)
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


def exit_metrics(scores: ExitScores) -> dict[str, float]:
    """Return scores under the names that they have in a reply."""
    return {
        **{f"accuracy-exit-{e}": value for e, value in scores.accuracy.items()},
        **{f"loss-exit-{e}": value for e, value in scores.loss.items()},
        "accuracy": scores.last,
        "num-examples": scores.examples,
    }


class Predictor:
    """A model as training and evaluation use it: parts of images in, logits by exit out.

    Parameters
    ----------
    model : AdapterModel
        On the device it is to run on.
    budget : FeatureBudget, optional
        Memory for features; without one none are kept.
    half : bool
        Whether matrix products run in bfloat16 (autocast); logits are fp32 in any case.
    """

    def __init__(
        self, model: AdapterModel, *, budget: FeatureBudget | None = None, half: bool = False
    ) -> None:
        self.model = model
        self.half = half
        self.cache: FeatureCache | None = None
        if budget and isinstance(model, FixedFeaturesModel) and model.has_fixed_features:
            self.cache = FeatureCache(model, model.backbone.width, budget)

    def batches(
        self,
        part: Part,
        transform: BatchTransform,
        depth: int | None,
        batch_size: int,
        order: np.ndarray | None = None,
    ) -> Iterator[tuple[dict[int, Tensor], Tensor]]:
        """Yield logits ``(B, C)`` by exit and labels ``(B,)``, in `order` of the part's places."""
        order = np.arange(len(part)) if order is None else order
        with self._autocast():
            features = self._features(part, transform, depth)
        labels = torch.from_numpy(part.labels).to(self.model.device)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            pixels = partial(transform, part.images.images[part.positions[chosen]])
            with self._autocast():
                logits = self._answer(pixels, None if features is None else features[chosen], depth)
            yield logits, labels[chosen]

    def _features(self, part: Part, transform: BatchTransform, depth: int | None) -> Tensor | None:
        """Return what is kept of a part's images; None where nothing is."""
        return None if self.cache is None else self.cache.get(part, transform, depth)

    def _answer(
        self, pixels: Callable[[], Tensor], features: Tensor | None, depth: int | None
    ) -> dict[int, Tensor]:
        """Return a batch's logits by exit in fp32, from its images or from what is kept of them."""
        if features is not None and isinstance(self.model, FixedFeaturesModel):
            logits = self.model.predict_from(features, depth)
        else:
            logits = self.model(pixels(), depth)
        return {block: y.float() for block, y in logits.items()}

    def metrics(self, part: Part, transform: BatchTransform, depth: int) -> dict[str, float]:
        """Score a part, in the names of a reply; a method may have more to tell."""
        return exit_metrics(self.score(part, transform, depth))

    @torch.no_grad()
    def score(self, part: Part, transform: BatchTransform, depth: int | None = None) -> ExitScores:
        """Score every exit within `depth` on a part."""
        self.model.eval()
        return score_exits(self.batches(part, transform, depth, EVALUATION_BATCH))

    def _autocast(self) -> AbstractContextManager[None]:
        device = self.model.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.half)
