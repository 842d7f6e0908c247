"""The report of a run: figures against the rows they draw, and the page that holds them."""

import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.testing import assert_allclose

from server_app import figures, plotting
from server_app.history import Row, summarise
from server_app.report import readable_bytes, write_report
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


def write_run(
    output: Path, metrics: list[Row], clients: list[Row], settings: Settings | None = None
) -> str:
    """Write the files of a run and its report; return the page."""
    settings = settings or Settings(rounds=2)
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
        full_model_parameters=10_000,
        bytes_per_number=4,
    )
    (output / "summary.json").write_text(json.dumps(summary))
    write_report(output)
    return (output / "report.html").read_text(encoding="utf-8")


class Page(HTMLParser):
    """The text of a page by the tag around it, and the addresses it refers to."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]


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


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run's folder and page."""
    output = tmp_path_factory.mktemp("run")
    settings = Settings(rounds=2, method="exits")
    return output, write_run(output, METRICS, CLIENTS, settings)


def test_central_accuracy_has_a_line_per_exit_from_the_start_on() -> None:
    (x3, y3), (x6, y6) = lines_of(figures.central_accuracy(METRICS))
    assert x3 == x6 == [0, 1, 2]
    assert_allclose(y3, [3, 4, 5])
    assert_allclose(y6, [6, 7, 8])


def test_line_ends_are_labelled_and_do_not_touch() -> None:
    rows = [{"round": r, **{f"accuracy-exit-{b}": 0.9 for b in range(12)}} for r in (0, 1)]
    texts = axes_of(figures.central_accuracy(rows)).texts
    assert {text.get_text() for text in texts} == {f"exit {b}: 90.0" for b in range(12)}
    heights = sorted(text.xyann[1] for text in texts)
    assert min(np.diff(heights)) > 0.07


def test_a_single_round_has_a_whole_number_below_it() -> None:
    axes = axes_of(figures.training_loss(METRICS[1:2]))
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]


def test_many_exits_are_labelled_in_part_with_the_last() -> None:
    rows = [{"round": 0, **{f"accuracy-exit-{b}": b / 100 for b in range(1, 33)}}]
    labels = [text.get_text() for text in axes_of(figures.central_accuracy(rows)).texts]
    assert len(labels) <= plotting.MOST_LABELS
    assert "exit 32: 32.0" in labels


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([0.1, 0.5], [0.1, 0.5]),
        ([0.5, 0.5, 0.5], [0.4, 0.5, 0.6]),
        ([0.0, 0.02, 0.9], [0.0, 0.1, 0.9]),
        ([0.2, 0.98, 1.0], [0.2, 0.9, 1.0]),
    ],
)
def test_spread(places: list[float], expected: list[float]) -> None:
    assert_allclose(plotting.spread(places, 0.1), expected)


def test_training_loss_leaves_out_what_is_not_finite() -> None:
    rows = [*METRICS[1:], round_row(4) | {"train-loss": float("nan")}]
    (x, y), (x3, y3), _ = lines_of(figures.training_loss(rows))
    assert (x, y) == ([1, 2], [4, 2])
    assert (x3, y3) == ([1, 2, 4], [3, 1.5, 0.75])


def test_accuracy_by_exit_draws_the_last_scores() -> None:
    rows = [*METRICS, {"round": 3, "client-accuracy-exit-3": 0.5}]
    axes = axes_of(figures.accuracy_by_exit(rows))
    assert_allclose([bar.get_height() for bar in axes.patches], [5, 8])
    circles = np.ma.filled(axes.collections[0].get_offsets(), np.nan)
    assert_allclose(circles, [[0, 50], [np.nan, np.nan]])


def test_client_accuracy_has_a_dot_per_client_of_the_last_evaluation() -> None:
    dots = axes_of(figures.client_accuracy(CLIENTS, TIERS)).collections
    assert_allclose(np.asarray(dots[0].get_offsets())[:, 1], [20])
    assert_allclose(np.asarray(dots[1].get_offsets())[:, 1], [40, 60])


def test_tier_accuracy_is_the_mean_of_its_clients() -> None:
    small, large = lines_of(figures.tier_accuracy(CLIENTS, TIERS))
    assert_allclose(small, ([1, 2], [10, 20]))
    assert_allclose(large, ([2], [50]))


def test_training_examples_stand_by_tier_largest_first() -> None:
    axes = axes_of(figures.training_examples(CLIENTS, TIERS))
    assert bars_of(axes) == [[(0, 30)], [(0, 40), (0, 20)]]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["a", "c", "b"]


def test_a_tier_has_one_colour_in_all_figures() -> None:
    line = axes_of(figures.tier_accuracy(CLIENTS, TIERS)).lines[1].get_color()
    bars = axes_of(figures.training_examples(CLIENTS, TIERS)).collections[1]
    dots = axes_of(figures.client_accuracy(CLIENTS, TIERS)).collections[1]
    expected = (0xE6 / 255, 0x9F / 255, 0)
    assert line == "#e69f00"
    assert_allclose(bars.get_facecolor()[0][:3], expected)
    assert_allclose(dots.get_facecolor()[0][:3], expected)


def test_bytes_per_round_stand_beside_the_full_model() -> None:
    # 4 messages at 200 bytes both ways: 2 in each round, so 200 bytes each way.
    lines = lines_of(figures.bytes_per_round(METRICS, CLIENTS, 4 * 200))
    full, evaluation, down, up = lines
    assert full == ([1, 2], [200, 200])
    assert evaluation == ([1, 2], [500, 500])
    assert down == ([1, 2], [2000, 2000])
    assert up == ([1, 2], [1000, 1000])


def test_bytes_survive_a_last_round_without_replies() -> None:
    rows = [round_row(1), round_row(2) | {"bytes-up": 0}]
    axes = axes_of(figures.bytes_per_round(rows, CLIENTS, 800))
    assert 0 < axes.get_ylim()[0] < 200


def test_seconds_are_stacked_by_phase() -> None:
    axes = axes_of(figures.seconds_per_phase(METRICS))
    assert bars_of(axes) == [[(0, 2), (0, 2)], [(2, 2.5), (2, 2.5)]]
    assert axes.get_ylim()[0] == 0


def test_readable_bytes() -> None:
    counts = [0, 999, 999.7, 1000, 137_092, 1.37e9, 4e12]
    written = ["0 B", "999 B", "1 kB", "1 kB", "137 kB", "1.37 GB", "4 TB"]
    assert [readable_bytes(count) for count in counts] == written


def test_the_page_holds_the_key_figures(run: tuple[Path, str]) -> None:
    _, html = run
    cards = re.findall(r"<div><span>(.*?)</span><b>(.*?)</b><small>(.*?)</small>", html)
    assert cards == [
        ("Last exit", "8.0 %", "central, block 6"),
        ("Mean of exits", "6.5 %", "central"),
        ("Clients' mean", "40.0 %", "at the last exit each runs"),
        ("Worst decile", "20.0 %", "mean of the worst tenth"),
        # 4 messages of 1000 down and 500 up, where the model takes 80,000 both ways.
        ("Up and down", "6 kB", "to train, 53 times less than the full model"),
        ("Time", "5 s", "2.5 s per round"),
    ]
    assert (
        "<td>large</td><td>2</td><td>100</td><td>50.0 %</td><td>0.25 s</td><td>500 B</td>" in html
    )


def test_the_page_needs_nothing_else(run: tuple[Path, str]) -> None:
    output, html = run
    page = Page(html)
    assert len(page.addresses) == page.tags.count("img") == 8
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert "url(" not in html
    assert "@import" not in html
    assert html.count('alt="Figure of ') == 8
    assert len(html) < 2_000_000
    pictures = list((output / "figures").glob("*.png"))
    assert len(pictures) == 8
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in pictures)


def test_settings_that_differ_are_marked(run: tuple[Path, str]) -> None:
    _, html = run
    marked = re.findall(r'<div class="changed"><dt>(.*?)</dt><dd>(.*?)<small>(.*?)</small>', html)
    assert marked == [
        ("method", "&quot;exits&quot;", "default &quot;accumulator&quot;"),
        ("rounds", "2", "default 30"),
    ]
    count = len(Settings().to_dict())
    assert f"2 of {count} differ" in html
    assert html.count("<dt>") == count


def test_text_from_the_data_is_escaped_and_never_math(tmp_path: Path) -> None:
    trained = train_row(2, "<b>x</b>", "$\\frac$<i>")
    evaluated = evaluate_row(2, "$", "small", 0.5) | {"tier": "$\\frac$<i>"}
    refused = train_row(2, "<b>x</b>", "small") | {"refused": "it raised <script>'$x'</script>"}
    html = write_run(tmp_path, METRICS, [*CLIENTS, trained, evaluated, refused])
    assert "<b>x</b>" not in html
    assert "<td>&lt;b&gt;x&lt;/b&gt;</td>" in html
    assert "<td>$\\frac$&lt;i&gt;</td>" in html
    assert "Refused replies (1)" in html
    assert not {"script", "i"} & set(Page(html).tags)


def test_long_lists_of_refused_replies_are_cut(tmp_path: Path) -> None:
    refused = [train_row(1, f"c{i}", "small") | {"refused": "too late"} for i in range(130)]
    html = write_run(tmp_path, METRICS, [*CLIENTS, *refused])
    assert html.count("<td>too late</td>") == 100
    assert "30 more stand in clients.jsonl" in html


NO_CENTRAL = [round_row(1, central=False), round_row(2, central=False)]
TRAINED = [row for row in CLIENTS if row["phase"] == "train"]
UNTRAINED = [
    {"round": 1, "bytes-down": 2000, "bytes-up": 0, "seconds": {"train": 9.0}},
]
TIMED_OUT = [
    {**train_row(1, "a", "small"), "bytes-up": 0, "refused": "it did not come in time"},
]
del TIMED_OUT[0]["num-examples"], TIMED_OUT[0]["seconds"]
CROWD = [
    make(1, f"client-{i}", TIERS[i % 2], value)
    for make, value in ((train_row, 7), (evaluate_row, 0.5))
    for i in range(3000)
]


@pytest.mark.parametrize(
    ("metrics", "clients", "drawn"),
    [
        pytest.param(METRICS, TRAINED, 6, id="no evaluation by clients"),
        pytest.param(NO_CENTRAL, CLIENTS, 6, id="no central accuracy"),
        pytest.param(NO_CENTRAL, TRAINED, 4, id="no accuracy at all"),
        pytest.param(METRICS[:2], CLIENTS[:2], 6, id="one round"),
        pytest.param([central_row(0, [6]), round_row(1, True, [6])], CLIENTS, 8, id="one exit"),
        pytest.param(METRICS[2:], CLIENTS[2:], 8, id="resumed without the earlier rows"),
        pytest.param(UNTRAINED, TIMED_OUT, 2, id="nobody replied"),
        pytest.param([], [], 0, id="no rows"),
        pytest.param(METRICS, CROWD, 8, id="thousands of clients"),
    ],
)
def test_sparse_and_crowded_runs(
    tmp_path: Path, metrics: list[Row], clients: list[Row], drawn: int
) -> None:
    html = write_run(tmp_path, metrics, clients)
    assert html.count("<figure>") == drawn
    assert len(list((tmp_path / "figures").iterdir())) == drawn
    assert len(re.findall("<div><span>", html)) == 6
    assert not re.search(r">\s*(nan|None|inf)\b", html)
    if metrics is NO_CENTRAL:
        assert "<b>\N{EN DASH}</b><small>no central test set</small>" in html
    if clients is CROWD:
        assert not axes_of(figures.training_examples(clients, TIERS)).get_xticklabels()


def test_figures_of_an_earlier_run_in_the_folder_go(tmp_path: Path) -> None:
    write_run(tmp_path, METRICS[:1], [])
    write_run(tmp_path, [], [])
    assert not list((tmp_path / "figures").iterdir())
