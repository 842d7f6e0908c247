"""comparison.html: several runs in the same figures and tables.

``python -m server_app.compare RUN RUN ... [--output FOLDER]``; a RUN is the output folder of a
finished run. Runs that differ in nothing but their seed are drawn as one, with their spread.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from server_app.page import (
    NONE,
    Cell,
    figure_section,
    percent,
    readable_bytes,
    table,
    write_page,
)
from server_app.runs import REPEATED, Group, Run, differing, group_runs, read_run, written
from settings import SettingsError

# The columns of the table of results: name, how a value is written, and whether more is better.
RESULTS: dict[str, tuple[str, Callable[[float], str], bool]] = {
    "last-exit": ("Last exit", percent, True),
    "mean-of-exits": ("Mean of exits", percent, True),
    "clients-mean": ("Clients' mean", percent, True),
    "worst-decile": ("Worst decile", percent, True),
    "personalised": ("Personalised", percent, True),
    "epsilon": ("\N{GREEK SMALL LETTER EPSILON}", "{:.3g}".format, False),
    "bytes": ("Up and down", readable_bytes, False),
    "seconds": ("Time", "{:,.0f} s".format, False),
}
CAPTIONS = {
    "mean-over-rounds": "<b>Central accuracy</b>, mean of the exits, over the rounds.",
    "last-over-rounds": "<b>Central accuracy of the last exit</b> of each run, over the rounds.",
    "clients-over-rounds": "<b>Clients' accuracy</b> over the rounds, each client on its own test "
    "part at the last exit it runs; all count alike.",
    "mean-over-bytes": "<b>Central accuracy against bytes:</b> mean of the exits.",
    "last-over-bytes": "<b>Central accuracy against bytes:</b> the last exit of each run.",
    "clients-over-bytes": "<b>Clients' accuracy against bytes</b> of all training messages.",
    "accuracy-by-exit": "<b>Final central accuracy</b> by exit.",
    "client-accuracy": "<b>Final accuracy of the clients</b> on their own test parts, at the last "
    "exit each runs: a dot is a client of a run, a box spans the quartiles around the median.",
    "cost": "<b>Cost:</b> bytes of all training messages, and wall time on the server's clock.",
}


def compare(folders: Sequence[Path], output: Path) -> Path:
    """Write comparison.html, and its figures to comparison/, from the folders of finished runs.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    SettingsError
        For fewer than two folders, or one that holds no finished run.
    """
    unique = list({folder.resolve(): folder for folder in folders}.values())
    if len(unique) < 2:
        raise SettingsError(
            f"a comparison takes two runs or more, and {len(unique)} "
            f"{'was' if len(unique) == 1 else 'were'} given; list their output folders."
        )
    runs = [read_run(folder) for folder in unique]
    groups = group_runs(runs)
    page = output / "comparison.html"
    try:
        output.mkdir(parents=True, exist_ok=True)
        figures = _figures(groups, output / "comparison")
    except OSError as error:
        raise SettingsError(
            f"--output: {output} cannot be written ({error.strerror}); give another folder."
        ) from None
    write_page(
        page,
        title=f"Comparison of {len(runs)} runs",
        about=" · ".join(_counted(group) for group in groups),
        parts=[
            "<h2>Results</h2>",
            "<p>Accuracies after the last round, bytes of all training messages, wall time. Of "
            "runs that differ in their seed alone: the mean, and the lowest and highest value. "
            "The best of a column is bold.</p>",
            _results(groups),
            figures,
            "<h2>Settings that differ</h2>",
            _settings(groups, runs),
        ],
        footer="Drawn by fedgraft from settings.toml, metrics.jsonl, clients.jsonl and "
        "summary.json of each run; the figures lie beside this file in comparison/.",
    )
    return page


def _figures(groups: Sequence[Group], folder: Path) -> str:
    """Draw what the runs have, save the figures, and write them as HTML."""
    from server_app import compare_figures as draw  # here: matplotlib takes long to import

    series = {
        "mean": (draw.mean_of_exits, "central accuracy, mean of the exits, %"),
        "last": (draw.last_exit, "central accuracy of the last exit, %"),
        "clients": (draw.clients_mean, "mean accuracy of the clients, %"),
    }
    drawn = {}
    for name, line in series.items():
        drawn[f"{name}-over-rounds"] = draw.accuracy_over_rounds(groups, *line)
        drawn[f"{name}-over-bytes"] = draw.accuracy_over_bytes(groups, *line)
    drawn |= {
        "accuracy-by-exit": draw.accuracy_by_exit(groups),
        "client-accuracy": draw.client_accuracy(groups),
        "cost": draw.cost(groups),
    }
    folder.mkdir(exist_ok=True)
    band = " Bands reach from the lowest to the highest run of the same settings."
    banded = any(len(group.runs) > 1 for group in groups)
    captions = {
        name: text + (band if banded and name not in ("client-accuracy", "cost") else "")
        for name, text in CAPTIONS.items()
    }
    return figure_section(folder, drawn, captions)


def _results(groups: Sequence[Group]) -> str:
    """Write a row of final figures per group; columns that no run has are left out."""
    names = [name for name in RESULTS if any(group.score(name) for group in groups)]
    best = {}
    for name in names:
        _, write, more = RESULTS[name]
        means = [mean(values) for group in groups if (values := group.score(name))]
        best[name] = write(max(means) if more else min(means)) if len(means) > 1 else ""
    rows = []
    for group in groups:
        cells: list[Any] = [group.label, len(group.runs)]
        for name in names:
            write, values = RESULTS[name][1], group.score(name)
            middle = write(mean(values)) if values else NONE
            spread = _spread(write(min(values)), write(max(values))) if len(values) > 1 else ""
            # Compared as written: what the page shows as equal is equally good.
            cells.append(Cell(middle, spread, middle == best[name]))
        rows.append(cells)
    return table(["Run", "n", *(RESULTS[name][0] for name in names)], rows)


def _spread(low: str, high: str) -> str:
    """Write a range, with the unit once where both have the same."""
    number, _, unit = low.partition(" ")
    return f"{number if unit and high.endswith(f' {unit}') else low} to {high}"


def _settings(groups: Sequence[Group], runs: Sequence[Run]) -> str:
    """Write the settings that differ, a row each; seeds and folders, too, show what is what."""
    keys = [*differing(runs, REPEATED), *(["seed"] if "seed" in differing(runs) else [])]
    rows = [[key, *(_values(group, key) for group in groups)] for key in keys]
    folders = ["folder", *(", ".join(str(run.folder) for run in group.runs) for group in groups)]
    return table(["Setting", *(group.label for group in groups)], [*rows, folders], kind="text")


def _values(group: Group, key: str) -> str:
    """Write the values of a setting in a group; a run of an older version may lack it."""
    values = dict.fromkeys(run.settings.get(key, NONE) for run in group.runs)
    return ", ".join(map(written, values))


def _counted(group: Group) -> str:
    return f"{group.label} (n = {len(group.runs)})" if len(group.runs) > 1 else group.label


def main(arguments: Sequence[str]) -> int:
    """Compare; a user's mistake ends in one sentence and exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m server_app.compare",
        description="Draw several finished runs into one page, comparison.html.",
    )
    parser.add_argument(
        "runs", nargs="*", type=Path, metavar="RUN", help="the output folder of a finished run"
    )
    parser.add_argument(
        "--output", type=Path, default=Path(), metavar="FOLDER", help="where the page goes"
    )
    options = parser.parse_args(arguments)
    try:
        page = compare(options.runs, options.output)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"Comparison: {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
