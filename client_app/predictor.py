"""Logits of a part's images, batch by batch, with the features that no training changes kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from client_app.feature_cache import EVALUATION_BATCH, FeatureBudget, FeatureCache
from data import BatchTransform, Part
from models import AdapterModel, ExitScores, FixedFeaturesModel, score_exits


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
            self.cache = FeatureCache(model, budget)

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
        features = None
        if self.cache is not None:
            with self._autocast():
                features = self.cache.get(part, transform, depth)
        labels = torch.from_numpy(part.labels).to(self.model.device)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            with self._autocast():
                if features is not None and isinstance(self.model, FixedFeaturesModel):
                    logits = self.model.predict_from(features[chosen], depth)
                else:
                    pixels = transform(part.images.images[part.positions[chosen]])
                    logits = self.model(pixels, depth)
            yield {block: y.float() for block, y in logits.items()}, labels[chosen]

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
