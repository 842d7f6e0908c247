"""How many of the experts' blocks are trained as the rounds go on: sparsely activated adapters.

The abstract of FedMS (arXiv 2312.15926) says no more than that low-rank matrices become active
while training runs. Here a schedule tells a number k of blocks for each round; it never falls.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from .errors import StrategyError


class Activation(Protocol):
    """A number of active blocks for each round."""

    def __call__(self, server_round: int) -> int:
        """Return k for a round (from 1), as far as it is known by now."""

    def note(self, server_round: int, accuracy: float) -> None:
        """Hear the clients' mean validation accuracy in a round, 0 to 1."""

    def state(self) -> dict[str, np.ndarray]:
        """Return what was learnt from the rounds so far."""

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Take back what `state` returned."""


class LinearActivation:
    """``k_t = min(L, k_0 + floor((L - k_0) t / (ramp T)))``.

    Parameters
    ----------
    start : int
        k_0.
    blocks : int
        L.
    rounds : float
        ``ramp T``: rounds until all blocks are active; 0 is from the start.
    """

    def __init__(self, start: int, blocks: int, rounds: float) -> None:
        self.start, self.blocks, self.rounds = min(start, blocks), blocks, rounds

    def __call__(self, server_round: int) -> int:
        """Return k for a round."""
        if server_round >= self.rounds:
            return self.blocks
        risen = (self.blocks - self.start) * server_round / self.rounds
        return self.start + math.floor(risen + 1e-9)  # a whole number may lie just below itself

    def note(self, server_round: int, accuracy: float) -> None:
        """Go on as planned."""

    def state(self) -> dict[str, np.ndarray]:
        """Return nothing: k follows from the round."""
        return {}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Take back what `state` returned: nothing."""


class PlateauActivation:
    """k rises when the validation accuracy has not for some rounds.

    Parameters
    ----------
    start : int
        k of the first round.
    blocks : int
        L, above which k does not rise.
    step : int
        By how much k rises.
    patience : int
        Rounds without a new best accuracy after which it does.
    threshold : float
        How far an accuracy must lie above the best one to be a new best.
    """

    def __init__(
        self, start: int, blocks: int, *, step: int, patience: int, threshold: float
    ) -> None:
        self.start, self.blocks, self.step = start, blocks, step
        self.patience, self.threshold = patience, threshold
        self.best = -math.inf
        self.waited = 0
        self.rises: list[int] = []  # the rounds after which k rose

    def __call__(self, server_round: int) -> int:
        """Return k for a round."""
        risen = sum(number < server_round for number in self.rises)
        return min(self.blocks, self.start + self.step * risen)

    def note(self, server_round: int, accuracy: float) -> None:
        """Take a new best, or wait, and rise after having waited long enough."""
        if accuracy > self.best + self.threshold:
            self.best, self.waited = accuracy, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            self.rises.append(server_round)
            self.waited = 0

    def state(self) -> dict[str, np.ndarray]:
        """Return the best accuracy, the rounds waited, and when k rose."""
        return {
            "best": np.array([self.best]),
            "waited": np.array([self.waited]),
            "rises": np.array(self.rises, np.int64),
        }

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Take back what `state` returned.

        Raises
        ------
        StrategyError
            For anything else.
        """
        try:
            (best,), (waited,) = state["best"], state["waited"]
            rises = state["rises"]
            self.best, self.waited = float(best), int(waited)
            self.rises = [int(number) for number in rises]
        except (KeyError, ValueError, TypeError, OverflowError):
            raise StrategyError(
                "resume: the checkpoint does not tell how the activation of blocks went on; resume "
                "from another copy."
            ) from None
