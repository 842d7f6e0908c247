"""What a run shows: its lines, the bar that gives the terminal back, and the summary."""

from contextlib import closing
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from flwr.app import MetricRecord
from rich.console import Console

from server_app.progress import ProgressLine, print_summary
from strategies import AdapterFedAvg, RoundReport


def console_of(terminal: bool) -> tuple[Console, StringIO]:
    stream = StringIO()
    return Console(file=stream, force_terminal=terminal, width=120, highlight=False), stream


def test_the_bar_is_gone_after_an_exception() -> None:
    console, stream = console_of(terminal=True)
    progress = ProgressLine(console)

    def fail() -> None:
        with closing(progress):
            progress.on_start(AdapterFedAvg(), 4)
            assert progress.bar is not None
            assert progress.bar.live.is_started
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert progress.bar is not None
    assert not progress.bar.live.is_started
    hidden, shown = "\x1b[?25l", "\x1b[?25h"  # what a terminal does with its cursor
    assert -1 < stream.getvalue().rfind(hidden) < stream.getvalue().rfind(shown)
    progress.close()  # once more, as after on_finish


def test_outside_a_terminal_a_round_is_a_line() -> None:
    console, stream = console_of(terminal=False)
    progress, strategy = ProgressLine(console), AdapterFedAvg()
    progress.on_start(strategy, 4)
    metrics = MetricRecord({"accuracy-exit-3": 0.5})
    report = RoundReport(2, server_metrics=metrics, seconds={"train": 1.25})
    progress.on_round_end(strategy, report)
    progress.on_finish(strategy)
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("round   2/")
    assert "accuracy % by exit  3: 50.0" in line


SUMMARY: dict[str, Any] = {
    "method": "exits",
    "rounds": 3,
    "accuracy": {"3": 0.5, "mean": 0.5},
    "client-accuracy": {"mean": 0.625},
    "bytes": {"up": 1, "down": 1, "minimum-up": 1, "full-model": 20},
    "seconds": 4.0,
}


def summary_rows(summary: dict[str, Any]) -> dict[str, str]:
    """The printed table by its first column."""
    console, stream = console_of(terminal=False)
    print_summary(summary, Path("runs/x"), console)
    cells = [line.split("│")[1:3] for line in stream.getvalue().splitlines() if "│" in line]
    return {name.strip(): value.strip() for name, value in cells}


def test_the_summary_holds_personalisation_and_privacy_where_they_are() -> None:
    plain = summary_rows(SUMMARY)
    assert plain["client accuracy, mean"] == "62.5 %"
    assert plain["whole model instead"] == "10 times as much"
    assert not [name for name in plain if "personalised" in name or "privacy" in name]
    full = summary_rows(
        {
            **SUMMARY,
            "personalisation": {"epochs": 1, "before": {"mean": 0.625}, "after": {"mean": 0.75}},
            "privacy": {"epsilon": 3.2149, "delta": 1e-5, "noise-multiplier": 1.1},
        }
    )
    assert full["personalised (before), mean"] == "75.0 (62.5) %"
    assert full["privacy, epsilon"] == "3.21 at delta 1e-05"
