"""Clipped updates, Gaussian noise on their sum, and the epsilon that this gives.

docs/privacy.md says what is promised to whom, and what is not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from .aggregation import Aggregator, HolderEqualMean
from .errors import StrategyError
from .plans import Plan
from .wire import Layout, Vectors


def clip_update(
    vectors: Mapping[str, np.ndarray], bank: Mapping[str, np.ndarray], limit: float
) -> tuple[Vectors, float]:
    """Scale a client's whole update down to an L2 norm of at most `limit`.

    Parameters
    ----------
    vectors : Mapping[str, np.ndarray]
        The client's new flat values by unit; they are not written to.
    bank : Mapping[str, np.ndarray]
        The values before; the update is the difference, over all units of `vectors` at once.
    limit : float
        Above 0.

    Returns
    -------
    tuple[Vectors, float]
        New values in float64, in which the sum of squares cannot overflow, and the update's norm
        before it was clipped. Values of an update within the limit are exactly the client's.

    Raises
    ------
    StrategyError
        When a value is not finite.
    """
    updates = {
        unit: np.subtract(vector, bank[unit], dtype=np.float64) for unit, vector in vectors.items()
    }
    with np.errstate(over="ignore"):
        norm = math.sqrt(sum(float(np.square(update).sum()) for update in updates.values()))
    if not math.isfinite(norm):
        raise StrategyError("it holds values that are not finite")
    if norm <= limit:
        return {unit: vector.astype(np.float64) for unit, vector in vectors.items()}, norm
    scale = limit / norm
    return {unit: bank[unit] + scale * update for unit, update in updates.items()}, norm


class Clipped:
    """Clips every client's update before another aggregator gets it.

    Parameters
    ----------
    aggregator : Aggregator
    bank : Mapping[str, np.ndarray]
        The vectors that the round began with.
    limit : float
        Largest L2 norm of a client's update over all its units.
    """

    def __init__(
        self, aggregator: Aggregator, bank: Mapping[str, np.ndarray], limit: float
    ) -> None:
        self.aggregator = aggregator
        self.bank = bank
        self.limit = limit

    def add(
        self, vectors: Mapping[str, np.ndarray], weight: float, plan: Plan | None
    ) -> dict[str, float]:
        """Clip and pass on; returns ``update-norm``, the norm before. See `Aggregator.add`."""
        clipped, norm = clip_update(vectors, self.bank, self.limit)
        return {"update-norm": norm, **self.aggregator.add(clipped, weight, plan)}

    def result(self, bank: Mapping[str, np.ndarray]) -> Vectors:
        """Return the other aggregator's result."""
        return self.aggregator.result(bank)


class HolderNoisyMean(HolderEqualMean):
    """The unweighted mean over holders, with Gaussian noise on the sum.

    To be fed by `Clipped`: a client then moves the sums of all units together, seen as one
    vector, by at most the limit, and noise of ``noise multiplier * limit`` is a Gaussian mechanism
    of that multiplier. The sums are divided by the number of holders, which counts as public.
    Elements that nobody held get no noise and keep their bits.

    Parameters
    ----------
    layout : Layout
    deviation : float
        Standard deviation of the noise on each element of a sum.
    row_keys : Iterable[str]
        Tensors whose rows belong to blocks; see `Ownership`.
    generator : np.random.Generator, optional
        Source of the noise. Without one it is seeded by the operating system, so that nobody
        can subtract the noise; such rounds do not repeat bit for bit.
    """

    def __init__(
        self,
        layout: Layout,
        deviation: float,
        row_keys: Iterable[str] = (),
        generator: np.random.Generator | None = None,
    ) -> None:
        super().__init__(layout, row_keys)
        self.deviation = deviation
        self.generator = generator or np.random.default_rng()

    def total(self, unit: str) -> np.ndarray:
        """Return the sum of a unit with fresh noise."""
        total = super().total(unit)
        return total + self.generator.normal(0.0, self.deviation, total.size)


def epsilon(noise_multiplier: float, rounds: int, delta: float) -> float:
    """Return the epsilon, at `delta`, of a client that took part in `rounds` noised rounds.

    Rounds of one multiplier z compose to a single Gaussian mechanism of multiplier
    ``z / sqrt(rounds)``, whose epsilon is known exactly (arXiv 1805.06530). Nothing is taken off
    for the sampling of clients: whoever knows the run's seed knows who took part.

    Parameters
    ----------
    noise_multiplier : float
        Standard deviation of the noise on a sum, in units of the clipping limit.
    rounds : int
        All rounds done is a bound for every client.
    delta : float
        Above 0 and below 1.

    Raises
    ------
    StrategyError
        When a value is out of range or too small, or dp-accounting is not installed.
    """
    if not (noise_multiplier >= 0 and rounds >= 0 and 0 < delta < 1):
        raise StrategyError(
            f"epsilon: noise multiplier {noise_multiplier}, {rounds} rounds and delta {delta} must "
            "be 0 or more, 0 or more, and between 0 and 1."
        )
    try:
        from dp_accounting import get_epsilon_gaussian
    except ImportError:
        raise StrategyError(
            "noise-multiplier: epsilon is computed by dp-accounting, which is not installed; "
            "install it with pip install 'fedgraft[privacy]'."
        ) from None
    if not rounds:
        return 0.0
    try:
        with np.errstate(all="ignore"):  # its search passes by values that only look wrong
            return float(get_epsilon_gaussian(noise_multiplier / math.sqrt(rounds), delta))
    except (RuntimeError, ArithmeticError):
        raise StrategyError(
            f"noise-multiplier: {noise_multiplier} over {rounds} rounds protects nobody; raise it, "
            "or set it to 0."
        ) from None
