"""The page of a report: key figures, tables, settings, and what it needs."""

import json
import re
from pathlib import Path

import pytest
from written_runs import (
    CLIENTS,
    COST,
    HELD,
    METRICS,
    PERSONAL,
    TIERS,
    Page,
    axes_of,
    central_row,
    evaluate_row,
    round_row,
    table_rows,
    train_row,
    write_files,
)

from server_app import client_figures
from server_app.history import Row
from server_app.page import readable_bytes
from server_app.report import write_report
from settings import Settings


def page_of(
    output: Path, metrics: list[Row], clients: list[Row], settings: Settings | None = None
) -> str:
    """Write the files of a run and its report; return the page."""
    write_report(write_files(output, metrics, clients, settings))
    return (output / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run's folder and page."""
    output = tmp_path_factory.mktemp("run")
    return output, page_of(output, METRICS, CLIENTS, Settings(rounds=2, method="exits"))


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
    assert len(page.addresses) == page.tags.count("img") == 9
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert "url(" not in html
    assert "@import" not in html
    assert html.count('alt="Figure of ') == 9
    assert len(html) < 2_000_000
    for ending, start in ((".png", b"\x89PNG"), (".pdf", b"%PDF")):
        pictures = list((output / "figures").glob(f"*{ending}"))
        assert len(pictures) == 9
        assert all(file.read_bytes().startswith(start) for file in pictures)


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
    html = page_of(tmp_path, [], [*CLIENTS, trained, evaluated, refused])
    assert "<b>x</b>" not in html
    assert "<td>&lt;b&gt;x&lt;/b&gt;</td>" in html
    assert "<td>$\\frac$&lt;i&gt;</td>" in html
    assert "Refused replies (1)" in html
    assert not {"script", "i"} & set(Page(html).tags)


def test_long_lists_of_refused_replies_are_cut(tmp_path: Path) -> None:
    refused = [train_row(1, f"c{i}", "small") | {"refused": "too late"} for i in range(130)]
    html = page_of(tmp_path, [], refused)
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
        pytest.param(METRICS, TRAINED, 7, id="no evaluation by clients"),
        pytest.param(NO_CENTRAL, CLIENTS, 7, id="no central accuracy"),
        pytest.param(NO_CENTRAL, TRAINED, 4, id="no accuracy at all"),
        pytest.param(METRICS[:2], CLIENTS[:2], 7, id="one round"),
        pytest.param([central_row(0, [6]), round_row(1, True, [6])], CLIENTS, 9, id="one exit"),
        pytest.param(METRICS[2:], CLIENTS[2:], 9, id="resumed without the earlier rows"),
        pytest.param(NO_CENTRAL[1:], CLIENTS, 7, id="rows of clients alone for a round"),
        pytest.param(UNTRAINED, TIMED_OUT, 2, id="nobody replied"),
        pytest.param([], [], 0, id="no rows"),
        pytest.param(METRICS, CROWD, 9, id="thousands of clients"),
    ],
)
def test_sparse_and_crowded_runs(
    tmp_path: Path, metrics: list[Row], clients: list[Row], drawn: int
) -> None:
    html = page_of(tmp_path, metrics, clients)
    assert html.count("<figure>") == drawn
    assert len(list((tmp_path / "figures").glob("*.png"))) == drawn
    assert len(list((tmp_path / "figures").iterdir())) == 2 * drawn
    assert len(re.findall("<div><span>", html)) == 6
    assert not re.search(r">\s*(nan|None|inf)\b", html)
    if metrics is NO_CENTRAL:
        assert "<b>\N{EN DASH}</b><small>no central test set</small>" in html
    if clients is CROWD:
        assert not axes_of(client_figures.training_examples(clients, TIERS)).get_xticklabels()


def test_figures_of_an_earlier_run_in_the_folder_go(tmp_path: Path) -> None:
    page_of(tmp_path, METRICS[:1], [])
    page_of(tmp_path, [], [])
    assert not list((tmp_path / "figures").iterdir())


def test_personalisation_and_privacy_are_shown_where_they_are(tmp_path: Path) -> None:
    personal = {
        "epochs": 2,
        "before": {"mean": 0.4, "worst-decile": 0.2, "small": 0.2, "large": 0.5},
        "after": {"mean": 0.5, "worst-decile": 0.3, "small": 0.3, "large": 0.6},
    }
    personal["by-epoch"] = {"1": personal["before"], "2": personal["after"]}
    privacy = {"epsilon": 3.2149, "delta": 1e-5, "noise-multiplier": 1.1}
    run = write_files(
        tmp_path, [], [*CLIENTS, *PERSONAL], personalisation=personal, privacy=privacy
    )
    write_report(run)
    html = (run / "report.html").read_text(encoding="utf-8")
    cards = re.findall(r"<div><span>(.*?)</span><b>(.*?)</b><small>(.*?)</small>", html)
    assert cards[4:6] == [
        ("Personalised", "50.0 %", "clients' mean after 2 own epochs; 40.0 % before"),
        ("Privacy", "\u03b5 = 3.21", "at \u03b4 = 1e-05, noise multiplier 1.1"),
    ]
    rows = table_rows(html)
    column = rows[0].index("Personalised")
    assert [row[column] for row in rows[1:3]] == ["30.0 %", "60.0 %"]
    for name in ("personalisation", "personalisation-epochs"):
        assert (run / "figures" / f"{name}.png").is_file()


def test_cost_and_partition_are_drawn_where_they_are_known(tmp_path: Path) -> None:
    html = page_of(tmp_path, METRICS[:1], CLIENTS[:1])
    names = {file.stem for file in (tmp_path / "figures").iterdir()}
    assert "training-examples" in names
    assert not {"anytime", "partition"} & names
    assert "Anytime inference" not in html
    (tmp_path / "anytime.json").write_text(json.dumps(COST))
    (tmp_path / "partition.json").write_text(json.dumps(HELD))
    html = page_of(tmp_path, METRICS[:1], CLIENTS[:1])
    names = {file.stem for file in (tmp_path / "figures").iterdir()}
    assert {"anytime", "partition"} <= names
    assert "training-examples" not in names
    assert any("3.0 % after 15 M FLOPs" in alt for alt in Page(html).alts)
