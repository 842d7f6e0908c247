"""Logits of a part's images, batch by batch, with what no training changes kept."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from functools import partial

import numpy as np
import torch
from torch import Tensor

from client_app.feature_cache import EVALUATION_BATCH, FeatureBudget, FeatureCache
from client_app.token_cache import TokenCache, Tokens
from data import BatchTransform, Part, Transform, read_pixels
from models import AdapterModel, ExitScores, FixedFeaturesModel, score_exits


def exit_metrics(scores: ExitScores) -> dict[str, float]:
    """Return scores under the names that they have in a reply."""
    return {
        **{f"accuracy-exit-{e}": value for e, value in scores.accuracy.items()},
        **{f"loss-exit-{e}": value for e, value in scores.loss.items()},
        "accuracy": scores.last,
        "num-examples": scores.examples,
    }


def in_fp32(logits: dict[int, Tensor]) -> dict[int, Tensor]:
    """Return logits as losses take them; autocast leaves them in bfloat16."""
    return {block: y.float() for block, y in logits.items()}


class Predictor:
    """A model as training and evaluation use it: parts of images in, logits by exit out.

    Parameters
    ----------
    model : AdapterModel
        On the device it is to run on.
    budget : FeatureBudget, optional
        Room for what is kept; without one nothing is.
    half : bool
        Whether matrix products run in bfloat16 (autocast); logits are fp32 in any case.
    kept_dtype : torch.dtype
        In which tokens are kept.
    on_disk : bool
        Whether tokens are kept in files.

    Attributes
    ----------
    cache : FeatureCache | None
        Of a model whose heads read what training leaves alone.
    tokens : TokenCache | None
        Of any other.
    """

    def __init__(
        self,
        model: AdapterModel,
        *,
        budget: FeatureBudget | None = None,
        half: bool = False,
        kept_dtype: torch.dtype = torch.float32,
        on_disk: bool = False,
    ) -> None:
        self.model = model
        self.half = half
        self.cache: FeatureCache | None = None
        self.tokens: TokenCache | None = None
        if budget and isinstance(model, FixedFeaturesModel) and model.has_fixed_features:
            self.cache = FeatureCache(model, budget)
        elif budget:
            self.tokens = TokenCache(model, budget, dtype=kept_dtype, on_disk=on_disk)

    def batches(
        self,
        part: Part,
        transform: Transform,
        depth: int | None,
        batch_size: int,
        order: np.ndarray | None = None,
        *,
        views: np.ndarray | None = None,
        tokens: Tokens | None = None,
    ) -> Iterator[tuple[dict[int, Tensor], Tensor]]:
        """Yield logits ``(B, C)`` by exit and labels ``(B,)``, batch by batch.

        Parameters
        ----------
        order : np.ndarray, optional
            Places in the part; by default each once, from the first.
        views : np.ndarray, optional
            Which view of each image of `order`, where a transform has several.
        tokens : Tokens, optional
            Of the part, where what is trained begins above the first block.
        """
        order = np.arange(len(part)) if order is None else order
        views = np.zeros(len(order), dtype=np.int64) if views is None else views
        features = self.features(part, transform, depth)
        labels = torch.from_numpy(part.labels).to(self.model.device)
        for start in range(0, len(order), batch_size):
            chosen, viewed = (array[start : start + batch_size] for array in (order, views))
            with self._autocast():
                if tokens is not None:
                    state, logits = tokens.get(chosen, viewed)
                    logits = in_fp32(
                        logits | dict(self.model.exits_from(state, tokens.block, depth))
                    )
                else:
                    pixels = partial(read_pixels, part, chosen, transform, viewed)
                    kept = None if features is None else features[chosen]
                    logits = self.predict(pixels, depth, kept)
            yield logits, labels[chosen]

    def features(self, part: Part, transform: Transform, depth: int | None) -> Tensor | None:
        """Return what the cache keeps of a part's images, ``(n, exits, width)``, if anything."""
        if self.cache is None or not isinstance(transform, BatchTransform):
            return None
        with self._autocast():
            return self.cache.get(part, transform, depth)

    def predict(
        self, pixels: Callable[[], Tensor], depth: int | None, features: Tensor | None
    ) -> dict[int, Tensor]:
        """Return logits ``(B, C)`` by exit, in fp32.

        `pixels` reads the images; it is not called where kept features ``(B, exits, width)`` do.
        """
        if features is not None and isinstance(self.model, FixedFeaturesModel):
            return in_fp32(self.model.predict_from(features, depth))
        return in_fp32(self.model(pixels(), depth))

    def open_tokens(
        self, part: Part, transform: Transform, units: Collection[str]
    ) -> Tokens | None:
        """Return the kept tokens of a part for a training of some units; see `TokenCache.open`."""
        if self.tokens is None:
            return None
        with self._autocast():
            return self.tokens.open(part, transform, units)

    def metrics(self, part: Part, transform: BatchTransform, depth: int) -> dict[str, float]:
        """Score a part, in the names of a reply; a method may have more to tell."""
        return exit_metrics(self.score(part, transform, depth))

    @torch.no_grad()
    def score(self, part: Part, transform: Transform, depth: int | None = None) -> ExitScores:
        """Score every exit within `depth` on a part."""
        self.model.eval()
        return score_exits(self.batches(part, transform, depth, EVALUATION_BATCH))

    def _autocast(self) -> AbstractContextManager[None]:
        device = self.model.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.half)
