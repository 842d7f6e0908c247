"""Made-up runs for the tests of report and comparison: rows, the files of a run, and readers."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from server_app.history import Row
from server_app.summary import summarise
from settings import Settings

TIERS = ("small", "large")
REACH = {"small": (3,), "large": (3, 6)}


def central_row(server_round: int, exits: Sequence[int] = (3, 6)) -> Row:
    """Exit b scores b + round percent."""
    scores = {f"accuracy-exit-{b}": (b + server_round) / 100 for b in exits}
    return {"round": server_round, **scores, "accuracy-mean": sum(scores.values()) / len(scores)}


def round_row(server_round: int, central: bool = True, exits: Sequence[int] = (3, 6)) -> Row:
    return {
        **(central_row(server_round, exits) if central else {"round": server_round}),
        "train-loss": 4.0 / server_round,
        **{f"train-loss-exit-{b}": b / server_round for b in exits},
        "bytes-down": 2000,
        "bytes-up": 1000,
        "evaluate-bytes-down": 500,
        "evaluate-bytes-up": 10,
        "seconds": {"train": 2.0, "aggregate": 0.5},
    }


def train_row(server_round: int, client: str, tier: str, examples: int = 10) -> Row:
    return {
        "round": server_round,
        "client": client,
        "tier": tier,
        "phase": "train",
        "bytes-down": 1000,
        "bytes-up": 500,
        "refused": "",
        "num-examples": examples,
        "seconds": 0.25,
    }


def evaluate_row(server_round: int, client: str, tier: str, accuracy: float) -> Row:
    row = {**train_row(server_round, client, tier), "phase": "evaluate", "accuracy": accuracy}
    return row | {f"accuracy-exit-{block}": accuracy for block in REACH[tier]}


def personal_row(client: str, tier: str, before: float, after: float) -> Row:
    row = {**evaluate_row(2, client, tier, after), "phase": "personalise"}
    return {**row, "accuracy-before": before}


METRICS = [central_row(0), round_row(1), round_row(2)]
CLIENTS = [
    train_row(1, "a", "small", 30),
    train_row(1, "b", "large", 20),
    train_row(2, "b", "large", 20),
    train_row(2, "c", "large", 40),
    evaluate_row(1, "a", "small", 0.1),
    evaluate_row(2, "a", "small", 0.2),
    evaluate_row(2, "b", "large", 0.4),
    evaluate_row(2, "c", "large", 0.6),
]
PERSONAL = [
    personal_row("c", "large", 0.6, 0.5),
    personal_row("b", "large", 0.4, 0.7),
    personal_row("a", "small", 0.2, 0.3),
]
COST: Row = {
    "device": "cpu",
    "threads": 1,
    "batch-size": 1,
    "exits": {
        "3": {"flops": 1.5e7, "milliseconds": 2.0},
        "6": {"flops": 3.0e7, "milliseconds": 5.0},
    },
}
HELD: Row = {
    "classes": ["cat", "dog", "owl"],
    "clients": {"c": [0, 40, 0], "a": [10, 20, 0], "b": [0, 0, 20], "d": [1, 1, 1]},
}


def write_files(
    output: Path,
    metrics: list[Row],
    clients: list[Row],
    settings: Settings | None = None,
    **extra: Any,
) -> Path:
    """Write the files of a run, with `extra` fields in its summary; return its folder."""
    settings = settings or Settings(rounds=2)
    output.mkdir(exist_ok=True)
    (output / "settings.toml").write_text(settings.to_toml())
    for name, rows in (("metrics", metrics), ("clients", clients)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (output / f"{name}.jsonl").write_text(text)
    trainable = dict.fromkeys(TIERS, 100) | {row["tier"]: 100 for row in clients}
    summary = summarise(
        settings,
        metrics,
        clients,
        trainable=trainable,
        sent=sum(100 for row in clients if row["phase"] == "train" and not row["refused"]),
        full_model_parameters=10_000,
        bytes_per_number=4,
    )
    (output / "summary.json").write_text(json.dumps({**summary, **extra}))
    return output


class Page(HTMLParser):
    """The tags of a page, the addresses it refers to, and what it says of its images."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.alts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        self.alts += [value or "" for name, value in attrs if name == "alt"]


def table_rows(html: str) -> list[list[str]]:
    """The cells of all rows, as text: `*` marks the best, `|` begins a second line."""
    rows = [re.findall(r"<(t[dh].*?)</t[dh]>", row) for row in re.findall("<tr>(.*?)</tr>", html)]
    marks = (
        ('td class="best">', "*"),
        ("<small>", "|"),
        ("</small>", ""),
        ("td>", ""),
        ("th>", ""),
    )
    for mark, text in marks:
        rows = [[cell.replace(mark, text) for cell in row] for row in rows]
    return [[unescape(cell) for cell in row] for row in rows]


def axes_of(figure: Figure | None) -> Axes:
    assert figure is not None
    figure.draw_without_rendering()  # lays out: an error in it should show
    return figure.axes[0]


def lines_of(figure: Figure | None) -> list[tuple[list[float], list[float]]]:
    return [
        (list(np.asarray(line.get_xdata())), list(np.asarray(line.get_ydata())))
        for line in axes_of(figure).lines
    ]


def bars_of(axes: Axes) -> list[list[tuple[float, float]]]:
    """The bars (from, to) of each group."""
    groups = [[path.get_extents() for path in group.get_paths()] for group in axes.collections]
    return [[(box.y0, box.y1) for box in group] for group in groups]
