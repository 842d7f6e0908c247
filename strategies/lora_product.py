"""LoRA factors of any ranks, averaged as what they stand for: their product.

The mean of products ``B_c A_c`` is not the product of mean factors. Here it is formed from the
stacked factors, without ever being laid out: a QR decomposition on each side leaves a matrix as
large as all ranks together, whose singular values are those of the mean. The bank keeps the
largest of them: the nearest product of its rank. Tiers of a smaller rank get the leading columns of
``B`` and rows of ``A``, which are then the nearest product of theirs. Averaging products and
cutting them by SVD is the idea of FlexLoRA (arXiv 2402.11505).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .aggregation import Aggregator
from .plans import Plan, travelling
from .wire import Layout, Vectors, first_part, leading

# The keys of A ``(r, in)`` and of B ``(out, r)`` of a matrix.
Factors = tuple[str, str]


def mean_product(
    replies: Sequence[tuple[float, np.ndarray, np.ndarray]], old: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Factor the weighted mean of products into ``(B, A)``, cut to the rank of `old`.

    Singular values are shared evenly between the factors, and the largest number in each column of
    B is positive. Where the mean has a smaller rank, A keeps the rows of `old` and B is zero:
    the product does not change by it, and training can still use these rows.

    Parameters
    ----------
    replies : Sequence[tuple[float, np.ndarray, np.ndarray]]
        Weight, B ``(out, r_c)`` and A ``(r_c, in)`` of each client.
    old : np.ndarray
        The A ``(r, in)`` from before.
    """
    total = sum(weight for weight, _, _ in replies)
    left = np.hstack([b.astype(np.float64) * (weight / total) for weight, b, _ in replies])
    right = np.vstack([a.astype(np.float64) for _, _, a in replies])
    q_left, r_left = np.linalg.qr(left)
    q_right, r_right = np.linalg.qr(right.T)
    u, values, v = np.linalg.svd(r_left @ r_right.T, full_matrices=False)
    # What is left of a missing rank is rounding.
    rank = np.count_nonzero(values[: len(old)] > values[0] * np.finfo(np.float32).eps)
    columns, rows = q_left @ u[:, :rank], v[:rank] @ q_right.T
    peaks = columns[np.abs(columns).argmax(axis=0), np.arange(rank)]
    scales = np.copysign(np.sqrt(values[:rank]), peaks)
    new_b, new_a = np.zeros((len(left), len(old))), old.astype(np.float64)
    new_b[:, :rank] = columns * scales
    new_a[:rank] = rows * scales[:, None]
    return new_b, new_a


class HolderProduct:
    """Averages the products of LoRA factors over their holders; all else is another aggregator's.

    A matrix whose factors no client changed keeps its bits. Factors are kept until the end of the
    round.

    Parameters
    ----------
    aggregator : Aggregator
    layout : Layout
        Of the bank.
    factors : Sequence[Factors]
        The two keys of each matrix, in one unit.
    bank : Mapping[str, np.ndarray]
        The vectors that the round began with.
    """

    def __init__(
        self,
        aggregator: Aggregator,
        layout: Layout,
        factors: Sequence[Factors],
        bank: Mapping[str, np.ndarray],
    ) -> None:
        self.aggregator = aggregator
        self.layout = layout
        self.factors = factors
        self.bank = bank
        self.held: dict[Factors, list[tuple[float, np.ndarray, np.ndarray]]] = {}
        self._slots = {slot.key: slot for slots in layout.units.values() for slot in slots}
        self._changed: set[Factors] = set()

    def add(
        self, vectors: Mapping[str, np.ndarray], weight: float, plan: Plan | None
    ) -> dict[str, float]:
        """Take in a client's units; see `Aggregator.add`."""
        figures = self.aggregator.add(vectors, weight, plan)
        own = travelling(plan, self.layout)
        for pair in self.factors:
            unit = first_part(pair[0])
            if unit not in vectors:
                continue
            shapes = {slot.key: slot.shape for slot in own.units[unit] if slot.key in pair}
            a, b = (leading(vectors[unit], self._slots[key], shapes[key]) for key in pair)
            if any(
                not np.array_equal(new, leading(self.bank[unit], self._slots[key], new.shape))
                for key, new in zip(pair, (a, b), strict=True)
            ):
                self._changed.add(pair)
            # Copies, so that the rest of a reply can be let go.
            self.held.setdefault(pair, []).append((weight, b.copy(), a.copy()))
        return figures

    def result(self, bank: Mapping[str, np.ndarray]) -> Vectors:
        """Return the new vectors; see `Aggregator.result`."""
        new = self.aggregator.result(bank)
        for pair, replies in self.held.items():
            unit = first_part(pair[0])
            slot_a, slot_b = (self._slots[key] for key in pair)
            a, b = (leading(bank[unit], slot, slot.shape) for slot in (slot_a, slot_b))
            if pair in self._changed:
                b, a = mean_product(replies, a)
            leading(new[unit], slot_a, slot_a.shape)[...] = a
            leading(new[unit], slot_b, slot_b.shape)[...] = b
        return new
