"""The optimiser of local training: its rates, its parameters, and how it starts afresh."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from settings import Settings


def learning_rate(settings: Settings, server_round: int) -> float:
    """Return the learning rate of a round (from 1): constant, or half a cosine to near zero.

    The first round has the whole rate. Where published code counts the same cosine from round 1
    on (ReeFL's), its rates are those of this schedule one round later.
    """
    # After the last round, what is left to learn (about clients held out) begins anew.
    if settings.schedule == "constant" or server_round > settings.rounds:
        return settings.learning_rate
    progress = (server_round - 1) / settings.rounds
    cosine = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
    return max(settings.minimum_rate, cosine)


def make_optimizer(settings: Settings, trained: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    """Build an optimiser; `restart` gives it its learning rate.

    Heads (``<unit>.head...``) have a learning rate of their own: what modulates the frozen pass
    diverges at the rates that a fresh linear layer needs to learn in a few steps.
    """
    heads = {key for key in trained if key.split(".")[1] == "head"}
    groups = [
        {"params": [trained[key] for key in trained if key in heads], "factor": settings.head_rate},
        {"params": [trained[key] for key in trained if key not in heads], "factor": 1.0},
    ]
    filled = [group for group in groups if group["params"]]
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(filled, lr=rate, weight_decay=decay, fused=True)
    momentum = 0.9 if settings.optimizer == "momentum" else 0.0
    return torch.optim.SGD(filled, lr=rate, momentum=momentum, weight_decay=decay, fused=True)


def restart(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Make a used optimiser like a new one: clients keep no state between rounds."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, Tensor):
                value.zero_()
