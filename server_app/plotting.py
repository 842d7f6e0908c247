"""How a figure of the report looks: axes, colours, lines with names at their ends, many bars."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from statistics import mean
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
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
LONG = 30  # so many times its beginning, an axis is easier to read logarithmic
SIZE = (4.9, 3.2)  # inches


class Line(NamedTuple):
    """A line of a figure: its values at places of the horizontal axis, such as rounds.

    `band` holds the lowest and the highest value at each place, where several runs were averaged.
    """

    name: str
    colour: Any
    at: Sequence[float]
    values: Sequence[float]
    band: tuple[Sequence[float], Sequence[float]] | None = None
    style: str = "-"

    def beyond_zero(self) -> Line:
        """Leave out the places that a logarithmic axis does not have."""
        kept = [index for index, place in enumerate(self.at) if place > 0]
        at, values, low, high = (
            [row[index] for index in kept]
            for row in (self.at, self.values, *(self.band or 2 * (self.values,)))
        )
        return self._replace(at=at, values=values, band=(low, high) if self.band else None)


def new_figure(title: str, x: str = "") -> tuple[Figure, Axes]:
    """Make a figure with one set of axes; its title names what is drawn upwards."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    style_axes(axes, title, x)
    return figure, axes


def style_axes(axes: Axes, title: str, x: str = "") -> None:
    """Give axes the look of the report: a title, horizontal lines, no frame."""
    axes.set_title(title, loc="left", color=MUTED, pad=10, **TEXT)
    axes.set_xlabel(x, color=MUTED, **TEXT)
    axes.tick_params(which="both", colors=MUTED, labelsize=8.5, labelfontfamily=FONT, length=0)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#b8c1cb")


def line_figure(
    title: str,
    lines: Iterable[Line],
    write: Callable[[float], str],
    *,
    x: str = "round",
    write_x: Callable[[float], str] | None = None,
    log: bool = False,
) -> Figure | None:
    """Draw lines, with name and last value at their ends in place of a legend.

    The vertical axis is logarithmic (`log`), with its ticks written by `write`, or of percentages;
    the horizontal one counts rounds or the like, or is a quantity that `write_x` writes.
    """
    lines = [line for line in lines if any(value > 0 or not log for value in line.values)]
    if not lines:
        return None
    figure, axes = new_figure(title, x)
    if write_x and is_long(place for line in lines for place in line.at):
        lines = [line.beyond_zero() for line in lines]
    for line in lines:
        # Few points get markers, so that one alone is seen.
        marker = "o" if len(line.at) <= MOST_MARKERS else None
        look: dict[str, Any] = {"marker": marker, "lw": 1.8, "ms": 4, "ls": line.style}
        axes.plot(line.at, line.values, color=line.colour, **look)
        if line.band:
            axes.fill_between(line.at, *line.band, color=line.colour, alpha=0.18, linewidth=0)
    if write_x:
        quantity_axis(axes, write_x)
    else:
        whole_numbers(axes)
    if log:
        log_axis(axes, write)
    else:
        percent_axis(axes)
    _name_ends(axes, lines, write)
    return figure


def _name_ends(axes: Axes, lines: Sequence[Line], write: Callable[[float], str]) -> None:
    """Write name and last value of lines to the right of the axes, with a gap between them."""
    to_fraction = axes.transData + axes.transAxes.inverted()
    labelled = lines[:: -math.ceil(len(lines) / MOST_LABELS)][::-1]  # the last one always
    ends = [(line.at[-1], line.values[-1]) for line in labelled]
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
                "linestyle": ":",  # or it would look like data
                "color": line.colour,
                "relpos": (0, 0.5),  # from the middle of the text's left side
                "shrinkB": 3,
            },
            **TEXT,
        )


def box_figure(
    title: str, names: Sequence[str], groups: Sequence[Sequence[float]], colours: Sequence[str]
) -> Figure:
    """Draw groups of percentages: a dot for each, over a box of median and quartiles."""
    figure, axes = new_figure(title)
    boxes = axes.boxplot(
        groups,
        positions=range(len(groups)),
        widths=0.62,
        showfliers=False,
        showcaps=False,
        patch_artist=True,
        boxprops={"edgecolor": "none"},
        medianprops={"color": INK, "linewidth": 1.6},
        whiskerprops={"color": INK, "linewidth": 0.9},
    )
    for at, (values, box, colour) in enumerate(zip(groups, boxes["boxes"], colours, strict=True)):
        box.set_facecolor((colour, 0.16))
        # The golden ratio spreads neighbours in value widely, and the same way each time.
        across = at + 0.46 * (np.arange(len(values)) * 0.618034 % 1 - 0.5)
        size = min(26, max(3, 2500 / max(1, len(values))))
        axes.scatter(across, sorted(values), size, color=colour, alpha=0.75, linewidths=0, zorder=3)
    counted = [f"{name} ({len(g):,})" for name, g in zip(names, groups, strict=True)]
    name_axis(axes, counted)
    percent_axis(axes)
    medians = [
        f"{name}: median {np.median(values):.1f}, from {min(values):.1f} to {max(values):.1f}"
        for name, values in zip(counted, groups, strict=True)
        if values
    ]
    figure.set_label(f"{title}: {'; '.join(medians)}")
    return figure


def describe(figure: Figure) -> str:
    """Say what a figure shows, for those who do not see it: its label, or else all its texts."""
    if figure.get_label():
        return str(figure.get_label())
    titles = ", ".join(filter(None, (axes.get_title("left") for axes in figure.axes)))
    labels = [text.get_text() for axes in figure.axes for text in axes.texts]
    legends = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return f"{titles}: {'; '.join([*labels, *legends])}"


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
    _log_ticks(axes.yaxis, low, high, write)


def quantity_axis(axes: Axes, write: Callable[[float], str]) -> None:
    """Let the horizontal axis be of a quantity from zero, or logarithmic if it is long."""
    low, high = axes.dataLim.minposx, axes.dataLim.x1
    if is_long((low, high)):
        axes.set_xscale("log")
        _log_ticks(axes.xaxis, low, high, write)
    else:
        axes.set_xlim(left=-0.03 * high)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: write(value)))


def is_long(places: Iterable[float]) -> bool:
    """Say whether places reach so far that only a logarithmic axis shows the first of them."""
    positive = [place for place in places if place > 0]
    return bool(positive) and max(positive) > LONG * min(positive)


def _log_ticks(axis: Axis, low: float, high: float, write: Callable[[float], str]) -> None:
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: write(value)))
    axis.set_minor_locator(NullLocator())


def whole_numbers(axes: Axes) -> None:
    """Let the ticks of the horizontal axis be whole numbers, such as rounds."""
    ticks = MaxNLocator(8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
    axes.xaxis.set_major_locator(ticks)


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


def shorten(name: str, most: int = 16) -> str:
    """Cut a name of more than `most` characters, so that it leaves room for the data."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def tier_colours(tiers: Sequence[Any]) -> list[str]:
    """Return a colour per tier, or run, the same in every figure."""
    return [TIER_COLOURS[index % len(TIER_COLOURS)] for index in range(len(tiers))]


def depth_colours(count: int) -> list[Any]:
    """Sample one map from shallow (light) to deep (dark), without its palest part."""
    return list(matplotlib.colormaps["viridis_r"](np.linspace(0.22, 0.92, count)))
