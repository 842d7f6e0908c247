"""The comparison of runs: what is one line, how it is named, and what stands on the page."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from numpy.testing import assert_allclose
from support import ROOT
from written_runs import CLIENTS, METRICS, Page, axes_of, lines_of, table_rows, write_files

from server_app import compare_figures as draw
from server_app.compare import compare, main
from server_app.history import Row
from server_app.runs import Group, group_runs, read_run
from settings import Settings


def better(rows: list[Row], points: float, times: float = 1) -> list[Row]:
    """The rows with every accuracy raised, and other bytes."""
    changed = []
    for row in rows:
        raised = {k: v + points / 100 for k, v in row.items() if k.startswith("accuracy")}
        sent = {k: int(v * times) for k, v in row.items() if k.startswith("bytes")}
        changed.append({**row, **raised, **sent})
    return changed


def write(folder: Path, points: float = 0, times: float = 1, **values: Any) -> Path:
    """Write a run that is so many points better, and sends so many times the bytes."""
    settings = Settings(**{"rounds": 2, "output_dir": str(folder), **values})
    return write_files(
        folder, better(METRICS, points, times), better(CLIENTS, points, times), settings
    )


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Two seeds of one method, 2 points apart, and a run of another, 10 points better."""
    return [
        write(tmp_path / "a", seed=0),
        write(tmp_path / "b", 2, seed=1),
        write(tmp_path / "c", 10, 100, method="exits", seed=0),
    ]


def groups_of(folders: list[Path]) -> list[Group]:
    return group_runs([read_run(folder) for folder in folders])


def test_runs_that_differ_in_seed_and_folder_are_one(folders: list[Path]) -> None:
    groups = groups_of(folders)
    assert [(group.label, len(group.runs)) for group in groups] == [
        ("accumulator", 2),
        ("exits", 1),
    ]


def test_labels_say_what_differs_or_else_the_folder(tmp_path: Path) -> None:
    runs = [write(tmp_path / name, alpha=alpha) for name, alpha in (("a", 0.1), ("b", 1.0))]
    assert [group.label for group in groups_of(runs)] == ["alpha 0.1", "alpha 1.0"]
    runs.append(write(tmp_path / "c", method="exits", num_clients=30, learning_rate=0.1))
    assert [group.label for group in groups_of(runs)] == ["a", "b", "c"]
    (tmp_path / "other").mkdir()
    runs[2] = write(tmp_path / "other" / "a", method="exits", num_clients=30, learning_rate=0.1)
    assert [group.label for group in groups_of(runs)] == [str(folder) for folder in runs]


def band_of(figure: Figure | None) -> list[tuple[float, float]]:
    """Lowest and highest value of the band at each place."""
    (path,) = axes_of(figure).collections[0].get_paths()
    places = sorted({x for x, _ in path.vertices})
    heights = [[y for x, y in path.vertices if x == place] for place in places]
    return [(min(values), max(values)) for values in heights]


def test_repeated_runs_are_their_mean_in_a_band(folders: list[Path]) -> None:
    groups = groups_of(folders)
    figure = draw.accuracy_over_rounds(groups, draw.last_exit, "last exit")
    first, second = lines_of(figure)
    assert first[0] == [0, 1, 2]
    assert_allclose(first[1], [7, 8, 9])  # of 6, 7, 8 and the same two points higher
    assert_allclose(second[1], [16, 17, 18])
    assert_allclose(band_of(figure), [(6, 8), (7, 9), (8, 10)])
    assert len(axes_of(figure).collections) == 1  # one run has no band
    labels = [text.get_text() for text in axes_of(figure).texts]
    assert sorted(labels) == ["accumulator: 9.0", "exits: 18.0"]


def test_rounds_that_only_some_repetitions_have_are_left_out(folders: list[Path]) -> None:
    rows = (folders[1] / "metrics.jsonl").read_text().splitlines()
    (folders[1] / "metrics.jsonl").write_text("\n".join(rows[:2]))
    figure = draw.accuracy_over_rounds(groups_of(folders), draw.mean_of_exits, "mean")
    (x, y), _ = lines_of(figure)
    assert x == [0, 1]
    assert_allclose(y, [5.5, 6.5])


def test_accuracy_over_bytes_is_logarithmic_for_unequal_runs(folders: list[Path]) -> None:
    figure = draw.accuracy_over_bytes(groups_of(folders), draw.mean_of_exits, "mean")
    (x, y), (other, _) = lines_of(figure)
    assert axes_of(figure).get_xscale() == "log"
    assert (x, other) == ([3000, 6000], [300_000, 600_000])
    assert_allclose(y, [6.5, 7.5])
    assert_allclose(band_of(figure), [(5.5, 7.5), (6.5, 8.5)])
    figure = draw.accuracy_over_bytes(groups_of(folders[:2]), draw.mean_of_exits, "mean")
    assert axes_of(figure).get_xscale() == "linear"


def test_final_accuracies_stand_at_their_exits(folders: list[Path]) -> None:
    figure = draw.accuracy_by_exit(groups_of(folders))
    first, second = lines_of(figure)
    assert first[0] == second[0] == list(axes_of(figure).get_xticks()) == [3, 6]
    assert_allclose(first[1], [6, 9])
    assert_allclose(second[1], [15, 18])


def test_clients_of_all_repetitions_are_dots(folders: list[Path]) -> None:
    dots = axes_of(draw.client_accuracy(groups_of(folders))).collections
    found = [sorted(y for _, y in group.get_offsets()) for group in dots]
    assert_allclose(found[0], [20, 22, 40, 42, 60, 62])
    assert_allclose(found[1], [30, 50, 70])


def test_cost_has_a_bar_per_group(folders: list[Path]) -> None:
    figure = draw.cost(groups_of(folders))
    figure.draw_without_rendering()
    sent, seconds = ([bar.get_width() for bar in axes.patches] for axes in figure.axes)
    assert_allclose(sent, [6000, 600_000])
    assert_allclose(seconds, [5, 5])
    assert [text.get_text() for text in figure.axes[0].texts] == ["6 kB", "600 kB"]


def test_the_page_marks_the_best_and_lists_what_differs(
    folders: list[Path], tmp_path: Path
) -> None:
    file = compare(folders, tmp_path / "out")
    html = file.read_text(encoding="utf-8")
    rows = table_rows(html)
    assert rows[0][:4] == ["Run", "n", "Last exit", "Mean of exits"]
    assert rows[1] == [
        "accumulator",
        "2",
        "9.0 %|8.0 to 10.0 %",
        "7.5 %|6.5 to 8.5 %",
        "41.0 %|40.0 to 42.0 %",
        "21.0 %|20.0 to 22.0 %",
        "*6 kB|6 to 6 kB",
        "*5 s|5 to 5 s",
    ]
    assert rows[2] == ["exits", "1", "*18.0 %", "*16.5 %", "*50.0 %", "*30.0 %", "600 kB", "*5 s"]
    assert rows[3] == ["Setting", "accumulator", "exits"]
    assert rows[4:6] == [["method", "accumulator", "exits"], ["seed", "0, 1", "0"]]
    assert rows[6] == ["folder", f"{folders[0]}, {folders[1]}", str(folders[2])]
    assert len(rows) == 7
    page = Page(html)
    assert len(page.addresses) == page.tags.count("img") == 9
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert len(list((tmp_path / "out" / "comparison").glob("*.png"))) == 9


def test_runs_without_central_accuracy_compare_their_clients(tmp_path: Path) -> None:
    rows = [{k: v for k, v in r.items() if not k.startswith("accuracy")} for r in METRICS[1:]]
    runs = [
        write_files(tmp_path / method, rows, CLIENTS, Settings(rounds=2, method=method))
        for method in ("exits", "accumulator")
    ]
    compare(runs, tmp_path)
    names = {file.stem for file in (tmp_path / "comparison").glob("*.png")}
    assert names == {"clients-over-rounds", "clients-over-bytes", "client-accuracy", "cost"}
    assert table_rows((tmp_path / "comparison.html").read_text())[0][2] == "Clients' mean"


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("one", "a comparison takes two runs or more, and 1 was given"),
        ("none", "a comparison takes two runs or more, and 0 were given"),
        ("same", "a comparison takes two runs or more, and 1 was given"),
        ("missing", "there is no folder"),
        ("unfinished", "has no summary.json"),
        ("unset", "there is no settings file"),
        ("foreign", "holds no record that fedgraft wrote"),
        ("broken", "holds no record that fedgraft wrote"),
    ],
)
def test_mistakes_end_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str, sentence: str
) -> None:
    first, second = write(tmp_path / "a"), write(tmp_path / "b", method="exits")
    given = [first, second]
    if damage in ("one", "none"):
        given = given[: damage == "one"]
    elif damage == "same":
        given = [first, tmp_path / "b" / ".." / "a"]
    elif damage == "missing":
        shutil.rmtree(second)
    elif damage == "unfinished":
        (second / "summary.json").unlink()
    elif damage == "unset":
        (second / "settings.toml").unlink()
    else:
        text = json.dumps({"accuracy": 3}) if damage == "foreign" else "{"
        (second / "summary.json").write_text(text)
    assert main([*map(str, given), "--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert sentence in error
    assert not (tmp_path / "comparison.html").exists()


def test_the_command_writes_the_page(tmp_path: Path) -> None:
    runs = [write_files(tmp_path / str(seed), [], [], Settings(seed=seed)) for seed in (0, 1)]
    done = subprocess.run(
        [sys.executable, "-m", "server_app.compare", *map(str, runs), "--output", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"Comparison: {tmp_path / 'comparison.html'}\n"
    assert (tmp_path / "comparison.html").is_file()
