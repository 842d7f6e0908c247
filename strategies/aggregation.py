"""Averages over holders: what a round's replies make of each tensor they hold."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from .plans import Plan
from .wire import Layout, Slot, Vectors


class Aggregator(Protocol):
    """What becomes of a round's replies, which are added one by one in the order of client keys."""

    def add(
        self, vectors: Mapping[str, np.ndarray], weight: float, plan: Plan | None
    ) -> dict[str, float]:
        """Take in a client's units; return figures about them for the client's row.

        Parameters
        ----------
        vectors : Mapping[str, np.ndarray]
            New flat values by unit; a view into a reply's buffer is not written to.
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

        Rows that nobody owned keep the values of `bank` (vectors by unit).
        """


class HolderMean:
    """A running weighted mean, per unit, over the replies that hold it.

    Constant memory in the number of replies: each is added to a sum and forgotten.

    Parameters
    ----------
    layout : Layout
    row_keys : Iterable[str]
        Tensors whose first axis counts blocks (row b belongs to block b, row 0 to all), such as
        depth embeddings. A client of depth d owns rows 0 to d. Without the key its other rows,
        which it returns unchanged, count as votes for no change; ReeFL's code averages so.
    """

    def __init__(self, layout: Layout, row_keys: Iterable[str] = ()) -> None:
        self.layout = layout
        self.row_keys = frozenset(row_keys)
        self.sums: Vectors = {}
        # One number per unit; one per element where a unit holds row tensors.
        self.weights: Vectors = {}

    def add(
        self, vectors: Mapping[str, np.ndarray], weight: float, plan: Plan | None
    ) -> dict[str, float]:
        """Add a client's units with its weight; see `Aggregator.add`."""
        for unit, vector in vectors.items():
            if unit not in self.sums:
                self.sums[unit] = np.zeros(vector.size, accumulation_dtype(vector.dtype))
                has_rows = not self.row_keys.isdisjoint(
                    slot.key for slot in self.layout.units[unit]
                )
                self.weights[unit] = np.zeros(vector.size if has_rows else 1)
            total, weights = self.sums[unit], self.weights[unit]
            if weights.size == 1:
                add_scaled(total, vector, weight)
                weights += weight
                continue
            for part in owned_parts(self.layout.units[unit], self.row_keys, plan):
                add_scaled(total[part], vector[part], weight)
                weights[part] += weight
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


def owned_parts(slots: Sequence[Slot], row_keys: Iterable[str], plan: Plan | None) -> list[slice]:
    """Return the stretches of a unit's vector that a client with `plan` owns.

    All but the rows above its depth of row tensors: one stretch where there are none of these.
    """
    parts, start = [], 0
    for slot in slots:
        if slot.key in row_keys:
            rows = slot.shape[0] if plan is None else min(plan.depth + 1, slot.shape[0])
            parts.append(slice(start, slot.start + rows * math.prod(slot.shape[1:])))
            start = slot.stop
    return [*parts, slice(start, slots[-1].stop)]


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
