"""Adapter kind `parallel`: a bottleneck beside each branch of a block."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..backbone import Block
from ..initialisation import init_linear
from .base import Adapter


class Bottleneck(nn.Sequential):
    """``Up(ReLU(Down(x)))`` from width D through `rank` back to D, with biases."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__(nn.Linear(width, rank), nn.ReLU(), nn.Linear(rank, width))


class ParallelBlock(Block):
    """A frozen block with a bottleneck beside each branch, fed with what feeds the branch.

    ``2 * (2 * D * rank + rank + D)`` trained parameters. The form is that of ReeFL's code
    (arXiv 2405.14791, "PA"): weights start at std 0.02, not at zero, so the features are slightly
    perturbed from the beginning.
    """

    def __init__(self, block: Block, rank: int) -> None:
        super().__init__(*block.parts())
        self.beside_attention = Bottleneck(block.width, rank)
        self.beside_mlp = Bottleneck(block.width, rank)
        self.beside_attention.apply(init_linear)
        self.beside_mlp.apply(init_linear)

    def attention_branch(self, normed: Tensor) -> Tensor:
        """Add the bottleneck of the branch's input to the attention output, ``(B, N, D)``."""
        return torch.add(super().attention_branch(normed), self.beside_attention(normed))

    def mlp_branch(self, normed: Tensor) -> Tensor:
        """Add the bottleneck of the branch's input to the MLP output, ``(B, N, D)``."""
        return torch.add(super().mlp_branch(normed), self.beside_mlp(normed))


class ParallelAdapter(Adapter):
    """Gives every block bottlenecks beside its branches."""

    def block(self, frozen: Block) -> Block:
        """Return the block with its bottlenecks; see `ParallelBlock`."""
        return ParallelBlock(frozen, self.spec.rank)
