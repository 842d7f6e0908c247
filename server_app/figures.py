"""The figures of a report: each one a pure function from the rows of a run to a Figure.

A figure for which the rows hold nothing is None. pyplot is left out: its state is global, and the
server may run in a thread.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from server_app.history import (
    EXIT_ACCURACY,
    Row,
    bytes_by_round,
    central_by_round,
    clients_by_round,
    exit_scores,
)
from server_app.page import readable_bytes, readable_flops
from server_app.plotting import (
    INK,
    MOST_LABELS,
    MUTED,
    SIZE,
    TEXT,
    Line,
    add_legend,
    depth_colours,
    draw_bars,
    line_figure,
    new_figure,
    percent_axis,
    quantity_axis,
    style_axes,
    whole_numbers,
)

DARK, RED, LIGHT = "#30588c", "#c9553d", "#8fb0d3"
PHASE_COLOURS = {
    "train": DARK,
    "aggregate": RED,
    "client-evaluate": LIGHT,
    "server-evaluate": "#c9d3de",
}


def central_accuracy(metrics: Sequence[Row]) -> Figure | None:
    """Draw the central accuracy of each exit over the rounds, the start included."""
    lines = _exit_lines(metrics, EXIT_ACCURACY, scale=100)
    return line_figure("central accuracy, %", lines, "{:.1f}".format)


def training_loss(metrics: Sequence[Row]) -> Figure | None:
    """Draw the clients' mean training loss over the rounds: what is minimised, and each exit's."""
    lines = [
        Line("minimised", MUTED, *_series(metrics, "train-loss")),
        *_exit_lines(metrics, "train-loss-exit-"),
    ]
    return line_figure("training loss (logarithmic)", lines, "{:.3g}".format, log=True)


def accuracy_over_bytes(metrics: Sequence[Row], clients: Sequence[Row]) -> Figure | None:
    """Draw accuracy over the bytes of training so far, up and down.

    Of the last exit and the mean of the exits, on the central test set; where the server has none,
    the clients' mean on their own.
    """
    last, of_exits = central_by_round(list(metrics))
    sent = bytes_by_round(list(metrics))
    if last:
        lines = [
            Line("last exit", DARK, *_over(sent, last)),
            Line("mean of exits", RED, *_over(sent, of_exits)),
        ]
        title = "central accuracy, %"
    else:
        lines = [Line("clients", DARK, *_over(sent, clients_by_round(list(clients))))]
        title = "mean accuracy of the clients, %"
    x = "training messages so far, up and down"
    return line_figure(title, lines, "{:.1f}".format, x=x, write_x=readable_bytes)


def anytime(metrics: Sequence[Row], cost: Row | None) -> Figure | None:
    """Draw the last accuracy of each exit over the compute and the time to its answer.

    `cost` is anytime.json; the accuracy is central or, without a central test set, the clients'.
    """
    scores, owner = _last(metrics, EXIT_ACCURACY), "central"
    if not scores:
        scores, owner = _last(metrics, f"client-{EXIT_ACCURACY}"), "clients'"
    spent = {int(block): row for block, row in (cost or {"exits": {}})["exits"].items()}
    exits = sorted({*scores} & {*spent})
    if cost is None or not exits:
        return None
    figure = Figure(figsize=SIZE, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    threads = f"{cost['threads']} thread{'s' if cost['threads'] != 1 else ''}"
    style_axes(left, f"{owner} accuracy, %, by exit", "FLOPs per image")
    style_axes(right, "", f"milliseconds per image ({cost['device']}, {threads})")
    heights = [scores[block] for block in exits]
    step = math.ceil(len(exits) / MOST_LABELS)
    for axes, key in ((left, "flops"), (right, "milliseconds")):
        at = [spent[block][key] for block in exits]
        axes.plot(at, heights, color="#b8c1cb", lw=1.4, zorder=1)
        axes.scatter(at, heights, 34, color=depth_colours(len(exits)), zorder=2)
        for place, height, block in list(zip(at, heights, exits, strict=True))[::-step]:
            axes.annotate(
                str(block),
                (place, height),
                (0, 6),
                textcoords="offset points",
                ha="center",
                color=INK,
                **TEXT,
            )
        quantity_axis(axes, readable_flops if key == "flops" else "{:g}".format)
        axes.set_xlim(right=1.08 * max(at))
    percent_axis(left)
    points = [
        f"exit {b}: {scores[b]:.1f} % after {readable_flops(spent[b]['flops'])} FLOPs, "
        f"{spent[b]['milliseconds']:.3g} ms"
        for b in exits
    ]
    figure.set_label(f"{owner} accuracy by compute and time: {'; '.join(points)}")
    return figure


def accuracy_by_exit(metrics: Sequence[Row]) -> Figure | None:
    """Draw the last accuracies by exit: central as bars, the clients' mean as circles."""
    central, clients = _last(metrics, EXIT_ACCURACY), _last(metrics, f"client-{EXIT_ACCURACY}")
    exits = sorted({*central, *clients})
    if not exits:
        return None
    figure, axes = new_figure("accuracy, %", x="exit after block")
    colours = depth_colours(len(exits))
    axes.bar(range(len(exits)), [central.get(block, 0) for block in exits], 0.62, color=colours)
    circles = [clients.get(block, math.nan) for block in exits]
    look: dict[str, Any] = {"facecolors": "white", "edgecolors": INK, "linewidths": 1.3}
    axes.scatter(range(len(exits)), circles, 42, zorder=3, **look)
    if central and len(exits) <= MOST_LABELS:
        foot: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "ha": "center"}
        for at, (block, colour) in enumerate(zip(exits, colours, strict=True)):
            ink = INK if sum(colour[:3]) > 1.4 else "white"
            axes.text(at, 0.05, f"{central[block]:.1f}", color=ink, **foot, **TEXT)
    step = math.ceil(len(exits) / MOST_LABELS)
    axes.set_xticks(range(0, len(exits), step), [str(block) for block in exits[::step]])
    axes.set_xlim(-0.7, len(exits) - 0.3)
    percent_axis(axes)
    return figure


def bytes_per_round(
    metrics: Sequence[Row], clients: Sequence[Row], full_model: int
) -> Figure | None:
    """Draw the bytes of the training messages, each way, beside those of the full model.

    `full_model` is what all training messages of the run would have cost with every weight in
    them, both ways together, as in the summary. Of evaluations only the way down counts.
    """
    messages = Counter(row["round"] for row in clients if row["phase"] == "train")
    evaluated = [row for row in metrics if row.get("evaluate-bytes-down")]
    each = full_model / max(1, messages.total()) / 2
    lines = [
        Line("full model", MUTED, list(messages), [each * n for n in messages.values()]),
        Line("evaluation down", RED, *_series(evaluated, "evaluate-bytes-down")),
        Line("down", LIGHT, *_series(metrics, "bytes-down")),
        Line("up", DARK, *_series(metrics, "bytes-up")),
    ]
    return line_figure("bytes per round, each way (logarithmic)", lines, readable_bytes, log=True)


def seconds_per_phase(metrics: Sequence[Row]) -> Figure | None:
    """Draw the wall time of each round's phases, stacked."""
    rows = [row for row in metrics if row.get("seconds")]
    if not rows:
        return None
    figure, axes = new_figure("seconds per round", x="round")
    whole_numbers(axes)
    rounds, base = [row["round"] for row in rows], np.zeros(len(rows))
    # In one order and one colour each, whatever order a round noted them in.
    found = dict.fromkeys(key for row in rows for key in row["seconds"])
    for phase in sorted(found, key=[*PHASE_COLOURS, *found].index):
        seconds = np.array([row["seconds"].get(phase, 0.0) for row in rows])
        label, colour = f"{phase}: {seconds.sum():,.1f} s", PHASE_COLOURS.get(phase, MUTED)
        draw_bars(axes, rounds, base, base + seconds, len(rows), colour, label)
        base = base + seconds
    add_legend(figure, columns=2)
    return figure


def _exit_lines(metrics: Sequence[Row], prefix: str, scale: float = 1) -> list[Line]:
    """Return a line for each exit with values named `prefix` and its block, in order of depth."""
    keys = {key for row in metrics for key in row if key.startswith(prefix)}
    blocks = sorted(int(key.removeprefix(prefix)) for key in keys)
    return [
        Line(f"exit {block}", colour, *_series(metrics, f"{prefix}{block}", scale))
        for block, colour in zip(blocks, depth_colours(len(blocks)), strict=True)
    ]


def _last(metrics: Sequence[Row], prefix: str) -> dict[int, float]:
    """Return the percentages by exit of the last row that has them."""
    last = next(filter(None, (exit_scores(row, prefix) for row in reversed(metrics))), {})
    return {block: 100 * share for block, share in last.items()}


def _over(sent: dict[int, int], shares: dict[int, float]) -> tuple[list[int], list[float]]:
    """Return the bytes sent by the rounds of `shares`, and these as percentages."""
    rounds = [number for number in shares if number in sent]
    return [sent[number] for number in rounds], [100 * shares[number] for number in rounds]


def _series(metrics: Iterable[Row], key: str, scale: float = 1) -> tuple[list[int], list[float]]:
    """Return the rounds in which `key` has a finite value, and the values."""
    rows = [row for row in metrics if math.isfinite(row.get(key, math.nan))]
    return [row["round"] for row in rows], [scale * row[key] for row in rows]
