"""The figures of a report: each one a pure function from the rows of a run to a Figure.

A figure for which the rows hold nothing is None. pyplot is left out: its state is global, and the
server may run in a thread.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from statistics import mean
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from server_app.history import EXIT_ACCURACY, Row, last_evaluation
from server_app.plotting import (
    INK,
    MOST_BARS,
    MOST_LABELS,
    MUTED,
    TEXT,
    Line,
    add_legend,
    depth_colours,
    draw_bars,
    line_figure,
    name_axis,
    new_figure,
    percent_axis,
    shorten,
    tier_colours,
)
from server_app.report import readable_bytes

PHASE_COLOURS = ("#30588c", "#c9553d", "#8fb0d3", "#c9d3de")


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


def client_accuracy(clients: Sequence[Row], tiers: Sequence[str]) -> Figure | None:
    """Draw each client's last accuracy as a dot, by tier, over a box of median and quartiles."""
    rows = last_evaluation(list(clients))
    if not rows:
        return None
    figure, axes = new_figure("accuracy of each client, %")
    groups = [sorted(100 * r["accuracy"] for r in rows if r["tier"] == tier) for tier in tiers]
    boxes = axes.boxplot(
        groups,
        positions=range(len(tiers)),
        widths=0.62,
        showfliers=False,
        showcaps=False,
        patch_artist=True,
        boxprops={"edgecolor": "none"},
        medianprops={"color": INK, "linewidth": 1.6},
        whiskerprops={"color": INK, "linewidth": 0.9},
    )
    for at, (values, box) in enumerate(zip(groups, boxes["boxes"], strict=True)):
        colour = tier_colours(tiers)[at]
        box.set_facecolor((colour, 0.16))
        # The golden ratio spreads neighbours in value widely, and the same way each time.
        across = at + 0.46 * (np.arange(len(values)) * 0.618034 % 1 - 0.5)
        size = min(26, max(3, 2500 / max(1, len(values))))
        axes.scatter(across, values, size, color=colour, alpha=0.75, linewidths=0, zorder=3)
    names = [f"{shorten(tier)} ({len(g):,})" for tier, g in zip(tiers, groups, strict=True)]
    name_axis(axes, names)
    percent_axis(axes)
    return figure


def tier_accuracy(clients: Sequence[Row], tiers: Sequence[str]) -> Figure | None:
    """Draw the mean accuracy of each tier's clients over the rounds."""
    found: dict[str, dict[int, list[float]]] = {tier: defaultdict(list) for tier in tiers}
    for row in clients:
        if row["phase"] == "evaluate" and not row["refused"]:
            found[row["tier"]][row["round"]].append(100 * row["accuracy"])
    lines = [
        Line(shorten(tier), colour, list(found[tier]), [mean(v) for v in found[tier].values()])
        for tier, colour in zip(tiers, tier_colours(tiers), strict=True)
    ]
    title = "mean accuracy of the tier's clients, %"
    return line_figure(title, lines, "{:.1f}".format)


def training_examples(clients: Sequence[Row], tiers: Sequence[str]) -> Figure | None:
    """Draw the number of training examples of each client that trained, by tier."""
    trained = [r for r in clients if r["phase"] == "train" and "num-examples" in r]
    sizes = {row["client"]: (tiers.index(row["tier"]), -row["num-examples"]) for row in trained}
    if not sizes:
        return None
    figure, axes = new_figure("training examples of each client")
    order = sorted(sizes, key=lambda client: sizes[client])
    for index, (tier, colour) in enumerate(zip(tiers, tier_colours(tiers), strict=True)):
        at = [place for place, client in enumerate(order) if sizes[client][0] == index]
        top = np.array([-sizes[order[place]][1] for place in at])
        draw_bars(axes, at, 0 * top, top, len(order), colour, f"{shorten(tier)} ({len(at):,})")
    name_axis(axes, [shorten(client) for client in order] if len(order) <= MOST_BARS else [])
    add_legend(figure, columns=3)
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
        Line("evaluation down", "#c9553d", *_series(evaluated, "evaluate-bytes-down")),
        Line("down", "#8fb0d3", *_series(metrics, "bytes-down")),
        Line("up", "#30588c", *_series(metrics, "bytes-up")),
    ]
    return line_figure("bytes per round, each way (logarithmic)", lines, readable_bytes, log=True)


def seconds_per_phase(metrics: Sequence[Row]) -> Figure | None:
    """Draw the wall time of each round's phases, stacked."""
    rows = [row for row in metrics if row.get("seconds")]
    if not rows:
        return None
    figure, axes = new_figure("seconds per round", x="round")
    rounds, base = [row["round"] for row in rows], np.zeros(len(rows))
    for index, phase in enumerate(dict.fromkeys(key for row in rows for key in row["seconds"])):
        seconds = np.array([row["seconds"].get(phase, 0.0) for row in rows])
        label, colour = f"{phase}: {seconds.sum():,.1f} s", PHASE_COLOURS[index % 4]
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
    rows = [{k: v for k, v in row.items() if k.startswith(prefix)} for row in metrics]
    last: Row = next((row for row in reversed(rows) if row), {})
    return {int(key.removeprefix(prefix)): 100 * value for key, value in last.items()}


def _series(metrics: Iterable[Row], key: str, scale: float = 1) -> tuple[list[int], list[float]]:
    """Return the rounds in which `key` has a finite value, and the values."""
    rows = [row for row in metrics if math.isfinite(row.get(key, math.nan))]
    return [row["round"] for row in rows], [scale * row[key] for row in rows]
