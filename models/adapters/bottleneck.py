"""Adapter kinds `parallel` and `serial`: bottlenecks at the branches of a block."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..backbone import Block
from ..initialisation import init_linear
from .base import Adapter, AdapterSpec


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
    """A frozen block with bottlenecks, ``2 * D * rank + rank + D`` trained for each branch.

    The forms are those of ReeFL's code (arXiv 2405.14791): weights start at std 0.02, not at zero,
    so the features are slightly perturbed from the beginning.

    Parameters
    ----------
    block : Block
        Frozen.
    spec : AdapterSpec
        Its targets are the branches that get a bottleneck.
    """

    def __init__(self, block: Block, spec: AdapterSpec) -> None:
        super().__init__(*block.parts())
        self.trained = nn.ModuleDict(
            {branch: Bottleneck(block.width, spec.rank) for branch in spec.targets}
        )

    def adapt(self, branch: str, read: Tensor, output: Tensor) -> Tensor:
        """Add what a branch's bottleneck makes of `read` to its output; as it is without one."""
        if branch not in self.trained:
            return output
        return output + self.trained[branch](read)


class ParallelBlock(BottleneckBlock):
    """Each bottleneck stands beside its branch and reads what feeds it ("PA")."""

    def attention_branch(self, normed: Tensor) -> Tensor:
        """Add the bottleneck of the branch's input to the attention output, ``(B, N, D)``."""
        return self.adapt("attention", normed, super().attention_branch(normed))

    def mlp_branch(self, normed: Tensor) -> Tensor:
        """Add the bottleneck of the branch's input to the MLP output, ``(B, N, D)``."""
        return self.adapt("mlp", normed, super().mlp_branch(normed))


class SerialBlock(BottleneckBlock):
    """Each bottleneck stands behind its branch and reads its output, before the residual ("SA")."""

    def __init__(self, block: Block, spec: AdapterSpec) -> None:
        super().__init__(block, spec)
        self.is_trained_last = "attention" not in self.trained

    def attention_branch(self, normed: Tensor) -> Tensor:
        """Add the bottleneck of the attention output to it, ``(B, N, D)``."""
        output = super().attention_branch(normed)
        return self.adapt("attention", output, output)

    def join(self, tokens: Tensor, output: Tensor) -> Tensor:
        """Add the bottleneck of the MLP output to it, and both to the tokens, ``(B, N, D)``."""
        return super().join(tokens, self.adapt("mlp", output, output))


class ParallelAdapter(Adapter):
    """Gives every block bottlenecks beside branches."""

    def block(self, frozen: Block) -> Block:
        """Return the block with its bottlenecks; see `ParallelBlock`."""
        return ParallelBlock(frozen, self.spec)


class SerialAdapter(Adapter):
    """Gives every block bottlenecks behind branches."""

    def block(self, frozen: Block) -> Block:
        """Return the block with its bottlenecks; see `SerialBlock`."""
        return SerialBlock(frozen, self.spec)
