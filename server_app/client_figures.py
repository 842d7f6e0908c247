"""The figures of a report that show single clients: what each has, scores, and gains.

As in figures.py, each is a pure function to a Figure, or to None where there is nothing to draw.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import mean
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import ListedColormap, PowerNorm
from matplotlib.figure import Figure

from server_app.history import Row, last_evaluation
from server_app.plotting import (
    FONT,
    INK,
    MOST_BARS,
    MUTED,
    TEXT,
    Line,
    add_legend,
    box_figure,
    draw_bars,
    line_figure,
    name_axis,
    new_figure,
    percent_axis,
    shorten,
    style_axes,
    tier_colours,
)
from strategies import PERSONALISE_PHASE

UNSEEN = "never asked"
MOST_CLASSES = 20  # with their names


def client_accuracy(clients: Sequence[Row], tiers: Sequence[str]) -> Figure | None:
    """Draw each client's last accuracy as a dot, by tier, over a box of median and quartiles."""
    rows = last_evaluation(list(clients))
    if not rows:
        return None
    groups = [[100 * row["accuracy"] for row in rows if row["tier"] == tier] for tier in tiers]
    names = [shorten(tier) for tier in tiers]
    return box_figure("accuracy of each client, %", names, groups, tier_colours(tiers))


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


def personalisation(clients: Sequence[Row], tiers: Sequence[str]) -> Figure | None:
    """Draw each client's accuracy before its personalisation (circle) and after it (dot)."""
    personal = [row for row in clients if row["phase"] == PERSONALISE_PHASE]
    rows = [row for row in personal if not row["refused"]]
    if not rows:
        return None
    rows.sort(key=lambda row: (tiers.index(row["tier"]), row["accuracy-before"]))
    figure, axes = new_figure("accuracy of each client before (\u25cb) and after (\u25cf), %")
    size = min(26, max(3, 2500 / len(rows)))
    for tier, colour in zip(tiers, tier_colours(tiers), strict=True):
        own = [(at, row) for at, row in enumerate(rows) if row["tier"] == tier]
        at = [place for place, _ in own]
        before = [100 * row["accuracy-before"] for _, row in own]
        after = [100 * row["accuracy"] for _, row in own]
        axes.vlines(at, before, after, color=colour, lw=min(1.4, size / 8), alpha=0.6)
        hollow: dict[str, Any] = {"facecolors": "white", "edgecolors": colour, "zorder": 3}
        axes.scatter(at, before, size, linewidths=min(1.2, size / 8), **hollow)
        label = f"{shorten(tier)} ({len(own):,})"
        axes.scatter(at, after, size, color=colour, linewidths=0, zorder=4, label=label)
    names = [shorten(row["client"]) for row in rows] if len(rows) <= MOST_BARS else []
    name_axis(axes, names)
    percent_axis(axes)
    add_legend(figure, columns=3)
    gains = [row["accuracy"] - row["accuracy-before"] for row in rows]
    figure.set_label(
        f"accuracy of {len(rows):,} clients before and after personalisation: mean gain "
        f"{100 * mean(gains):+.1f} points; higher for {sum(gain > 0 for gain in gains):,}, lower "
        f"for {sum(gain < 0 for gain in gains):,}"
    )
    return figure


def personal_epochs(personal: Row | None, tiers: Sequence[str]) -> Figure | None:
    """Draw accuracies over the epochs of a personalisation: of all, the worst tenth, each tier.

    `personal` is that part of summary.json; one epoch makes no line.
    """
    if personal is None or len(personal.get("by-epoch", {})) < 2:
        return None
    found = [personal["before"], *personal["by-epoch"].values()]
    named = [("all clients", "mean", INK), ("worst tenth", "worst-decile", MUTED)]
    named += [
        (shorten(tier), tier, colour)
        for tier, colour in zip(tiers, tier_colours(tiers), strict=True)
        if tier in found[0]
    ]
    lines = [
        Line(name, colour, range(len(found)), [100 * scores[key] for scores in found])
        for name, key, colour in named
    ]
    return line_figure(
        "mean accuracy of the clients, %", lines, "{:.1f}".format, x="epochs on own data"
    )


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


def partition(table: Row, clients: Sequence[Row], tiers: Sequence[str]) -> Figure:
    """Draw who has what: training examples of each client above, and of each class below.

    `table` is partition.json. Clients stand by tier, then by key; those that no row knows, last.
    """
    classes, counts = table["classes"], table["clients"]
    tier_of = {row["client"]: row["tier"] for row in clients}
    groups = [*tiers, UNSEEN]
    order = sorted(counts, key=lambda key: (groups.index(tier_of.get(key, UNSEEN)), len(key), key))
    matrix = np.array([counts[key] for key in order]).T  # (classes, clients)
    figure = Figure(figsize=(4.9, 4.0), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2.4))
    style_axes(above, "training examples of each client")
    style_axes(below, "of each class")
    for tier, colour in zip(groups, [*tier_colours(tiers), MUTED], strict=True):
        at = [place for place, key in enumerate(order) if tier_of.get(key, UNSEEN) == tier]
        if at:
            top = matrix.sum(0)[at]
            name = f"{shorten(tier)} ({len(at):,})"
            draw_bars(above, at, 0 * top, top, len(order), colour, name)
    blues = ListedColormap(matplotlib.colormaps["Blues"](np.linspace(0.2, 1, 256)))
    few = len(order) <= MOST_BARS and len(classes) <= MOST_CLASSES
    cells = below.pcolormesh(
        np.arange(len(order) + 1) - 0.5,
        np.arange(len(classes) + 1) - 0.5,
        matrix,
        cmap=blues.with_extremes(under="white"),
        # With the square root small counts show beside large ones.
        norm=PowerNorm(0.5, 1, max(2, matrix.max())),
        edgecolors="white" if few else "none",
        linewidth=0.6 if few else 0,
        rasterized=True,
    )
    below.grid(visible=False)
    below.invert_yaxis()
    if len(classes) <= MOST_CLASSES:
        below.set_yticks(range(len(classes)), [shorten(name) for name in classes], **TEXT)
    else:
        below.set_yticks([])
        below.set_ylabel(f"{len(classes):,} classes", color=MUTED, **TEXT)
    name_axis(below, [shorten(key) for key in order] if len(order) <= MOST_BARS else [])
    below.set_xlabel("client" if len(order) <= MOST_BARS else f"{len(order):,} clients", **TEXT)
    bar = figure.colorbar(cells, ax=below, aspect=14, pad=0.02, format="{x:,.0f}")
    bar.ax.tick_params(colors=MUTED, labelsize=8.5, labelfontfamily=FONT, length=0)
    bar.outline.set_visible(False)
    add_legend(figure, columns=3)
    sums, held = matrix.sum(0), (matrix > 0).sum(0)
    figure.set_label(
        f"training examples of {len(order):,} clients by class: a client holds {sums.min():,} to "
        f"{sums.max():,} examples of {held.min()} to {held.max()} of {len(classes):,} classes"
    )
    return figure
