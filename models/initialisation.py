"""How fresh layers start."""

from __future__ import annotations

from torch import nn


def init_linear(module: nn.Module) -> None:
    """Initialise as ReeFL's code does: truncated normal of std 0.02, biases zero.

    For use with ``nn.Module.apply``; modules other than `nn.Linear` keep their own start.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
