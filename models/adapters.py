"""Adapters inside the blocks: small trained modules on the two branches of a frozen block."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .backbone import ModelError


def init_linear(module: nn.Module) -> None:
    """Initialise as ReeFL's code does: truncated normal of std 0.02, biases zero.

    For use with ``nn.Module.apply``; modules other than `nn.Linear` keep their own start.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


class Bottleneck(nn.Sequential):
    """``Up(ReLU(Down(x)))`` from width D through `rank` back to D, with biases."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__(nn.Linear(width, rank), nn.ReLU(), nn.Linear(rank, width))


class ParallelAdapter(nn.Module):
    """A bottleneck beside each branch of a block, fed with what feeds the branch.

    ``2 * (2 * D * rank + rank + D)`` parameters per block. The form is that of ReeFL's code
    (arXiv 2405.14791, "PA"): weights start at std 0.02, not at zero, so the features are slightly
    perturbed from the beginning.
    """

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.beside_attention = Bottleneck(width, rank)
        self.beside_mlp = Bottleneck(width, rank)
        self.apply(init_linear)

    def attention(self, normed: Tensor, output: Tensor) -> Tensor:
        """Add the bottleneck of the branch's input to the attention output, ``(B, N, D)``."""
        return torch.add(output, self.beside_attention(normed))

    def mlp(self, normed: Tensor, output: Tensor) -> Tensor:
        """Add the bottleneck of the branch's input to the MLP output, ``(B, N, D)``."""
        return torch.add(output, self.beside_mlp(normed))


NO_ADAPTER = "none"
BLOCK_ADAPTERS: dict[str, Callable[[int, int], nn.Module]] = {"parallel": ParallelAdapter}


def build_block_adapter(kind: str, width: int, rank: int) -> nn.Module:
    """Build the adapter of one block.

    Raises
    ------
    ModelError
        When `kind` is not one of `BLOCK_ADAPTERS`, or the rank is below 1.
    """
    if kind not in BLOCK_ADAPTERS:
        valid = ", ".join((NO_ADAPTER, *BLOCK_ADAPTERS))
        raise ModelError(f"adapter: '{kind}' is unknown; choose one of {valid}.")
    if rank < 1:
        raise ModelError(f"adapter-rank: {rank} leaves no adapter; set it to 1 or more.")
    return BLOCK_ADAPTERS[kind](width, rank)
