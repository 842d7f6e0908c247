"""Accuracy and loss at every exit, for the server's test set and for a client's own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


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

    @property
    def last(self) -> float:
        """The accuracy of the last exit."""
        return self.accuracy[max(self.accuracy)]


@torch.no_grad()
def score_exits(predictions: Iterable[tuple[dict[int, Tensor], Tensor]]) -> ExitScores:
    """Score batches of logits ``(B, C)`` by exit and labels ``(B,)``; at least one batch."""
    correct: dict[int, int] = {}
    loss: dict[int, float] = {}
    examples = 0
    for logits_by_exit, labels in predictions:
        examples += len(labels)
        for block, logits in logits_by_exit.items():
            hits = int((logits.argmax(dim=1) == labels).sum())
            total = float(functional.cross_entropy(logits, labels, reduction="sum"))
            correct[block] = correct.get(block, 0) + hits
            loss[block] = loss.get(block, 0.0) + total
    return ExitScores(
        {block: count / examples for block, count in correct.items()},
        {block: total / examples for block, total in loss.items()},
        examples,
    )
