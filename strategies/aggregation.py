"""Averages over holders: what a round's replies make of each element they hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np

from .plans import Plan, travelling
from .wire import Layout, Vectors, leading


class Aggregator(Protocol):
    """What becomes of a round's replies, which are added one by one in the order of client keys."""

    def add(
        self, vectors: Mapping[str, np.ndarray], weight: float, plan: Plan | None
    ) -> dict[str, float]:
        """Take in a client's units; return figures about them for the client's row.

        Parameters
        ----------
        vectors : Mapping[str, np.ndarray]
            New flat values by unit, in the bank's layout; a view into a reply's buffer is not
            written to.
        weight : float
            Above 0.
        plan : Plan | None
            What the client was asked for; it says which elements it owns (None: all).

        Raises
        ------
        StrategyError
            When the values cannot be used; the aggregator is then as it was before.
        """

    def result(self, bank: Mapping[str, np.ndarray]) -> Vectors:
        """Return the new vectors of every unit that somebody sent, in the dtypes of `bank`.

        Elements that nobody owned keep the values of `bank` (vectors by unit).
        """


class Ownership:
    """Which elements of a unit a client owns: a leading part of each of its tensors.

    Parameters
    ----------
    layout : Layout
        Of the bank.
    row_keys : Iterable[str]
        Tensors whose first axis counts blocks (row b belongs to block b, row 0 to all), such as
        depth embeddings. A client owns rows 0 to the `depth` of its plan. Without the key its
        other rows, which it returns unchanged, count as votes for no change; ReeFL's code
        averages so.
    """

    def __init__(self, layout: Layout, row_keys: Iterable[str] = ()) -> None:
        self.layout = layout
        self.row_keys = frozenset(row_keys)
        self._with_rows = {
            unit
            for unit, slots in layout.units.items()
            if not self.row_keys.isdisjoint(slot.key for slot in slots)
        }

    def shapes(self, unit: str, plan: Plan | None) -> tuple[tuple[int, ...], ...] | None:
        """Return the shape of each tensor's part that a client with `plan` owns; None for all."""
        has_rows = unit in self._with_rows
        if plan is None or (plan.layout is None and not has_rows):
            return None
        own = travelling(plan, self.layout).shapes[unit]
        shapes = tuple(
            (min(plan.depth + 1, shape[0]), *shape[1:]) if slot.key in self.row_keys else shape
            for slot, shape in zip(self.layout.units[unit], own, strict=True)
        )
        return None if shapes == self.layout.shapes[unit] else shapes


class Holders:
    """How many clients own each element of what was sent in a round, whatever is made of it.

    Parameters
    ----------
    layout : Layout
        Of the bank.
    row_keys : Iterable[str]
        Tensors whose rows belong to blocks; see `Ownership`.
    """

    def __init__(self, layout: Layout, row_keys: Iterable[str] = ()) -> None:
        self.layout = layout
        self.ownership = Ownership(layout, row_keys)
        self._sent: Counter[tuple[Plan | None, tuple[str, ...]]] = Counter()

    def add(self, units: Iterable[str], plan: Plan | None) -> None:
        """Count a client that sent some units."""
        self._sent[plan, tuple(units)] += 1

    def coverage(self) -> dict[str, int]:
        """Return by unit how many clients sent it."""
        coverage: Counter[str] = Counter()
        for (_, units), clients in self._sent.items():
            coverage.update(dict.fromkeys(units, clients))
        return dict(coverage)

    def shares(self, num_clients: int) -> Vectors:
        """Return by unit the share of `num_clients` that own it.

        One number for a unit whose every holder owns all of it, and one for each element otherwise.
        """
        counts: Vectors = {}
        for (plan, units), clients in self._sent.items():
            for unit in units:
                count = counts.setdefault(unit, np.zeros(1))
                shapes = self.ownership.shapes(unit, plan)
                if shapes is None:
                    count += clients
                    continue
                if count.size < self.layout.size(unit):
                    count = counts[unit] = np.full(self.layout.size(unit), count[0])
                for slot, shape in zip(self.layout.units[unit], shapes, strict=True):
                    part = leading(count, slot, shape)
                    part += clients
        return {unit: count / num_clients for unit, count in counts.items()}


class HolderMean:
    """A running weighted mean, per element, over the replies that hold it.

    Constant memory in the number of replies: each is added to a sum and forgotten.

    Parameters
    ----------
    layout : Layout
    row_keys : Iterable[str]
        Tensors whose rows belong to blocks; see `Ownership`.

    Attributes
    ----------
    sums : Vectors
        Weighted sums by unit.
    weights : Vectors
        What they are divided by: one number for a unit whose every holder owns all of it, and
        one for each element otherwise.
    """

    def __init__(self, layout: Layout, row_keys: Iterable[str] = ()) -> None:
        self.layout = layout
        self.ownership = Ownership(layout, row_keys)
        self.sums: Vectors = {}
        self.weights: Vectors = {}

    def add(
        self, vectors: Mapping[str, np.ndarray], weight: float, plan: Plan | None
    ) -> dict[str, float]:
        """Add a client's units with its weight; see `Aggregator.add`."""
        for unit, vector in vectors.items():
            if unit not in self.sums:
                self.sums[unit] = np.zeros(vector.size, accumulation_dtype(vector.dtype))
                self.weights[unit] = np.zeros(1)
            total, weights = self.sums[unit], self.weights[unit]
            shapes = self.ownership.shapes(unit, plan)
            if shapes is None:
                add_scaled(total, vector, weight)
                weights += weight
                continue
            if weights.size < vector.size:
                weights = self.weights[unit] = np.full(vector.size, weights[0])
            for slot, shape in zip(self.layout.units[unit], shapes, strict=True):
                add_scaled(leading(total, slot, shape), leading(vector, slot, shape), weight)
                own = leading(weights, slot, shape)
                own += weight
        return {}

    def total(self, unit: str) -> np.ndarray:
        """Return the weighted sum of a unit that is to be divided by its weights."""
        return self.sums[unit]

    def result(self, bank: Mapping[str, np.ndarray]) -> Vectors:
        """Return the means; see `Aggregator.result`."""
        means = {}
        for unit in self.sums:
            total = self.total(unit)
            weights = self.weights[unit].astype(total.dtype)
            mean = bank[unit].astype(total.dtype)
            np.divide(total, weights, out=mean, where=weights > 0)
            means[unit] = as_dtype(mean, bank[unit].dtype)
        return means


class HolderEqualMean(HolderMean):
    """The unweighted mean over holders; its weights are their numbers."""

    def add(
        self, vectors: Mapping[str, np.ndarray], weight: float, plan: Plan | None
    ) -> dict[str, float]:
        """Add a client's units; all clients weigh the same. See `Aggregator.add`."""
        del weight
        return super().add(vectors, 1.0, plan)


def accumulation_dtype(dtype: np.dtype) -> type[np.floating]:
    """Sum 16- and 32-bit floats in 32 bits, everything else (integers too) in 64."""
    return np.float32 if dtype in (np.float16, np.float32) else np.float64


def add_scaled(total: np.ndarray, vector: np.ndarray, weight: float) -> None:
    """Add ``weight * vector`` to `total` in place.

    Plain numpy on purpose: a pack fits the cache, and BLAS would wake threads for each of them.
    """
    total += np.multiply(vector, weight, dtype=total.dtype)


def as_dtype(vector: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Convert an average to the bank's dtype; whole numbers are rounded."""
    whole = np.issubdtype(dtype, np.integer)
    return (np.rint(vector) if whole else vector).astype(dtype, copy=False)
