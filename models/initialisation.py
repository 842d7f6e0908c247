"""How fresh layers start, and whole backbones that nobody trained."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn


def init_linear(module: nn.Module) -> None:
    """Initialise as ReeFL's code does: truncated normal of std 0.02, biases zero.

    For use with ``nn.Module.apply``; modules other than `nn.Linear` keep their own start.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


@torch.no_grad()
def draw_weights(model: nn.Module, seed: int) -> None:
    """Start a whole transformer anew.

    Weights are normal with a variance of one over the inputs of their layer, class token and
    position table with one over the width, biases zero, layer norms the identity. The std of 0.02
    that is usual for wide models would leave the tokens of a narrow one nearly alike, and training
    without labels slow to begin. The numbers are numpy's, so that every machine draws the same
    bits, whatever its processor.
    """
    generator = np.random.default_rng(seed)
    for name, parameter in sorted(model.named_parameters()):
        if parameter.ndim == 1:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            shape = parameter.shape
            inputs = math.prod(shape[1:]) if name.endswith("weight") else shape[-1]
            drawn = generator.standard_normal(shape, dtype=np.float32)
            parameter.copy_(torch.from_numpy(drawn / np.float32(math.sqrt(inputs))))
