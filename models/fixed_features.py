"""Models whose heads read what training leaves alone."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from .base import AdapterModel


class FixedFeaturesModel(AdapterModel):
    """A model whose heads may read what training leaves alone; it can be kept for each image."""

    @property
    @abstractmethod
    def has_fixed_features(self) -> bool:
        """Whether, as this model was built, nothing trained acts before the heads."""

    @property
    def feature_width(self) -> int:
        """Numbers D of `features` for each exit."""
        return self.backbone.width

    def feature_versions(self, depth: int | None = None) -> tuple[int, ...]:
        """Return by exit within `depth` what changes when its features do: nothing does."""
        del depth
        return ()

    @abstractmethod
    def features(self, images: Tensor, depth: int | None = None) -> Tensor:
        """Return what the heads within `depth` read, ``(B, exits, D)``, without gradients."""

    @abstractmethod
    def predict_from(self, features: Tensor, depth: int | None = None) -> dict[int, Tensor]:
        """Return from the `features` of a depth what `forward` returns for it."""
