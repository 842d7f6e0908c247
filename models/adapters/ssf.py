"""Adapter kind `ssf`: a trained scale and shift of every channel of the backbone's layers."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from ..backbone import Block
from .base import Adapter, copy_structure
from .lora import LINEARS

START_STD = 0.02


class ScaleShift(nn.Module):
    """``scale * x + shift`` for each of D channels, ``2 D`` trained numbers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(width).normal_(1.0, START_STD))
        self.shift = nn.Parameter(torch.empty(width).normal_(0.0, START_STD))

    def forward(self, values: Tensor) -> Tensor:
        """Map values ``(..., D)`` to values of the same shape."""
        return torch.addcmul(self.shift, values, self.scale)


class SsfAdapter(Adapter):
    """Scales and shifts what layers put out (SSF, arXiv 2210.08823), in the form of ReeFL's code.

    The layers are the patch embedding, both layer norms and all linear layers of a block, and the
    layer norm of a head. Scales start around 1 and shifts around 0 with std 0.02, so the features
    are slightly perturbed from the beginning.
    """

    def embeddings(self, frozen: nn.Module) -> nn.Module:
        """Return embeddings whose patches are scaled and shifted before positions are added."""
        adapted = copy_structure(frozen)
        patches = adapted.get_submodule("patch_embeddings")
        ssf = ScaleShift(adapted.get_parameter("position_embeddings").shape[-1])
        adapted.set_submodule("patch_embeddings", nn.Sequential(patches, ssf))
        adapted.trained = nn.ModuleDict({"patches": ssf})
        return adapted

    def block(self, frozen: Block) -> Block:
        """Return the block with its layers scaled and shifted, eight of them."""
        adapted = copy_structure(frozen)
        trained = nn.ModuleDict()
        for name, place in {"norm1": "norm1", "norm2": "norm2", **LINEARS}.items():
            layer = adapted.get_submodule(place)
            trained[name] = ScaleShift(
                layer.out_features if isinstance(layer, nn.Linear) else frozen.width
            )
            adapted.set_submodule(place, nn.Sequential(layer, trained[name]))
        adapted.trained = trained
        return adapted

    def head(self, head: nn.Sequential) -> nn.Sequential:
        """Return the head with a scale and shift between its layer norm and its linear layer."""
        norm, linear = head
        assert isinstance(norm, nn.LayerNorm)
        ssf = ScaleShift(norm.normalized_shape[0])
        return nn.Sequential(OrderedDict({"0": norm, "ssf": ssf, "1": linear}))
