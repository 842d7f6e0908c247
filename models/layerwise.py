"""Method `layerwise`: adapters that are trained a few blocks at a time, with heads at the exits.

The schedule is in `strategies/layerwise.py`; this is the model that it trains. Every adapter starts
as nothing, so that a block which no phase has reached is the pretrained one, and a new phase begins
where the last one ended.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .adapters import NO_ADAPTER, Adapter, start_at_nothing
from .backbone import Backbone, ModelError
from .base import ExitHead, State
from .exits import ExitsModel

HEAD = "head"


def head_unit(block: int) -> str:
    """Return the name of the unit of the head after a block."""
    return f"{HEAD}{block}"


class LayerwiseModel(ExitsModel):
    """Adapters in the blocks, and heads in units of their own; ``2D + DC + C`` parameters a head.

    An exit whose head is `missing` gives no prediction.
    """

    adapters_alone = True

    def __init__(
        self, backbone: Backbone, exits: tuple[int, ...], num_classes: int, **adapter: Any
    ) -> None:
        super().__init__(backbone, exits, num_classes, **adapter)
        if self.adapter.kind == NO_ADAPTER:
            raise ModelError(
                "adapter: method layerwise trains what is inside the blocks, and adapter=none "
                "leaves nothing there; choose another, such as parallel."
            )
        start_at_nothing(self.units)

    def block_parts(self, block: int) -> dict[str, nn.Module]:
        """A block has its adapter alone: its head may be trained when it is not."""
        del block
        return {}

    def further_units(self, recipe: Adapter) -> dict[str, dict[str, nn.Module]]:
        """Build the heads."""
        del recipe
        return {
            head_unit(block): {"head": ExitHead(self.backbone.width, self.num_classes)}
            for block in self.exits
        }

    def head(self, block: int) -> nn.Module:
        """Return the head after a block that is an exit."""
        head: nn.Module = self.part(head_unit(block), "head")
        return head

    def advance(self, state: State, block: int) -> tuple[State, Tensor | None]:
        """Run a block, and read the exit off the class token if its head is there."""
        tokens = self.block(block)(*state)
        if block not in self.exits or head_unit(block) in self.missing:
            return (tokens,), None
        return (tokens,), self.head(block)(self.backbone.read_out(tokens))
