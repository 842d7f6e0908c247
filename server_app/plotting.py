"""How a figure of the report looks: axes, colours, lines with names at their ends, many bars."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from statistics import mean
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

INK, MUTED, GRID = "#1f2933", "#5f6c7b", "#e6e9ed"
# Okabe and Ito: told apart with every kind of colour vision.
TIER_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
FAMILIES = ("Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans")
FONT = next(name for name in FAMILIES if name in get_font_names())
# A name from the data is never read as math, whatever dollars it holds.
TEXT: dict[str, Any] = {"fontfamily": [FONT, "DejaVu Sans"], "fontsize": 8.5, "parse_math": False}
MOST_LABELS = 12  # of lines or bars
MOST_BARS = 40  # with a gap between them, and names below
MOST_MARKERS = 30  # on a line


class Line(NamedTuple):
    """A line of a figure: a value for some of the rounds."""

    name: str
    colour: Any
    rounds: Sequence[int]
    values: Sequence[float]


def new_figure(title: str, x: str = "") -> tuple[Figure, Axes]:
    """Make a figure with one set of axes; its title names what is drawn upwards."""
    figure = Figure(figsize=(4.9, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", color=MUTED, pad=10, **TEXT)
    axes.set_xlabel(x, color=MUTED, **TEXT)
    axes.tick_params(which="both", colors=MUTED, labelsize=8.5, labelfontfamily=FONT, length=0)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#b8c1cb")
    if x == "round":
        ticks = MaxNLocator(8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
        axes.xaxis.set_major_locator(ticks)
    return figure, axes


def line_figure(
    title: str, lines: Iterable[Line], write: Callable[[float], str], *, log: bool = False
) -> Figure | None:
    """Draw lines over the rounds, with name and last value at their ends in place of a legend.

    The vertical axis is logarithmic (`log`), with its ticks written by `write`, or of percentages.
    """
    lines = [line for line in lines if any(value > 0 or not log for value in line.values)]
    if not lines:
        return None
    figure, axes = new_figure(title, x="round")
    for line in lines:
        # Few points get markers, so that one alone is seen.
        marker = "o" if len(line.rounds) <= MOST_MARKERS else None
        axes.plot(line.rounds, line.values, marker=marker, lw=1.8, ms=4, color=line.colour)
    if log:
        log_axis(axes, write)
    else:
        percent_axis(axes)
    to_fraction = axes.transData + axes.transAxes.inverted()
    labelled = lines[:: -math.ceil(len(lines) / MOST_LABELS)][::-1]  # the last one always
    ends = [(line.rounds[-1], line.values[-1]) for line in labelled]
    heights = [to_fraction.transform(end)[1] for end in ends]
    order = np.argsort(heights, stable=True)
    for index, height in zip(order, spread(sorted(heights), gap=0.075), strict=True):
        line = labelled[index]
        axes.annotate(
            f"{line.name}: {write(line.values[-1])}",
            ends[index],
            (1.06, height),
            textcoords="axes fraction",
            va="center",
            color=INK,
            arrowprops={
                "arrowstyle": "-",
                "color": line.colour,
                "relpos": (0, 0.5),  # from the middle of the text's left side
                "shrinkB": 3,
            },
            **TEXT,
        )
    return figure


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Move ascending places by least squares to be `gap` apart, within 0 and 1 if they fit.

    Less `gap` times their rank they need only ascend: isotonic regression by pooling neighbours.
    """
    steps = gap * np.arange(len(places))
    pools: list[list[float]] = []
    for place in places - steps:
        pools.append([place])
        while len(pools) > 1 and mean(pools[-2]) > mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    moved = [mean(pool) for pool in pools for _ in pool]
    return list(np.clip(moved, 0, max(0, 1 - steps[-1])) + steps)


def draw_bars(
    axes: Axes, at: Sequence[int], base: Any, top: Any, count: int, colour: str, label: str
) -> None:
    """Draw some of a figure's `count` bars, as one collection: thousands of bars take seconds."""
    half = 0.4 if count <= MOST_BARS else 0.5  # narrower gaps would only shimmer
    left, right = np.array(at) - half, np.array(at) + half
    corners = np.array([[left, base], [left, top], [right, top], [right, base]])
    look: dict[str, Any] = {"facecolors": colour, "linewidths": 0, "antialiaseds": half < 0.5}
    bars = PolyCollection(list(corners.transpose(2, 0, 1)), label=label, **look)
    bars.sticky_edges.y.append(0)
    axes.add_collection(bars)
    axes.margins(x=0.02)
    axes.autoscale_view()


def percent_axis(axes: Axes) -> None:
    """Let the vertical axis begin at 0 %, or higher if all dots lie high, and end by 100 %."""
    low, high = axes.dataLim.intervaly
    bottom = min(90, 10 * (low // 10)) if low > 40 else 0
    top = 100 if high > 90 else max(1.1 * high, 5)
    margin = 0.02 * (top - bottom)
    axes.set_ylim(bottom - margin, top + margin)


def log_axis(axes: Axes, write: Callable[[float], str]) -> None:
    """Make the vertical axis logarithmic, with ticks at 1, 2 and 5, or at 1 if it is long."""
    low, high = axes.dataLim.minposy, axes.dataLim.y1
    axes.set_yscale("log")
    axes.set_ylim(low / 1.5, high * 1.5)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: write(value)))
    axes.yaxis.set_minor_locator(NullLocator())


def name_axis(axes: Axes, names: Sequence[str]) -> None:
    """Write names under the horizontal axis, upright where they would not fit side by side."""
    rotation = 90 if sum(len(name) + 1 for name in names) > 75 else 0
    axes.set_xticks(range(len(names)), names, rotation=rotation, **TEXT)


def add_legend(figure: Figure, columns: int) -> None:
    """Put a legend below the axes."""
    place: dict[str, Any] = {"loc": "outside lower center", "ncols": columns, "frameon": False}
    legend = figure.legend(**place, handlelength=1, handleheight=1, labelcolor=INK)
    for text in legend.get_texts():
        text.set(**TEXT)


def shorten(name: str) -> str:
    """Cut a long name, so that it leaves room for the data."""
    return name if len(name) <= 16 else f"{name[:15]}…"


def tier_colours(tiers: Sequence[str]) -> list[str]:
    """Return a colour per tier, the same in every figure."""
    return [TIER_COLOURS[index % len(TIER_COLOURS)] for index in range(len(tiers))]


def depth_colours(count: int) -> list[Any]:
    """Sample one map from shallow (light) to deep (dark), without its palest part."""
    return list(matplotlib.colormaps["viridis_r"](np.linspace(0.22, 0.92, count)))
