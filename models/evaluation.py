"""Accuracy and loss at every exit, for the server's test set and for a client's own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .base import AdapterModel


@dataclass(frozen=True)
class ExitScores:
    """Accuracy (0 to 1) and mean cross-entropy by exit, over `examples` images."""

    accuracy: dict[int, float]
    loss: dict[int, float]
    examples: int

    @property
    def mean(self) -> float:
        """The plain mean of the exits' accuracies."""
        return sum(self.accuracy.values()) / len(self.accuracy)


@torch.no_grad()
def evaluate_exits(
    model: AdapterModel, batches: Iterable[tuple[Tensor, Tensor]], depth: int | None = None
) -> ExitScores:
    """Score every exit within `depth` on batches of images ``(B, 3, S, S)`` and labels ``(B,)``."""
    model.eval()
    exits = model.reach(depth)
    correct, loss, examples = dict.fromkeys(exits, 0), dict.fromkeys(exits, 0.0), 0
    for images, labels in batches:
        examples += len(labels)
        for exit_block, logits in model(images, depth).items():
            correct[exit_block] += int((logits.argmax(dim=1) == labels).sum())
            loss[exit_block] += float(functional.cross_entropy(logits, labels, reduction="sum"))
    return ExitScores(
        {e: count / examples for e, count in correct.items()},
        {e: total / examples for e, total in loss.items()},
        examples,
    )
