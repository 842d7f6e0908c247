"""What a strategy tells about a round, and the hooks that hear it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flwr.app import MetricRecord

if TYPE_CHECKING:
    from .adapter_fedavg import AdapterFedAvg


@dataclass
class ClientRow:
    """One client's part in a round: who it was, what it answered, what it cost.

    `metrics` are the client's own, by name; `refused` is the reason where the reply was not used;
    `skipped` are blocks that its plan left out of the training.
    """

    client_key: str
    tier: str
    phase: str
    metrics: dict[str, float] = field(default_factory=dict)
    bytes_down: int = 0
    bytes_up: int = 0
    refused: str = ""
    skipped: tuple[int, ...] = ()


@dataclass
class RoundReport:
    """All that happened in a round.

    Attributes
    ----------
    server_round : int
        From 1.
    clients : list[ClientRow]
        One per client and phase (``train``, ``evaluate``).
    coverage : dict[str, int]
        For each unit, how many clients' replies went into it.
    train_metrics, client_metrics : MetricRecord | None
        Weighted means over the clients, of training and of evaluation.
    server_metrics : MetricRecord | None
        What the central evaluation gave.
    seconds : dict[str, float]
        Wall time of ``train``, ``client-evaluate`` and ``server-evaluate``; ``aggregate`` is the
        part of ``train`` in which replies were added up, and is taken off it.
    figures : dict[str, float]
        What a method tells about the round beyond this, by name.
    """

    server_round: int
    clients: list[ClientRow] = field(default_factory=list)
    coverage: dict[str, int] = field(default_factory=dict)
    train_metrics: MetricRecord | None = None
    client_metrics: MetricRecord | None = None
    server_metrics: MetricRecord | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)

    def lap(self, phase: str, since: float) -> float:
        """Note the time of a phase that began at `since` (`time.perf_counter`); return now."""
        now = time.perf_counter()
        inner = self.seconds.get("aggregate", 0.0) if phase == "train" else 0.0
        self.seconds[phase] = now - since - inner
        return now

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the time of a block to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start

    def bytes(self, phase: str) -> tuple[int, int]:
        """Sum the bytes of a phase: (down, up)."""
        rows = [row for row in self.clients if row.phase == phase]
        return sum(row.bytes_down for row in rows), sum(row.bytes_up for row in rows)


class Callback:
    """Hooks around the rounds of `AdapterFedAvg.start`; override what is needed."""

    def on_start(self, strategy: AdapterFedAvg, num_rounds: int) -> None:
        """Run before the first round (or the first after a resume).

        `strategy.report` is that of round 0, with the central evaluation of the initial bank, or
        of the round before the resume, empty.
        """

    def on_round_end(self, strategy: AdapterFedAvg, report: RoundReport) -> None:
        """Run after each round, when the bank holds the round's result."""

    def on_personalised(self, strategy: AdapterFedAvg, report: RoundReport) -> None:
        """Run when the clients have personalised the final bank; `report` holds their rows."""

    def on_finish(self, strategy: AdapterFedAvg) -> None:
        """Run after the last round."""
