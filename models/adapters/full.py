"""Adapter kind `full`: nothing is frozen; every weight is trained and sent."""

from __future__ import annotations

import copy

from torch import nn

from ..backbone import Block
from .base import Adapter


class FullAdapter(Adapter):
    """Trains copies of the blocks and of the embeddings: what the other kinds are compared with.

    It is the only kind that copies weights: every model holds its own beside the backbone, which
    stays as it is.
    """

    def embeddings(self, frozen: nn.Module) -> nn.Module:
        """Return a copy of the embeddings; it has no dropout, as nothing in a backbone has."""
        own = copy.deepcopy(frozen).requires_grad_(True)
        own.set_submodule("dropout", nn.Identity())
        return own

    def block(self, frozen: Block) -> Block:
        """Return a copy of the block."""
        return copy.deepcopy(frozen).requires_grad_(True)
