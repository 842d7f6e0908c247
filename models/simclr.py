"""Self-supervised training by SimCLR: its loss, the projection head, and a model that has both.

The model stands in the place of the method's own: the method says which blocks are trained when.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .adapters import Adapter, start_at_nothing
from .backbone import Backbone
from .base import AdapterModel, State

PROJECTION = "projection"
PROJECTED = 128  # width of what is compared, as published


def nt_xent(projections: Tensor, temperature: float) -> Tensor:
    """Return SimCLR's loss, the normalised temperature-scaled cross-entropy.

    Each view has to pick out the other view of its image among all other views of the batch, by
    the cosine of the angle between projections.

    Parameters
    ----------
    projections : Tensor
        ``(2B, P)``; rows i and B + i are the two views of image i.
    temperature : float
        What cosines are divided by, above 0.

    Returns
    -------
    Tensor
        A scalar, the mean over the 2B views; 0 for a single image, which has nothing beside it.

    References
    ----------
    Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020.
    """
    directions = functional.normalize(projections, dim=1)
    similarity = directions @ directions.T / temperature
    count = len(projections)
    itself = torch.eye(count, dtype=torch.bool, device=projections.device)
    partners = torch.arange(count, device=projections.device).roll(count // 2)
    return functional.cross_entropy(similarity.masked_fill(itself, -torch.inf), partners)


class ProjectionHead(nn.Sequential):
    """Layer norm and an MLP with one hidden layer: class token ``(B, D)`` to ``(B, 128)``."""

    def __init__(self, width: int) -> None:
        super().__init__(
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, PROJECTED),
        )


class SimclrModel(AdapterModel):
    """The adapted blocks and a projection head; no exits, no classes, no labels.

    The class token after the last block that runs goes through the projection head, which is a
    unit of its own and has ``D^2 + 131 D + 128`` parameters.

    Parameters
    ----------
    temperature : float
        Of the loss; see `nt_xent`.
    """

    adapters_alone = True

    def __init__(
        self,
        backbone: Backbone,
        exits: tuple[int, ...],
        num_classes: int,
        *,
        temperature: float = 0.5,
        **adapter: Any,
    ) -> None:
        super().__init__(backbone, exits, num_classes, **adapter)
        self.temperature = temperature
        # So that a block which no training has reached is the backbone's, also downstream.
        start_at_nothing(self.units)

    def shared_parts(self) -> dict[str, nn.Module]:
        """Nothing is shared but the projection head."""
        return {}

    def block_parts(self, block: int) -> dict[str, nn.Module]:
        """A block has its adapter alone."""
        del block
        return {}

    def further_units(self, recipe: Adapter) -> dict[str, dict[str, nn.Module]]:
        """Build the projection head."""
        del recipe
        return {PROJECTION: {"mlp": ProjectionHead(self.backbone.width)}}

    def advance(self, state: State, block: int) -> tuple[State, Tensor | None]:
        """Run a block; there is no prediction after any."""
        return (self.block(block)(*state),), None

    def block_of(self, unit: str) -> int:
        """The projection head acts after all blocks."""
        return self.exits[-1] + 1 if unit == PROJECTION else super().block_of(unit)

    def exits_from(
        self, state: State, block: int, depth: int | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield the last block that runs, and the projections ``(B, 128)`` after it."""
        end = self.exits[-1] if depth is None else depth
        for number in range(block, end + 1):
            if not (self.training and number in self.skipped):
                state, _ = self.advance(state, number)
        yield end, self.part(PROJECTION, "mlp")(self.backbone.read_out(state[0]))

    def loss(self, logits: Mapping[int, Tensor], labels: Tensor) -> Tensor:
        """Return SimCLR's loss of the projections of two views; labels are not read."""
        del labels
        (projections,) = logits.values()
        return nt_xent(projections, self.temperature)

    def scores(self, logits: Mapping[int, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """There is nothing to score without labels."""
        del logits, labels
        return {}
