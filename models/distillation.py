"""The loss over exits with self-distillation: which exit teaches which, and how much it counts."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

TEACHERS = ("best", "forward", "all", "none")
MEMORY = 0.8  # of the running averages of the losses that choose the best exit
STEEPNESS = 5.0


def ramp(server_round: int, rounds: int) -> float:
    """Return the weight of distillation in a round (from 1): from near 0 up to 1 at `rounds`.

    ``exp(-5 (1 - min(r, rounds) / rounds)^2)``, DepthFL's ramp, in ReeFL's code with 300 rounds;
    0 rounds: 1 from the start.
    """
    missing = 1 - min(server_round, rounds) / rounds if rounds else 0.0
    return math.exp(-STEEPNESS * missing**2)


def divergences(logits: Tensor) -> Tensor:
    """Return KL(exit j || exit i) in place [j, i], ``(E, E)``, for logits ``(E, B, C)``.

    A mean over the batch, at temperature 1. Gradients reach exit i, the student, alone.
    """
    students = functional.log_softmax(logits, dim=-1)
    teachers = students.detach()
    probabilities = teachers.exp()
    entropies = (probabilities * teachers).sum(dim=(1, 2))
    crossed = torch.einsum("jbc,ibc->ji", probabilities, students)
    return (entropies[:, None] - crossed) / logits.shape[1]


class Distillation:
    """Cross-entropy at every exit, and what exits learn from each other.

    ``sum_i CE_i + w(r) K``; with a single exit K is 0. The teacher's logits carry no gradient.

    Parameters
    ----------
    teacher : str
        ``best``: the exit with the lowest running average of its loss teaches all others, summed
        over them (ReeFL, arXiv 2405.14791); ``forward``: the deepest exit does; ``all``: every
        exit teaches every other, summed over pairs and divided by the number of other exits
        (DepthFL, ICLR 2023); ``none``: K is 0.
    ramp_rounds : int
        Rounds until distillation has its full weight; see `ramp`.
    """

    def __init__(self, teacher: str, ramp_rounds: int) -> None:
        self.teacher = teacher
        self.ramp_rounds = ramp_rounds
        self.begin_round(1)

    def begin_round(self, server_round: int) -> None:
        """Start a client's local training: averages at 0, the weight of the round (from 1)."""
        self.weight = ramp(server_round, self.ramp_rounds)
        self.averages: Tensor | None = None

    def loss(self, logits: Mapping[int, Tensor], labels: Tensor) -> Tensor:
        """Return a step's loss, a scalar, of logits ``(B, C)`` by exit and labels ``(B,)``."""
        stacked = torch.stack(list(logits.values()))
        count, batch, _ = stacked.shape
        each = functional.cross_entropy(
            stacked.flatten(0, 1), labels.repeat(count), reduction="none"
        )
        losses = each.view(count, batch).mean(dim=1)
        if count == 1 or self.teacher == "none":
            return losses.sum()
        return losses.sum() + self.weight * self._taught(divergences(stacked), losses.detach())

    def _taught(self, pairs: Tensor, losses: Tensor) -> Tensor:
        """Return K from the divergences ``(E, E)`` of all pairs and the current losses ``(E,)``."""
        others = 1 - torch.eye(len(pairs), device=pairs.device)
        if self.teacher == "all":
            return (pairs * others).sum() / (len(pairs) - 1)
        if self.teacher == "forward":
            return pairs[-1, :-1].sum()
        # The current batch counts; all averages start at 0, which does not change their order.
        before = torch.zeros_like(losses) if self.averages is None else self.averages
        self.averages = MEMORY * before + (1 - MEMORY) * losses
        # No number is read: on a GPU that would wait for the step to end.
        best = self.averages.argmin(keepdim=True)
        return (pairs * others).index_select(0, best).sum()
