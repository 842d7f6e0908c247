"""`HyperAttention`: a hypernetwork on the server makes every client's personal tensors.

Source: FedTP, arXiv 2211.01572. The server keeps an embedding z_i of each client and the
hypernetwork h. In a round, over the clients that answer, with weights p_i that add up to 1::

    g_i = h(z_i)                            sent, and trained by the client into g~_i
    h   <-  step with  sum_i p_i J_h(g_i)^T (g_i - g~_i)
    z_i <-  z_i - rate J_z(g_i)^T (g_i - g~_i)        plain, rows of clients of the round alone

The sum is that over the clients' losses, so a client that lacks a unit, as its tier ends below it,
adds nothing to what the unit's tensors pull at. All other units are averaged as ever. Where
messages are rounded, g_i is what the client got: a reply is then a difference from that
(`strategies/codec_mod.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .adapter_fedavg import AdapterFedAvg
from .aggregation import Aggregator
from .callbacks import ClientRow
from .client_rows import ClientRows
from .errors import StrategyError
from .nodes import Profile
from .replies import TrainReply
from .wire import Vectors

ROWS, GENERATOR, BANK = "rows.", "generator.", "bank."


class Generator(Protocol):
    """A hypernetwork and its optimiser; `models.HypernetworkTrainer` is one.

    Attributes
    ----------
    embedding : int
        Width E of a client's row.
    """

    embedding: int

    def generate(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Make the flat vectors of each unit, ``(m, size)``, for rows ``(m, E)``."""

    def pull(self, rows: np.ndarray, cotangents: Mapping[str, np.ndarray]) -> np.ndarray:
        """Carry cotangents ``(m, size)`` by unit back; return the rows' gradient ``(m, E)``."""

    def step(self) -> None:
        """Move the weights by the gradient of the last `pull`."""

    def state(self) -> dict[str, np.ndarray]:
        """Return weights and the optimiser's memory by name."""

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Take back what `state` returned."""


@dataclass(frozen=True)
class Change:
    """What a client made of its personal tensors: sent minus returned, by unit.

    `norm` is that of all of it, before it was clipped.
    """

    client_key: str
    weight: float
    deltas: Vectors
    norm: float


def capped_shares(weights: Sequence[float], cap: float) -> np.ndarray:
    """Return shares that add up to 1, none above `cap` unless all must be.

    What a cap takes from some goes to the others, in proportion to their weights.
    """
    shares = np.asarray(weights, np.float64) / np.sum(weights)
    if cap * len(shares) <= 1:
        return np.full(len(shares), 1 / len(shares))
    capped = np.zeros(len(shares), bool)
    while (above := ~capped & (shares > cap * (1 + 1e-9))).any():
        capped |= above
        rest = 1 - cap * capped.sum()
        shares = np.where(capped, cap, shares * rest / shares[~capped].sum())
    return shares


class HyperAttention(AdapterFedAvg):
    """Personal tensors from a hypernetwork, everything else averaged.

    The bank's own personal units are those of the mean row: what somebody without a row gets.

    Parameters
    ----------
    generator : Generator
    row_rate : float
        Learning rate of the clients' rows: plain steps, without momentum and decay.
    clip_delta : float
        Largest L2 norm of a client's change of its personal tensors; 0 is off.
    share_cap : float
        Largest share of one client in a round's step, above 0.
    options
        Those of `AdapterFedAvg`.
    """

    def __init__(
        self,
        *args: Any,
        generator: Generator,
        row_rate: float = 0.1,
        clip_delta: float = 0.0,
        share_cap: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.generator = generator
        self.row_rate = row_rate
        self.clip_delta = clip_delta
        self.share_cap = share_cap
        self.rows = ClientRows(generator.embedding, self.seed)
        self._sent: dict[str, Vectors] = {}
        self._changes: list[Change] = []

    def personal_vectors(self, profiles: Sequence[Profile]) -> Mapping[str, Vectors]:
        """Make the personal units of the clients that are asked, in one pass.

        Those that were held out begin from the mean row.
        """
        keys, mean = [profile.client_key for profile in profiles], self.rows.mean()
        for key in self.held_out.intersection(keys):
            if key not in self.rows:
                self.rows.put(key, mean)
        made = self._make(self.rows.get(keys))
        self._sent = {
            key: {unit: vectors[place] for unit, vectors in made.items()}
            for place, key in enumerate(keys)
        }
        # That of the clients that train, who are asked first.
        self.report.figures.setdefault("personal-variance", spread(made))
        return self._sent

    def _make(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Make the vectors of each unit for some rows.

        Raises
        ------
        StrategyError
            When they fit no unit of the bank, and would never be used, or have diverged.
        """
        assert self.bank is not None
        made = self.generator.generate(rows)
        for unit, vectors in made.items():
            size = vectors.shape[1]
            if unit not in self.bank.vectors or self.bank.layout.size(unit) != size:
                raise StrategyError(
                    f"the hypernetwork makes {size} numbers for '{unit}', which is no unit of the "
                    "bank of that size; build both for the same model."
                )
            if not np.isfinite(vectors).all():
                raise StrategyError(
                    "hyper-attention-rate: the hypernetwork makes numbers that are not finite; "
                    "lower it or hyper-attention-row-rate, or set hyper-attention-clip-delta."
                )
        return made

    def begin_aggregation(self) -> Aggregator:
        """Return what the averaged units are added to; no client has changed anything yet."""
        self._changes = []
        return super().begin_aggregation()

    def take_reply(
        self, aggregator: Aggregator, row: ClientRow, reply: TrainReply
    ) -> dict[str, float]:
        """Keep the change of the personal units; hand on the others."""
        sent = self._sent[row.client_key]
        averaged = {unit: v for unit, v in reply.vectors.items() if unit not in sent}
        figures = aggregator.add(averaged, reply.weight, reply.plan)
        change = self._change(row, reply)
        self._changes.append(change)
        return {**figures, "personal-change": change.norm}

    def _change(self, row: ClientRow, reply: TrainReply) -> Change:
        """Return what a client made of its personal units, clipped."""
        sent = self._sent[row.client_key]
        deltas = {unit: sent[unit] - v for unit, v in reply.vectors.items() if unit in sent}
        norm = math.sqrt(sum(float(np.dot(delta, delta)) for delta in deltas.values()))
        if self.clip_delta and norm > self.clip_delta:
            deltas = {unit: delta * (self.clip_delta / norm) for unit, delta in deltas.items()}
        return Change(row.client_key, reply.weight, deltas, norm)

    def update_bank(self, means: Vectors, shares: Mapping[str, np.ndarray]) -> None:
        """Step the averaged units, the hypernetwork and the rows of the round's clients."""
        super().update_bank(means, shares)
        if self._changes:
            self._move_rows(self._changes)
            self.generator.step()
            self._centre()

    def learn_held_out(self, replies: Iterable[tuple[ClientRow, TrainReply]]) -> None:
        """Step the rows of clients that took no part; neither hypernetwork nor bank moves."""
        changes = [self._change(row, reply) for row, reply in replies]
        if changes:
            self._move_rows(changes)

    def _move_rows(self, changes: Sequence[Change]) -> None:
        """Pull at hypernetwork and rows with what clients changed; step the rows."""
        keys = [change.client_key for change in changes]
        shares = capped_shares([change.weight for change in changes], self.share_cap)
        rows = self.rows.get(keys)
        cotangents = {
            unit: np.stack(
                [
                    np.float32(share) * change.deltas.get(unit, np.zeros_like(vector))
                    for share, change in zip(shares, changes, strict=True)
                ]
            )
            for unit, vector in self._sent[keys[0]].items()
        }
        gradients = self.generator.pull(rows, cotangents)
        # A row is its client's alone: the client's share of the round does not scale its step.
        for key, row, gradient, share in zip(keys, rows, gradients, shares, strict=True):
            self.rows.put(key, row - self.row_rate * gradient / share)

    def _centre(self) -> None:
        """Put the personal units of the mean row into the bank."""
        assert self.bank is not None
        made = self._make(self.rows.mean()[None])
        self.bank.update({unit: vectors[0] for unit, vectors in made.items()})

    def server_state(self) -> dict[str, np.ndarray]:
        """Return rows, hypernetwork and what the averaged units' optimiser keeps."""
        parts = {
            ROWS: self.rows.state(),
            GENERATOR: self.generator.state(),
            BANK: super().server_state(),
        }
        return {prefix + name: v for prefix, part in parts.items() for name, v in part.items()}

    def load_server_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Take back what `server_state` returned; raises StrategyError for anything else."""
        parts: dict[str, dict[str, np.ndarray]] = {ROWS: {}, GENERATOR: {}, BANK: {}}
        for key, value in state.items():
            prefix = next((prefix for prefix in parts if key.startswith(prefix)), None)
            if prefix is None:
                raise StrategyError(
                    f"resume: '{key}' in the checkpoint is nothing that HyperAttention keeps; "
                    "resume from another copy."
                )
            parts[prefix][key.removeprefix(prefix)] = value
        self.rows.load_state(parts[ROWS])
        self.generator.load_state(parts[GENERATOR])
        super().load_server_state(parts[BANK])


def spread(made: Mapping[str, np.ndarray]) -> float:
    """Return the variance over clients of what was made for them, a mean over all its numbers."""
    total = sum(float(vectors.var(axis=0).sum()) for vectors in made.values())
    return total / sum(vectors.shape[1] for vectors in made.values())
