"""Adapter kinds `parallel` and `serial`: a bottleneck at each branch of a block."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..backbone import Block
from ..initialisation import init_linear
from .base import Adapter


class Bottleneck(nn.Module):
    """``Up(ReLU(Down(x)))`` from width D through `rank` back to D, with biases."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, rank)
        self.up = nn.Linear(rank, width)
        self.apply(init_linear)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens ``(B, N, D)`` to what is added to a branch, ``(B, N, D)``."""
        output: Tensor = self.up(torch.relu(self.down(tokens)))
        return output


class BottleneckBlock(Block):
    """A frozen block with a bottleneck for each branch, ``2 * (2 * D * rank + rank + D)`` trained.

    The forms are those of ReeFL's code (arXiv 2405.14791): weights start at std 0.02, not at zero,
    so the features are slightly perturbed from the beginning.
    """

    def __init__(self, block: Block, rank: int) -> None:
        super().__init__(*block.parts())
        self.trained = nn.ModuleDict(
            {branch: Bottleneck(block.width, rank) for branch in ("attention", "mlp")}
        )


class ParallelBlock(BottleneckBlock):
    """Each bottleneck stands beside its branch and reads what feeds it ("PA")."""

    def attention_branch(self, normed: Tensor) -> Tensor:
        """Add the bottleneck of the branch's input to the attention output, ``(B, N, D)``."""
        return super().attention_branch(normed) + self.trained["attention"](normed)

    def mlp_branch(self, normed: Tensor) -> Tensor:
        """Add the bottleneck of the branch's input to the MLP output, ``(B, N, D)``."""
        return super().mlp_branch(normed) + self.trained["mlp"](normed)


class SerialBlock(BottleneckBlock):
    """Each bottleneck stands behind its branch and reads its output, before the residual ("SA")."""

    def attention_branch(self, normed: Tensor) -> Tensor:
        """Add the bottleneck of the attention output to it, ``(B, N, D)``."""
        output = super().attention_branch(normed)
        return output + self.trained["attention"](output)

    def mlp_branch(self, normed: Tensor) -> Tensor:
        """Add the bottleneck of the MLP output to it, ``(B, N, D)``."""
        output = super().mlp_branch(normed)
        return output + self.trained["mlp"](output)


class ParallelAdapter(Adapter):
    """Gives every block bottlenecks beside its branches."""

    def block(self, frozen: Block) -> Block:
        """Return the block with its bottlenecks; see `ParallelBlock`."""
        return ParallelBlock(frozen, self.spec.rank)


class SerialAdapter(Adapter):
    """Gives every block bottlenecks behind its branches."""

    def block(self, frozen: Block) -> Block:
        """Return the block with its bottlenecks; see `SerialBlock`."""
        return SerialBlock(frozen, self.spec.rank)
