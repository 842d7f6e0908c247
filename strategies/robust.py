"""Averages that a few wrong clients cannot move far: coordinate-wise trimmed mean and median.

Source: D. Yin et al., Byzantine-Robust Distributed Learning, arXiv 1803.01498.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from itertools import pairwise

import numpy as np

from .aggregation import accumulation_dtype, as_dtype, owned_parts
from .plans import Plan
from .wire import Layout, Vectors

# Elements sorted at a time: with a hundred clients the block still fits the cache.
BLOCK = 4096


class _SortedAverage(ABC):
    """An average of the middle values of each element, over the clients that hold it.

    Weights are not used, since a client chooses its weight itself. The result does not depend on
    the order of the replies.
    """

    def __init__(self, layout: Layout, row_keys: Iterable[str] = ()) -> None:
        self.layout = layout
        self.row_keys = frozenset(row_keys)
        self.held: dict[str, list[tuple[np.ndarray, list[slice]]]] = {}

    @abstractmethod
    def dropped(self, count: int) -> int:
        """Return how many of `count` values are dropped at each end."""

    def add(
        self, vectors: Mapping[str, np.ndarray], weight: float, plan: Plan | None
    ) -> dict[str, float]:
        """Keep a client's units; see `Aggregator.add`. The weight is not used."""
        del weight
        for unit, vector in vectors.items():
            parts = owned_parts(self.layout.units[unit], self.row_keys, plan)
            self.held.setdefault(unit, []).append((vector, parts))
        return {}

    def result(self, bank: Mapping[str, np.ndarray]) -> Vectors:
        """Return the averages; see `Aggregator.result`."""
        return {
            unit: as_dtype(self._average(replies, bank[unit]), bank[unit].dtype)
            for unit, replies in self.held.items()
        }

    def _average(
        self, replies: list[tuple[np.ndarray, list[slice]]], old: np.ndarray
    ) -> np.ndarray:
        """Average a unit stretch by stretch; within a stretch the holders are the same."""
        new = old.astype(accumulation_dtype(replies[0][0].dtype))
        edges = {edge for _, parts in replies for part in parts for edge in (part.start, part.stop)}
        for start, stop in pairwise(sorted(edges)):
            vectors = [
                vector
                for vector, parts in replies
                if any(part.start <= start < part.stop for part in parts)
            ]
            for first in range(start, stop if vectors else start, BLOCK):
                block = slice(first, min(first + BLOCK, stop))
                new[block] = self._middle(
                    np.stack([v[block] for v in vectors], -1, dtype=new.dtype)
                )
        return new

    def _middle(self, values: np.ndarray) -> np.ndarray:
        """Average the middle of values ``(elements, holders)`` over the holders."""
        # Sorted rows are summed in one order whatever the order of the replies; short rows side
        # by side are also sorted several times faster than columns are partitioned.
        values.sort(axis=-1)
        drop = self.dropped(values.shape[-1])
        return np.asarray(values[:, drop : values.shape[-1] - drop].mean(axis=-1))


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
        Tensors whose rows belong to blocks; see `HolderMean`.
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
        Tensors whose rows belong to blocks; see `HolderMean`.
    """

    def dropped(self, count: int) -> int:
        """Return how many of `count` values are dropped at each end: all but the middle."""
        return (count - 1) // 2
