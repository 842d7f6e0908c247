"""Method `exits`: a frozen backbone with a layer norm and a linear head at each exit.

The baseline of early-exit work: nothing modulates the pass, so no gradient ever enters the
backbone, and the cost of a training step is that of a forward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .adapters import NO_ADAPTER
from .base import ExitHead, State
from .fixed_features import FixedFeaturesModel
from .units import block_unit


class ExitsModel(FixedFeaturesModel):
    """Heads on the class tokens of a frozen backbone; ``2D + DC + C`` parameters per exit."""

    def shared_parts(self) -> dict[str, nn.Module]:
        """Nothing is shared: each head belongs to its block."""
        return {}

    def block_parts(self, block: int) -> dict[str, nn.Module]:
        """Give a block a head if there is an exit after it."""
        if block not in self.exits:
            return {}
        return {"head": ExitHead(self.backbone.width, self.num_classes)}

    def head(self, block: int) -> nn.Module:
        """Return the head after a block that is an exit."""
        head: nn.Module = self.part(block_unit(block), "head")
        return head

    def advance(self, state: State, block: int) -> tuple[State, Tensor | None]:
        """Run the frozen block and read the exit off the class token."""
        (tokens,) = state
        tokens = self.block(block)(tokens)
        if block not in self.exits:
            return (tokens,), None
        return (tokens,), self.head(block)(self.backbone.read_out(tokens))

    @property
    def has_fixed_features(self) -> bool:
        """Without adapters in the blocks, nothing trained acts before the heads."""
        return self.adapter.kind == NO_ADAPTER

    @torch.no_grad()
    def features(self, images: Tensor, depth: int | None = None) -> Tensor:
        """Return the class tokens at the exits within `depth`, ``(B, exits, D)``."""
        (tokens,) = self.begin(images)
        exits, found = self.reach(depth), []
        for number in range(1, exits[-1] + 1):
            tokens = self.block(number)(tokens)
            if number in exits:
                found.append(self.backbone.read_out(tokens))
        return torch.stack(found, dim=1)

    def predict_from(self, features: Tensor, depth: int | None = None) -> dict[int, Tensor]:
        """Apply the heads to kept class tokens."""
        del depth
        return {
            block: self.head(block)(tokens)
            for block, tokens in zip(self.exits, features.unbind(1), strict=False)
        }
