"""Method `exits`: a frozen backbone with a layer norm and a linear head at each exit.

The baseline of early-exit work: nothing modulates the pass, so no gradient ever enters the
backbone, and the cost of a training step is that of a forward pass.
"""

from __future__ import annotations

from torch import Tensor, nn

from .base import AdapterModel, ExitHead, block_unit


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

    def predict(self, tokens: Tensor, depth: int) -> dict[int, Tensor]:
        """Run the frozen blocks and read each exit off the class token."""
        logits = {}
        for number in range(1, depth + 1):
            unit = block_unit(number)
            tokens = self.block(number)(tokens, self.part(unit, "adapter"))
            if number in self.exits:
                logits[number] = self.part(unit, "head")(self.backbone.read_out(tokens))
        return logits
