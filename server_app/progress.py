"""What a run shows while it goes: a progress bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from server_app.history import EXIT_ACCURACY, Row
from strategies import AdapterFedAvg, Callback, RoundReport


class ProgressLine(Callback):
    """One line per round; in a terminal below it a bar with the time that remains."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self.bar: Progress | None = None

    def on_start(self, strategy: AdapterFedAvg, num_rounds: int) -> None:
        """Open the bar."""
        if self.console.is_terminal:
            self.bar = Progress(
                TextColumn("rounds"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self.bar.start()
            self.bar.add_task("rounds", total=num_rounds, completed=strategy.completed_rounds)

    def on_round_end(self, strategy: AdapterFedAvg, report: RoundReport) -> None:
        """Print the round."""
        parts = [f"round {report.server_round:>3}/{strategy.last_round}"]
        train = dict(report.train_metrics or {})
        if "train-loss" in train:
            parts.append(f"loss {train['train-loss']:.3f}")
        scores = [
            f"{key.removeprefix(EXIT_ACCURACY)}: {_percent(value)}"
            for key, value in (report.server_metrics or {}).items()
            if key.startswith(EXIT_ACCURACY)
        ]
        if scores:
            parts.append("accuracy % by exit  " + "  ".join(scores))
        if report.client_metrics and "accuracy" in report.client_metrics:
            parts.append(f"clients {_percent(report.client_metrics['accuracy'])}")
        parts.append(f"up {report.bytes('train')[1] / 1e6:.2f} MB")
        parts.append(f"{sum(report.seconds.values()):.1f} s")
        self.console.print("  ".join(parts), soft_wrap=True)
        if self.bar is not None:
            self.bar.advance(self.bar.task_ids[0])

    def on_finish(self, strategy: AdapterFedAvg) -> None:
        """Close the bar."""
        del strategy
        self.close()

    def close(self) -> None:
        """Give the terminal back, also where a run ends in an exception; closing twice is fine."""
        if self.bar is not None:
            self.bar.stop()


def print_summary(summary: Row, output: Path, console: Console | None = None) -> None:
    """Print the summary as a table, and where the results lie."""
    console = console or Console(highlight=False)
    table = Table(title=f"{summary['method']}, {summary['rounds']} rounds", title_justify="left")
    table.add_column("")
    table.add_column("result", justify="right")
    for name, value in summary["accuracy"].items():
        label = "mean of the exits" if name == "mean" else f"exit after block {name}"
        table.add_row(f"central accuracy, {label}", f"{100 * value:.1f} %")
    if "fine-tune" in (found := summary.get("downstream", {})):
        table.add_row("central accuracy, fine-tuned", f"{100 * found['fine-tune']:.1f} %")
    for name, value in summary["client-accuracy"].items():
        table.add_row(f"client accuracy, {name}", f"{100 * value:.1f} %")
    for name, values in summary.get("client-accuracy-of", {}).items():
        table.add_row(f"client accuracy of {name}, mean", f"{100 * values['mean']:.1f} %")
    if personal := summary.get("personalisation"):
        for name, value in personal["after"].items():
            before = f"{100 * personal['before'][name]:.1f}"
            table.add_row(f"personalised (before), {name}", f"{100 * value:.1f} ({before}) %")
    counts = summary["bytes"]
    table.add_row("bytes up (the trained tensors' own)", _pair(counts["up"], counts["minimum-up"]))
    table.add_row("bytes down", f"{counts['down'] / 1e6:.2f} MB")
    sent = counts["up"] + counts["down"]
    if sent:
        table.add_row("whole model instead", f"{counts['full-model'] / sent:.0f} times as much")
    if privacy := summary.get("privacy"):
        cost = f"{privacy['epsilon']:.3g} at delta {privacy['delta']:.1g}"
        table.add_row("privacy, epsilon", cost)
    table.add_row("seconds", f"{summary['seconds']:.0f}")
    console.print(table)
    report = output / "report.html"
    found = f"Report: {report}" if report.is_file() else f"Results: {output}"
    console.print(found, soft_wrap=True)


def _percent(value: Any) -> str:
    return f"{100 * value:.1f}"


def _pair(first: int, second: int) -> str:
    return f"{first / 1e6:.2f} ({second / 1e6:.2f}) MB"
