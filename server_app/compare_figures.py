"""The figures of a comparison: the same quantities of several runs, each in its colour.

As in figures.py, each is a pure function to a Figure, or to None where there is nothing to draw.
Runs that repeat each other are one line, their mean, in a band from the lowest to the highest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from server_app.history import (
    bytes_by_round,
    central_by_round,
    clients_by_round,
    exit_scores,
    last_evaluation,
)
from server_app.page import readable_bytes
from server_app.plotting import (
    INK,
    MOST_LABELS,
    SIZE,
    TEXT,
    TIER_COLOURS,
    Line,
    box_figure,
    line_figure,
    shorten,
    style_axes,
    tier_colours,
)
from server_app.runs import LONGEST_LABEL, Group, Run

STYLES = ("-", "--", ":", "-.")
Series = Callable[[Run], Mapping[int, float]]


def last_exit(run: Run) -> Mapping[int, float]:
    """Return the central accuracy of the last exit by round."""
    return central_by_round(run.metrics)[0]


def mean_of_exits(run: Run) -> Mapping[int, float]:
    """Return the central mean accuracy of the exits by round."""
    return central_by_round(run.metrics)[1]


def clients_mean(run: Run) -> Mapping[int, float]:
    """Return the clients' mean accuracy by round."""
    return clients_by_round(run.clients)


def accuracy_over_rounds(groups: Sequence[Group], series: Series, title: str) -> Figure | None:
    """Draw an accuracy of all runs over the rounds."""
    return line_figure(title, _lines(groups, series), "{:.1f}".format)


def accuracy_over_bytes(groups: Sequence[Group], series: Series, title: str) -> Figure | None:
    """Draw an accuracy of all runs over the bytes of training so far, up and down."""

    def known(run: Run) -> Mapping[int, float]:
        sent = bytes_by_round(run.metrics)
        return {number: value for number, value in series(run).items() if number in sent}

    lines = []
    for group, line in zip(groups, _lines(groups, known), strict=True):
        sent = group.spread(lambda run: bytes_by_round(run.metrics))
        lines.append(line._replace(at=[sent[int(number)][0] for number in line.at]))
    x = "training messages so far, up and down"
    return line_figure(title, lines, "{:.1f}".format, x=x, write_x=readable_bytes)


def accuracy_by_exit(groups: Sequence[Group]) -> Figure | None:
    """Draw the final accuracy of each exit, in order of depth."""

    def final(run: Run) -> Mapping[int, float]:
        return next(filter(None, (exit_scores(row) for row in reversed(run.metrics))), {})

    lines = _lines(groups, final)
    title = "final central accuracy, %"
    figure = line_figure(title, lines, "{:.1f}".format, x="exit after block")
    exits = sorted({block for line in lines for block in line.at})
    if figure and len(exits) <= MOST_LABELS:
        figure.axes[0].set_xticks(exits)
    return figure


def client_accuracy(groups: Sequence[Group]) -> Figure | None:
    """Draw the final accuracy of each client as a dot, over a box of median and quartiles."""
    found = [
        [100 * row["accuracy"] for run in group.runs for row in last_evaluation(run.clients)]
        for group in groups
    ]
    if not any(found):
        return None
    names = [_label(group) for group in groups]
    return box_figure("accuracy of each client, %", names, found, tier_colours(groups))


def cost(groups: Sequence[Group]) -> Figure:
    """Draw the bytes and the seconds of the runs as bars, a mark from the lowest to the highest."""
    figure = Figure(figsize=(SIZE[0], max(SIZE[1] * 0.7, 0.28 * len(groups) + 1)))
    figure.set_layout_engine("constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _bars(left, "training messages, up and down", groups, "bytes", readable_bytes)
    _bars(right, "time of the rounds", groups, "seconds", "{:,.0f} s".format)
    left.set_yticks(range(len(groups)), [_label(group) for group in groups], **TEXT)
    left.invert_yaxis()
    return figure


def _bars(
    axes: Axes, title: str, groups: Sequence[Group], name: str, write: Callable[[float], str]
) -> None:
    """Draw a horizontal bar per group, with its value at the end."""
    style_axes(axes, title)
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])
    top = max(max(group.score(name)) for group in groups) or 1
    for at, (group, colour) in enumerate(zip(groups, tier_colours(groups), strict=True)):
        values = group.score(name)
        axes.barh(at, mean(values), 0.62, color=colour)
        if len(values) > 1:
            axes.hlines(at, min(values), max(values), color=INK, lw=1.4)
        label: dict[str, Any] = {"va": "center", "color": INK, **TEXT}
        axes.text(max(values) + 0.03 * top, at, write(mean(values)), **label)
    axes.set_xlim(0, 1.45 * top)


def _lines(groups: Sequence[Group], series: Series) -> list[Line]:
    """Return a line of percentages per group; after the last colour, lines are dashed."""
    lines = []
    for index, (group, colour) in enumerate(zip(groups, tier_colours(groups), strict=True)):
        spread = group.spread(series)
        middle, low, high = ([100 * row[part] for row in spread.values()] for part in range(3))
        band = (low, high) if len(group.runs) > 1 else None
        style = STYLES[index // len(TIER_COLOURS) % len(STYLES)]
        lines.append(Line(_label(group), colour, list(spread), middle, band, style))
    return lines


def _label(group: Group) -> str:
    return shorten(group.label, LONGEST_LABEL)
