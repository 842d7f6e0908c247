"""The weighted mean over holders: every tensor is averaged over the clients that sent it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from .wire import Layout, Slot, Vectors


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
        wanted = set(row_keys)
        self.row_slots: dict[str, list[Slot]] = {
            unit: [slot for slot in slots if slot.key in wanted]
            for unit, slots in layout.units.items()
        }
        self.sums: Vectors = {}
        self.weights: dict[str, float] = {}
        self.row_sums: dict[str, np.ndarray] = {}
        self.row_weights: dict[str, np.ndarray] = {}

    def add(self, vectors: Mapping[str, np.ndarray], weight: float, depth: int | None) -> None:
        """Add a client's units with its weight; `depth` says which rows it owns (None: all)."""
        for unit, vector in vectors.items():
            if unit not in self.sums:
                self.sums[unit] = np.zeros(vector.size, accumulation_dtype(vector.dtype))
                self.weights[unit] = 0.0
            add_scaled(self.sums[unit], vector, weight)
            self.weights[unit] += weight
            for slot in self.row_slots[unit]:
                self._add_rows(slot, vector, weight, depth)

    def _add_rows(self, slot: Slot, vector: np.ndarray, weight: float, depth: int | None) -> None:
        rows = vector[slot.start : slot.stop].reshape(slot.shape)
        owned = len(rows) if depth is None else min(depth + 1, len(rows))
        if slot.key not in self.row_sums:
            self.row_sums[slot.key] = np.zeros(slot.shape, accumulation_dtype(vector.dtype))
            self.row_weights[slot.key] = np.zeros(len(rows))
        self.row_sums[slot.key][:owned] += weight * rows[:owned]
        self.row_weights[slot.key][:owned] += weight

    def mean(self, bank: Mapping[str, np.ndarray]) -> Vectors:
        """Return the new vectors of every unit that somebody sent, in the bank's dtypes.

        Rows that nobody owned keep the values of `bank` (vectors by unit).
        """
        means = {}
        for unit, total in self.sums.items():
            mean = total / self.weights[unit]
            for slot in self.row_slots[unit]:
                weights = self.row_weights[slot.key]
                owned = weights > 0
                old = bank[unit][slot.start : slot.stop].reshape(slot.shape)
                new = mean[slot.start : slot.stop].reshape(slot.shape)
                scale = weights[owned].reshape(-1, *[1] * (new.ndim - 1))
                new[~owned] = old[~owned]
                new[owned] = self.row_sums[slot.key][owned] / scale
            dtype = bank[unit].dtype
            whole = np.issubdtype(dtype, np.integer)
            means[unit] = (np.rint(mean) if whole else mean).astype(dtype, copy=False)
        return means


def accumulation_dtype(dtype: np.dtype) -> type[np.floating]:
    """Sum 16- and 32-bit floats in 32 bits, everything else (integers too) in 64."""
    return np.float32 if dtype in (np.float16, np.float32) else np.float64


def add_scaled(total: np.ndarray, vector: np.ndarray, weight: float) -> None:
    """Add ``weight * vector`` to `total` in place.

    Plain numpy on purpose: a pack fits the cache, and BLAS would wake threads for each of them.
    """
    total += np.multiply(vector, weight, dtype=total.dtype)


def is_finite(vector: np.ndarray) -> bool:
    """Tell whether all values are finite."""
    return bool(np.isfinite(vector).all())
