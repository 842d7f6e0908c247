"""Method `exits`: a frozen backbone with a layer norm and a linear head at each exit.

The baseline of early-exit work: nothing modulates the pass, so no gradient ever enters the
backbone, and the cost of a training step is that of a forward pass.
"""

from __future__ import annotations

from torch import Tensor, nn

from .base import AdapterModel, ExitHead, State, block_unit


class ExitsModel(AdapterModel):
    """Heads on the class tokens of a frozen backbone; ``2D + DC + C`` parameters per exit."""

    def shared_parts(self) -> dict[str, nn.Module]:
        """Nothing is shared: each head belongs to its block."""
        return {}

    def block_parts(self, block: int) -> dict[str, nn.Module]:
        """Give a block a head if there is an exit after it."""
        if block not in self.exits:
            return {}
        return {"head": ExitHead(self.backbone.width, self.num_classes)}

    def advance(self, state: State, block: int) -> tuple[State, Tensor | None]:
        """Run the frozen block and read the exit off the class token."""
        (tokens,) = state
        unit = block_unit(block)
        tokens = self.block(block)(tokens, self.part(unit, "adapter"))
        if block not in self.exits:
            return (tokens,), None
        return (tokens,), self.part(unit, "head")(self.backbone.read_out(tokens))
