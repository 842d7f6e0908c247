"""Server optimisers: from a round's means to the new bank.

A round's mean is where the clients went, so ``theta - mean`` serves as a gradient of the bank's
values theta (arXiv 2003.00295). Momentum, Adam and Yogi remember it over the rounds; `ServerDyn` is
the server's half of FedDyn (arXiv 2111.04263).

An optimiser works on vectors by unit and knows nothing of messages or strategies. It steps where
somebody owned an element in the round, also if the mean is what the element was: momentum goes on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from logging import WARNING
from typing import ClassVar

import numpy as np
from flwr.common import log

from .aggregation import accumulation_dtype, as_dtype
from .errors import StrategyError
from .wire import Vectors


class ServerOptimizer(ABC):
    """A step of the bank towards a round's means, and what is remembered for the next one."""

    @abstractmethod
    def step(
        self,
        bank: Mapping[str, np.ndarray],
        means: Mapping[str, np.ndarray],
        shares: Mapping[str, np.ndarray],
    ) -> Vectors:
        """Return the new vectors of every unit of `means`.

        Elements that nobody owned in the round keep their bits, and what is remembered of them
        stays as it is. Whole numbers (counters of other people's apps) become their mean.

        Parameters
        ----------
        bank : Mapping[str, np.ndarray]
            Values that the round began with, by unit; not written to.
        means : Mapping[str, np.ndarray]
            The means of the units that somebody sent, in the dtypes of `bank`; where nobody owned
            an element, the value of `bank`.
        shares : Mapping[str, np.ndarray]
            By unit, the share of all clients that owned it in the round: one number, or one for
            each element; 0 where nobody did.

        Raises
        ------
        StrategyError
            When a loaded state does not fit the bank.
        """

    def state(self) -> Vectors:
        """Return all that is remembered, by name, for a checkpoint."""
        return {}

    @abstractmethod
    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Take back what `state` returned; raises StrategyError for anything else."""


class _GradientOptimizer(ServerOptimizer):
    """A step that follows from ``g = theta - mean``, element by element.

    Attributes
    ----------
    kept : ClassVar[tuple[str, ...]]
        Names of what is remembered of every element; it begins at 0.
    """

    kept: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        self._memory: dict[str, Vectors] = {name: {} for name in self.kept}

    @abstractmethod
    def update(self, gradient: np.ndarray, *memory: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return what to take off the values, then the new memory, in the order of `kept`."""

    def step(
        self,
        bank: Mapping[str, np.ndarray],
        means: Mapping[str, np.ndarray],
        shares: Mapping[str, np.ndarray],
    ) -> Vectors:
        """Return the new vectors; see `ServerOptimizer.step`."""
        return {
            unit: self._stepped(unit, bank[unit], mean, shares[unit] > 0)
            if mean.dtype.kind == "f"
            else mean
            for unit, mean in means.items()
        }

    def _stepped(
        self, unit: str, old: np.ndarray, mean: np.ndarray, owned: np.ndarray
    ) -> np.ndarray:
        owned = np.broadcast_to(owned, old.shape)
        gradient = np.subtract(old, mean, dtype=accumulation_dtype(old.dtype))[owned]
        memory = [self._remembered(name, unit, gradient.dtype, old.size) for name in self.kept]
        step, *updated = self.update(gradient, *(vector[owned] for vector in memory))
        for vector, values in zip(memory, updated, strict=True):
            vector[owned] = values
        new = old.copy()
        new[owned] = as_dtype(old[owned] - step, old.dtype)
        return new

    def _remembered(self, name: str, unit: str, dtype: np.dtype, size: int) -> np.ndarray:
        vector = self._memory[name].setdefault(unit, np.zeros(size, dtype))
        if vector.shape != (size,) or vector.dtype != dtype:
            raise StrategyError(
                f"resume: the checkpoint's {name} of '{unit}' does not fit its {size} values; "
                "resume from another copy."
            )
        return vector

    def state(self) -> Vectors:
        """Return all that is remembered, by ``<name>.<unit>``."""
        return {
            f"{name}.{unit}": vector
            for name, vectors in self._memory.items()
            for unit, vector in vectors.items()
        }

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Take back what `state` returned; raises StrategyError for anything else."""
        for key, vector in state.items():
            name, _, unit = key.partition(".")
            if name not in self._memory or not np.isfinite(vector).all():
                raise StrategyError(
                    f"resume: '{key}' in the checkpoint is nothing this server-optimizer keeps; "
                    "resume from another copy."
                )
            self._memory[name][unit] = vector.copy()


class ServerSgd(_GradientOptimizer):
    """Go `rate` of the way to the mean; 1 is federated averaging itself, to the bit.

    Parameters
    ----------
    rate : float
        Server learning rate, above 0.
    """

    def __init__(self, rate: float = 1.0) -> None:
        super().__init__()
        self.rate = rate

    def step(
        self,
        bank: Mapping[str, np.ndarray],
        means: Mapping[str, np.ndarray],
        shares: Mapping[str, np.ndarray],
    ) -> Vectors:
        """Return the new vectors; see `ServerOptimizer.step`."""
        return dict(means) if self.rate == 1 else super().step(bank, means, shares)

    def update(self, gradient: np.ndarray, *memory: np.ndarray) -> tuple[np.ndarray, ...]:
        """Take off ``rate * g``."""
        return (self.rate * gradient,)


class ServerMomentum(_GradientOptimizer):
    """FedAvgM (arXiv 1909.06335): ``m <- b m + g``, ``theta <- theta - rate m``.

    Parameters
    ----------
    rate : float
        Server learning rate, above 0. A lasting gradient adds up to ``1 / (1 - momentum)`` of it.
    momentum : float
        b, from 0 and below 1.
    """

    kept = ("momentum",)

    def __init__(self, rate: float = 1.0, momentum: float = 0.9) -> None:
        super().__init__()
        self.rate, self.momentum = rate, momentum

    def update(self, gradient: np.ndarray, *memory: np.ndarray) -> tuple[np.ndarray, ...]:
        """Take off ``rate * m``."""
        (mean,) = memory
        mean = self.momentum * mean + gradient
        return self.rate * mean, mean


class ServerAdam(_GradientOptimizer):
    """FedAdam (arXiv 2003.00295), without bias correction.

    ``m <- b1 m + (1 - b1) g``, ``v <- b2 v + (1 - b2) g^2``,
    ``theta <- theta - rate m / (sqrt(v) + tau)``.

    Parameters
    ----------
    rate : float
        Server learning rate, above 0.
    momentum, beta2 : float
        b1 and b2, from 0 and below 1.
    tau : float
        Above 0. An element whose gradients are far below it hardly moves.
    """

    kept = ("momentum", "variance")

    def __init__(
        self, rate: float = 1e-3, momentum: float = 0.9, beta2: float = 0.999, tau: float = 1e-6
    ) -> None:
        super().__init__()
        self.rate, self.momentum, self.beta2, self.tau = rate, momentum, beta2, tau

    def update(self, gradient: np.ndarray, *memory: np.ndarray) -> tuple[np.ndarray, ...]:
        """Take off ``rate * m / (sqrt(v) + tau)``."""
        mean, variance = memory
        mean = self.momentum * mean + (1 - self.momentum) * gradient
        variance = self.new_variance(variance, np.square(gradient))
        return self.rate * mean / (np.sqrt(variance) + self.tau), mean, variance

    def new_variance(self, variance: np.ndarray, square: np.ndarray) -> np.ndarray:
        """Return v of this round from that of the last one and ``g^2``."""
        return self.beta2 * variance + (1 - self.beta2) * square


class ServerYogi(ServerAdam):
    """FedYogi (arXiv 2003.00295): v moves by ``(1 - b2) g^2``, whatever its own size.

    ``v <- v - (1 - b2) g^2 sign(v - g^2)``; all else, and the parameters, as `ServerAdam`.
    """

    def new_variance(self, variance: np.ndarray, square: np.ndarray) -> np.ndarray:
        """Return v of this round from that of the last one and ``g^2``."""
        return variance - (1 - self.beta2) * square * np.sign(variance - square)


class ServerDyn(ServerOptimizer):
    """The server's half of FedDyn (arXiv 2111.04263); clients must do theirs.

    ``drift <- drift + share (mean - theta)``, ``theta <- mean + drift``, where the mean is
    unweighted and the share is that of its clients among all clients. With the paper's h this is
    ``drift = -h / alpha``, so alpha is the clients' alone.

    The clients' half is a vector each. The drift mirrors these vectors, so a checkpoint holds it
    only where they survive the run, too; otherwise a resumed run begins both afresh.

    Parameters
    ----------
    lasting : bool
        Whether the clients' vectors survive the run.
    """

    def __init__(self, *, lasting: bool = False) -> None:
        self.lasting = lasting
        self._drift: Vectors = {}

    def step(
        self,
        bank: Mapping[str, np.ndarray],
        means: Mapping[str, np.ndarray],
        shares: Mapping[str, np.ndarray],
    ) -> Vectors:
        """Return the new vectors; see `ServerOptimizer.step`."""
        new = {}
        for unit, mean in means.items():
            if mean.dtype.kind != "f":
                new[unit] = mean
                continue
            moved = np.subtract(mean, bank[unit], dtype=accumulation_dtype(mean.dtype))
            share = shares[unit].astype(moved.dtype)
            drift = self._drift.get(unit, np.zeros_like(moved)) + share * moved
            self._drift[unit] = drift
            new[unit] = as_dtype(np.where(share > 0, mean + drift, bank[unit]), mean.dtype)
        return new

    def state(self) -> dict[str, np.ndarray]:
        """Return the drift by unit, where the clients' half survives, too."""
        return dict(self._drift) if self.lasting else {}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Take back what `state` returned; begin afresh and say so where that cannot be all."""
        self._drift = dict(state)
        if not self.lasting:
            log(
                WARNING,
                "server-optimizer: dyn begins afresh, on the server as on the clients, whose part "
                "ended with the stopped run; a state-dir keeps it.",
            )
