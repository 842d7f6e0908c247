"""Averages that a few wrong clients cannot move far: coordinate-wise trimmed mean and median.

Source: D. Yin et al., Byzantine-Robust Distributed Learning, arXiv 1803.01498.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise, product

import numpy as np

from .aggregation import Ownership, accumulation_dtype, as_dtype
from .plans import Plan
from .wire import Layout, Vectors, leading

# Elements sorted at a time: with a hundred clients the block still fits the cache.
BLOCK = 4096


class _SortedAverage(ABC):
    """An average of the middle values of each element, over the clients that hold it.

    Weights are not used, since a client chooses its weight itself. The result does not depend on
    the order of the replies.
    """

    def __init__(self, layout: Layout, row_keys: Iterable[str] = ()) -> None:
        self.layout = layout
        self.ownership = Ownership(layout, row_keys)
        # The owned shapes of a unit's tensors beside its vector; None where the client owns all.
        self.held: dict[str, list[tuple[np.ndarray, tuple[tuple[int, ...], ...] | None]]] = {}

    @abstractmethod
    def dropped(self, count: int) -> int:
        """Return how many of `count` values are dropped at each end."""

    def add(
        self, vectors: Mapping[str, np.ndarray], weight: float, plan: Plan | None
    ) -> dict[str, float]:
        """Keep a client's units; see `Aggregator.add`. The weight is not used."""
        del weight
        for unit, vector in vectors.items():
            shapes = self.ownership.shapes(unit, plan)
            self.held.setdefault(unit, []).append((vector, shapes))
        return {}

    def result(self, bank: Mapping[str, np.ndarray]) -> Vectors:
        """Return the averages; see `Aggregator.result`."""
        return {
            unit: as_dtype(self._average(unit, bank[unit]), bank[unit].dtype) for unit in self.held
        }

    def _average(self, unit: str, old: np.ndarray) -> np.ndarray:
        """Average a unit over its holders; where they differ within a tensor, cell by cell."""
        replies = self.held[unit]
        new = old.astype(accumulation_dtype(replies[0][0].dtype))
        if all(shapes is None for _, shapes in replies):
            return self._of_vectors([vector for vector, _ in replies], new.dtype)
        for number, slot in enumerate(self.layout.units[unit]):
            owned = [slot.shape if shapes is None else shapes[number] for _, shapes in replies]
            for cell in _cells(owned):
                values = [
                    leading(vector, slot, shape)[cell].reshape(-1)
                    for (vector, _), shape in zip(replies, owned, strict=True)
                    if all(part.stop <= size for part, size in zip(cell, shape, strict=True))
                ]
                if values:
                    whole = leading(new, slot, slot.shape)
                    whole[cell] = self._of_vectors(values, new.dtype).reshape(whole[cell].shape)
        return new

    def _of_vectors(self, vectors: list[np.ndarray], dtype: np.dtype) -> np.ndarray:
        """Average flat vectors of one length."""
        new = np.empty(vectors[0].size, dtype)
        for first in range(0, new.size, BLOCK):
            block = slice(first, first + BLOCK)
            new[block] = self._middle(np.stack([v[block] for v in vectors], -1, dtype=dtype))
        return new

    def _middle(self, values: np.ndarray) -> np.ndarray:
        """Average the middle of values ``(elements, holders)`` over the holders."""
        # Sorted rows are summed in one order whatever the order of the replies; short rows side
        # by side are also sorted several times faster than columns are partitioned.
        values.sort(axis=-1)
        drop = self.dropped(values.shape[-1])
        return np.asarray(values[:, drop : values.shape[-1] - drop].mean(axis=-1))


def _cells(shapes: Sequence[tuple[int, ...]]) -> Iterator[tuple[slice, ...]]:
    """Cut a tensor where the leading parts of `shapes` end: each cell has the same holders."""
    edges = [sorted({0, *sizes}) for sizes in zip(*shapes, strict=True)]
    for cell in product(*map(pairwise, edges)):
        yield tuple(slice(start, stop) for start, stop in cell)


class HolderTrimmedMean(_SortedAverage):
    """The mean of what is left when each element's smallest and largest values are dropped.

    Of the values of n holders the ``floor(share * n)`` smallest and as many largest are dropped.
    Below ``1 / share`` holders nothing is dropped, and this is the plain unweighted mean. All
    replies of the round are kept until its end: memory grows with their number.

    Parameters
    ----------
    layout : Layout
    share : float
        Above 0 and below 0.5.
    row_keys : Iterable[str]
        Tensors whose rows belong to blocks; see `Ownership`.
    """

    def __init__(self, layout: Layout, share: float, row_keys: Iterable[str] = ()) -> None:
        super().__init__(layout, row_keys)
        self.share = share

    def dropped(self, count: int) -> int:
        """Return how many of `count` values are dropped at each end; some are always left."""
        # 0.29 * 100 is 28.999.. in floating point.
        return min(int(self.share * count + 1e-9), (count - 1) // 2)


class HolderMedian(_SortedAverage):
    """The coordinate-wise median over holders.

    With an even number of holders it is the mean of the middle two; with two it is the plain mean.
    All replies of the round are kept until its end: memory grows with their number.

    Parameters
    ----------
    layout : Layout
    row_keys : Iterable[str]
        Tensors whose rows belong to blocks; see `Ownership`.
    """

    def dropped(self, count: int) -> int:
        """Return how many of `count` values are dropped at each end: all but the middle."""
        return (count - 1) // 2
