"""Finished runs as their folders hold them, and runs that differ in their seed alone as one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from server_app.history import Row, read_rows
from settings import SettingsError, load_toml

# What may differ between runs that repeat each other.
REPEATED = ("seed", "output-dir", "personal-dir", "report", "resume", "tensorboard")
LONGEST_LABEL = 24


@dataclass(frozen=True)
class Run:
    """The record of a finished run; `cost` is anytime.json, `held` partition.json, if there."""

    folder: Path
    settings: dict[str, Any]
    metrics: list[Row]
    clients: list[Row]
    summary: Row
    cost: Row | None
    held: Row | None

    @property
    def last_exit(self) -> str | None:
        """The block of the last exit with a central accuracy."""
        return max(
            (key for key in self.summary["accuracy"] if key != "mean"), key=int, default=None
        )

    def scores(self) -> dict[str, float]:
        """Return the final figures of the run by name: shares, bytes and seconds."""
        summary = self.summary
        central, of_clients = summary["accuracy"], summary["client-accuracy"]
        found = {
            "last-exit": central.get(self.last_exit),
            "mean-of-exits": central.get("mean"),
            "clients-mean": of_clients.get("mean"),
            "worst-decile": of_clients.get("worst-decile"),
            "personalised": summary.get("personalisation", {}).get("after", {}).get("mean"),
            "epsilon": summary.get("privacy", {}).get("epsilon"),
            "bytes": summary["bytes"]["up"] + summary["bytes"]["down"],
            "seconds": summary["seconds"],
        }
        return {name: value for name, value in found.items() if value is not None}


def read_run(folder: Path) -> Run:
    """Read the output folder of a finished run.

    Raises
    ------
    SettingsError
        When there is no such folder, or no finished run in it.
    """
    if not folder.is_dir():
        raise SettingsError(f"there is no folder {folder}; give the output-dir of a finished run.")
    if not (folder / "summary.json").is_file():
        raise SettingsError(
            f"{folder} has no summary.json; give the output-dir of a run that has finished."
        )
    try:
        run = Run(
            folder,
            load_toml(folder / "settings.toml"),
            read_rows(folder / "metrics.jsonl"),
            read_rows(folder / "clients.jsonl"),
            json.loads((folder / "summary.json").read_text()),
            _optional(folder / "anytime.json"),
            _optional(folder / "partition.json"),
        )
        run.scores()
    except SettingsError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(
            f"{folder} holds no record that fedgraft wrote ({type(error).__name__}: {error}); "
            "give the output-dir of another run."
        ) from None
    return run


def _optional(file: Path) -> Row | None:
    return json.loads(file.read_text()) if file.is_file() else None


@dataclass(frozen=True)
class Group:
    """Runs with the same settings but for the seed; `label` names what sets them apart."""

    label: str
    runs: Sequence[Run]

    def score(self, name: str) -> list[float]:
        """Return a final figure of each run that has it."""
        return [scores[name] for run in self.runs if name in (scores := run.scores())]

    def spread(
        self, series: Callable[[Run], Mapping[int, float]]
    ) -> dict[int, tuple[float, float, float]]:
        """Return mean, lowest and highest value of a series, at the keys that all runs have."""
        found = [series(run) for run in self.runs]
        keys = [key for key in found[0] if all(key in values for values in found)]
        columns = {key: [values[key] for values in found] for key in keys}
        return {key: (mean(c), min(c), max(c)) for key, c in columns.items()}


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Put runs that repeat each other together, in order, and name what sets the groups apart."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        fixed = {key: value for key, value in run.settings.items() if key not in REPEATED}
        groups.setdefault(json.dumps(fixed, sort_keys=True), []).append(run)
    members = list(groups.values())
    return [Group(label, group) for label, group in zip(_labels(members), members, strict=True)]


def differing(runs: Sequence[Run], leave_out: Sequence[str] = ()) -> list[str]:
    """Return the settings in which runs differ, in the order of the settings."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    return [
        key
        for key in keys
        if key not in leave_out
        and any(run.settings.get(key) != runs[0].settings.get(key) for run in runs)
    ]


def _labels(groups: Sequence[Sequence[Run]]) -> list[str]:
    """Name groups by the settings that differ, or by a folder where that would be long."""
    firsts = [group[0] for group in groups]
    keys = differing(firsts, REPEATED)
    labels = [", ".join(_name(key, run.settings.get(key)) for key in keys) for run in firsts]
    if keys and max(map(len, labels)) <= LONGEST_LABEL:
        return labels
    names = [run.folder.resolve().name for run in firsts]
    unique = len({*names}) == len(names)
    return names if unique else [str(run.folder) for run in firsts]


def _name(key: str, value: Any) -> str:
    """Write a setting with its key; a method's name speaks for itself."""
    return written(value) if key == "method" else f"{key} {written(value)}"


def written(value: Any) -> str:
    """Write the value of a setting as settings.toml does, but text without its quotes."""
    return value if isinstance(value, str) else json.dumps(value)
