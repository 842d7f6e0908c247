"""Method `inclusivefl`: each exit is the end of a model of its own, which shares lower blocks.

Source: R. Liu et al., *No One Left Behind: Inclusive Federated Learning over Heterogeneous
Devices*, KDD 2022, in the form of ReeFL's code (arXiv 2405.14791): a device trains the exit at
which it ends, and no other. What is trained in the block before that exit, and the head, belong to
the devices that end there; deeper ones pass through the block with a version of their own::

    block1 - block2 - exit3                                  ends after block 3
    block1 - block2 - block3 - block4 - block5 - exit6       ends after block 6
    block1 - ...                     - block6 - ...          goes further

What the server does with them is in `strategies/inclusivefl.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from .adapters import Adapter
from .backbone import Block
from .base import State
from .exits import ExitsModel
from .units import block_unit

EXIT = "exit"


def exit_unit(block: int) -> str:
    """Return the name of the unit of the devices that end after a block."""
    return f"{EXIT}{block}"


class InclusiveflModel(ExitsModel):
    """The models of all exits at once; ``2D + DC + C`` parameters per head.

    The last exit's own part is in the unit of its block, which nobody else holds.
    """

    def block_parts(self, block: int) -> dict[str, nn.Module]:
        """Give the last block its head; those of the other exits have units of their own."""
        return super().block_parts(block) if block == self.exits[-1] else {}

    def further_units(self, recipe: Adapter) -> dict[str, dict[str, nn.Module]]:
        """Build each other exit's head and its version of its block, which starts as the shared."""
        units = {}
        for block in self.exits[:-1]:
            parts = super().block_parts(block)
            frozen = self.backbone.blocks[block - 1]
            assert isinstance(frozen, Block)
            own, shared = recipe.block(frozen), self.block(block)
            if own is not frozen:
                with torch.no_grad():
                    for mine, theirs in zip(own.parameters(), shared.parameters(), strict=True):
                        if mine is not theirs:  # both hold the backbone's tensors
                            mine.copy_(theirs)
                parts["adapter"] = own
            units[exit_unit(block)] = parts
        return units

    def head(self, block: int) -> nn.Module:
        """Return the head after a block that is an exit."""
        head: nn.Module = self.part(self.end_unit(block), "head")
        return head

    def end_unit(self, block: int) -> str:
        """Return the unit that the devices that end after a block have to themselves."""
        return block_unit(block) if block == self.exits[-1] else exit_unit(block)

    def advance(self, state: State, block: int) -> tuple[State, Tensor | None]:
        """Run a block; at an exit with a version of its own, that one.

        The state after such an exit is still the one before its block: who goes on runs the
        shared version first.
        """
        (tokens,) = state
        if self._own_version(block - 1):
            tokens = self.block(block - 1)(tokens)
        own = self._own_version(block)
        after = (own or self.block(block))(tokens)
        logits = None
        if block in self.exits:
            logits = self.head(block)(self.backbone.read_out(after))
        return (tokens if own else after,), logits

    def exits_from(
        self, state: State, block: int, depth: int | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield every exit; with a depth, the only one of a device: the last within it."""
        if depth is None:
            yield from super().exits_from(state, block)
            return
        last = self.reach(depth)[-1]
        (tokens,), _ = self.lead(state, block, last)
        tokens = (self._own_version(last) or self.block(last))(tokens)
        yield last, self.head(last)(self.backbone.read_out(tokens))

    def lead(self, state: State, first: int, block: int) -> tuple[State, dict[int, Tensor]]:
        """Go on through the shared versions of blocks, on a device's way to its only exit."""
        (tokens,) = state
        for number in range(first, block):
            tokens = self.block(number)(tokens)
        return (tokens,), {}

    def predict_from(self, features: Tensor, depth: int | None = None) -> dict[int, Tensor]:
        """Apply the heads to kept class tokens; with a depth, that of the last within it."""
        if depth is None:
            return super().predict_from(features)
        last = self.reach(depth)[-1]
        return {last: self.head(last)(features[:, -1])}

    def ending_at(self, depth: int) -> tuple[tuple[int, ...], dict[str, np.ndarray]]:
        """Copy out a device's model: its only exit, and its tensors.

        Its own version of the last block is the only one there, and bears the block's name.
        """
        last = self.reach(depth)[-1]
        own, block = f"{self.end_unit(last)}.", f"{block_unit(last)}."
        _, below = super().ending_at(depth)
        tensors = {
            key.replace(own, block, 1): value
            for key, value in below.items()
            if key.startswith(own) or not key.startswith((block, EXIT))
        }
        return (last,), tensors

    def _own_version(self, block: int) -> Block | None:
        """Return an exit's own version of its block; None where it is the shared one."""
        own: Block | None = self.part(exit_unit(block), "adapter")
        return own
