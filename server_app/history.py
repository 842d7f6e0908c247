"""The record of a run: metrics.jsonl and clients.jsonl, written and read."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from statistics import mean
from typing import Any

from settings import Settings, SettingsError
from strategies import HELD_OUT, PERSONALISE_PHASE, AdapterFedAvg, Callback, RoundReport, epsilon

Row = dict[str, Any]
EXIT_ACCURACY = "accuracy-exit-"
EPOCH_ACCURACY = "accuracy-epoch-"  # of a personalisation


class History(Callback):
    """Appends a row per round to metrics.jsonl, and one per client and phase to clients.jsonl."""

    def __init__(self, output: Path, settings: Settings) -> None:
        self.settings = settings
        self.metrics_file = output / "metrics.jsonl"
        self.clients_file = output / "clients.jsonl"

    def begin(self, resumed_from: Path | None, server_round: int) -> None:
        """Start empty, or with the rows of a resumed run up to its checkpoint's round.

        Raises
        ------
        SettingsError
            When a resumed run's files are missing or hold something else.
        """
        for file in (self.metrics_file, self.clients_file):
            if resumed_from and not (resumed_from / file.name).is_file():
                raise SettingsError(
                    f"resume: {resumed_from} lacks {file.name}, the record of its first rounds; "
                    "copy the whole output folder."
                )
            try:
                rows = read_rows(resumed_from / file.name) if resumed_from else []
                # A resumed run does anew what follows its rounds.
                kept = [
                    row
                    for row in rows
                    if row["round"] <= server_round and not _follows_the_rounds(row)
                ]
            except (ValueError, KeyError, TypeError, AttributeError):
                raise SettingsError(
                    f"resume: {file.name} in {resumed_from} is not the record of a run; restore "
                    "the file, or give another run."
                ) from None
            beside = file.with_suffix(".tmp")
            beside.write_text("".join(json.dumps(row) + "\n" for row in kept))
            beside.replace(file)

    def on_start(self, strategy: AdapterFedAvg, num_rounds: int) -> None:
        """Enter the central evaluation before the first round as round 0."""
        del num_rounds
        if strategy.report.server_metrics:
            self._append(self.metrics_file, [{"round": 0, **strategy.report.server_metrics}])

    def on_round_end(self, strategy: AdapterFedAvg, report: RoundReport) -> None:
        """Enter a round."""
        del strategy
        down, up = report.bytes("train")
        evaluate_down, evaluate_up = report.bytes("evaluate")
        refused = [row for row in report.clients if row.refused]
        train = dict(report.train_metrics or {})
        row: Row = {
            "round": report.server_round,
            **_finite({k: v for k, v in train.items() if k.startswith("train-")}),
            **_finite(report.server_metrics or {}),
            **_finite({f"client-{k}": v for k, v in (report.client_metrics or {}).items()}),
            "replies": sum(c.phase == "train" and not c.refused for c in report.clients),
            "refused": len(refused),
            "coverage": report.coverage,
            **({"figures": _finite(report.figures)} if report.figures else {}),
            "bytes-down": down,
            "bytes-up": up,
            "evaluate-bytes-down": evaluate_down,
            "evaluate-bytes-up": evaluate_up,
            "seconds": {phase: round(value, 4) for phase, value in report.seconds.items()},
        }
        if self.settings.noise_multiplier:
            row["epsilon"] = privacy_cost(self.settings, report.server_round)
        self._append(self.metrics_file, [row])
        self._append_clients(report)

    def on_personalised(self, strategy: AdapterFedAvg, report: RoundReport) -> None:
        """Enter what the clients made of the final bank."""
        del strategy
        self._append_clients(report)

    def _append_clients(self, report: RoundReport) -> None:
        self._append(
            self.clients_file,
            [
                {
                    **_finite(client.metrics),
                    "round": report.server_round,
                    "client": client.client_key,
                    "tier": client.tier,
                    "phase": client.phase,
                    "bytes-down": client.bytes_down,
                    "bytes-up": client.bytes_up,
                    "refused": client.refused,
                    **({"skipped": list(client.skipped)} if client.skipped else {}),
                }
                for client in report.clients
            ],
        )

    @staticmethod
    def _append(file: Path, rows: list[Row]) -> None:
        with file.open("a") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in rows)


def _follows_the_rounds(row: Row) -> bool:
    return str(row.get("phase", "")).startswith((PERSONALISE_PHASE, HELD_OUT))


def privacy_cost(settings: Settings, rounds: int) -> float:
    """Return the epsilon of so many rounds: a bound for every client."""
    return epsilon(settings.noise_multiplier, rounds, settings.privacy_delta)


def _finite(metrics: Mapping[str, Any]) -> Row:
    """Leave out what JSON has no number for."""
    return {key: value for key, value in metrics.items() if math.isfinite(value)}


def read_rows(file: Path) -> list[Row]:
    """Read a JSONL file; a last line that a kill cut off is left out."""
    rows = []
    for line in file.read_text().splitlines() if file.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def exit_scores(row: Row, prefix: str = EXIT_ACCURACY) -> dict[int, float]:
    """Return, in order, a row's values named `prefix` and a number, such as a block."""
    blocks = sorted(int(key.removeprefix(prefix)) for key in row if key.startswith(prefix))
    return {block: row[f"{prefix}{block}"] for block in blocks}


def central_by_round(metrics: list[Row]) -> tuple[dict[int, float], dict[int, float]]:
    """Return the central accuracy by round: of the last exit, and the mean over the exits."""
    rows = {row["round"]: row for row in metrics if exit_scores(row)}
    last = {number: list(exit_scores(row).values())[-1] for number, row in rows.items()}
    return last, {number: row["accuracy-mean"] for number, row in rows.items()}


def clients_by_round(clients: list[Row]) -> dict[int, float]:
    """Return the clients' mean accuracy, all counting alike, by the rounds they evaluated in."""
    found: dict[int, list[float]] = defaultdict(list)
    for row in clients:
        if row["phase"] == "evaluate" and not row["refused"] and "accuracy" in row:
            found[row["round"]].append(row["accuracy"])
    return {number: mean(values) for number, values in found.items()}


def bytes_by_round(metrics: list[Row]) -> dict[int, int]:
    """Return the bytes of all training messages so far, up and down, by round."""
    sent = accumulate(row.get("bytes-up", 0) + row.get("bytes-down", 0) for row in metrics)
    return {row["round"]: total for row, total in zip(metrics, sent, strict=True)}


def last_evaluation(clients: list[Row]) -> list[Row]:
    """Return the clients' rows of the last round in which they evaluated."""
    evaluated = [row for row in clients if row["phase"] == "evaluate" and "accuracy" in row]
    rows = [row for row in evaluated if not row["refused"]]
    last = max((row["round"] for row in rows), default=0)
    return [row for row in rows if row["round"] == last]
