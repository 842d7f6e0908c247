"""Personalisation: rows, summary, what is saved where, and what it leaves alone."""

from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message
from support import SMALL, Run, load_bank

from client_app.app import create_client_app
from client_app.node import LocalNode, simulated_nodes
from data import BatchTransform
from models import load_exported
from run_simulation import run_in_process
from server_app.app import run
from server_app.inprocess import InProcessGrid
from settings import Settings

# Adapters in every block; "odd" ends at the exit below its fifth.
VALUES = {
    **SMALL,
    "method": "exits",
    "adapter": "parallel",
    "adapter-rank": 4,
    "learning-rate": 0.01,
    "tiers": "small depth=2 clients=0,1; odd depth=5 trained=2 clients=2,3; large depth=6 "
    "clients=4,5",
}
# What each tier's model holds, and its last exit.
UNITS = {"small": range(1, 3), "odd": range(1, 5), "large": range(1, 7)}


def settings_of(tiny_vit: Path, output: Path, **values: Any) -> Settings:
    given = {key.replace("_", "-"): value for key, value in values.items()}
    base = {**VALUES, "backbone": str(tiny_vit), "output-dir": str(output)}
    return Settings.from_dict({**base, **given})


@pytest.fixture(scope="module")
def settings(tiny_vit: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("personalised")
    return settings_of(
        tiny_vit, folder / "run", personalise_epochs=2, personal_dir=str(folder / "own")
    )


@pytest.fixture(scope="module")
def whole(settings: Settings) -> Run:
    """A run of six clients, each of which personalises and saves."""
    run_in_process(settings)
    return Run(Path(settings.output_dir))


def personal_rows(found: Run) -> list[dict[str, Any]]:
    return [row for row in found.clients if row["phase"] == "personalise"]


def test_every_client_has_a_row_with_its_accuracy_before_and_after(whole: Run) -> None:
    rows = personal_rows(whole)
    assert [(row["client"], row["round"], row["refused"]) for row in rows] == [
        (str(number), 3, "") for number in range(6)
    ]
    last = {row["client"]: row for row in whole.clients if row["phase"] == "evaluate"}
    for row in rows:
        assert row["accuracy-before"] == last[row["client"]]["accuracy"]
    assert mean(r["accuracy"] for r in rows) > mean(r["accuracy-before"] for r in rows) + 0.05


def test_each_epoch_has_its_accuracy(whole: Run, tiny_vit: Path, tmp_path: Path) -> None:
    """After one epoch of two stands what a run with one epoch ends with."""
    run_in_process(settings_of(tiny_vit, tmp_path / "one", personalise_epochs=1))
    one = personal_rows(Run(tmp_path / "one"))
    for row, shorter in zip(personal_rows(whole), one, strict=True):
        assert row["accuracy-epoch-1"] == shorter["accuracy-epoch-1"] == shorter["accuracy"]
        assert row["accuracy-epoch-2"] == row["accuracy"]
        assert "accuracy-epoch-2" not in shorter
    assert any(row["accuracy-epoch-1"] != row["accuracy"] for row in personal_rows(whole))


def test_the_learning_rate_can_be_its_own(whole: Run, tiny_vit: Path, tmp_path: Path) -> None:
    """At a rate of next to nothing everybody stays what they were; the rounds keep theirs."""
    values = {"personalise_epochs": 1, "personalise_rate": 1e-12}
    run_in_process(settings_of(tiny_vit, tmp_path / "still", **values))
    still = Run(tmp_path / "still")
    for row, other in zip(personal_rows(still), personal_rows(whole), strict=True):
        assert row["accuracy"] == row["accuracy-before"] == other["accuracy-before"]


def test_the_adapters_stay_on_the_node(whole: Run) -> None:
    """The reply holds five numbers; the message holds the plan's units."""
    for row in personal_rows(whole):
        assert row["bytes-up"] < 300 < row["bytes-down"]


def test_the_summary_holds_the_means(whole: Run) -> None:
    rows, found = personal_rows(whole), whole.summary["personalisation"]
    assert found["epochs"] == 2
    for name, key in (("before", "accuracy-before"), ("after", "accuracy")):
        assert list(found[name]) == ["mean", "worst-decile", "small", "odd", "large"]
        assert found[name]["mean"] == pytest.approx(mean(row[key] for row in rows))
        assert found[name]["worst-decile"] == min(row[key] for row in rows)
        odd = mean(row[key] for row in rows if row["tier"] == "odd")
        assert found[name]["odd"] == pytest.approx(odd)
    assert list(found["by-epoch"]) == ["1", "2"]
    first = [row["accuracy-epoch-1"] for row in rows]
    assert found["by-epoch"]["1"]["mean"] == pytest.approx(mean(first))
    assert found["by-epoch"]["1"]["worst-decile"] == min(first)
    small = [value for row, value in zip(rows, first, strict=True) if row["tier"] == "small"]
    assert found["by-epoch"]["1"]["small"] == pytest.approx(mean(small))
    assert found["by-epoch"]["2"] == found["after"]


def test_the_bank_is_that_of_a_run_without_it(whole: Run, tiny_vit: Path, tmp_path: Path) -> None:
    run_in_process(settings_of(tiny_vit, tmp_path / "plain"))
    plain = Run(tmp_path / "plain")
    assert "personalisation" not in plain.summary
    assert {row["phase"] for row in plain.clients} == {"train", "evaluate"}
    assert list(plain.bank()) == list(whole.bank())
    for key, value in plain.bank().items():
        assert whole.bank()[key].tobytes() == value.tobytes()


@torch.no_grad()
def accuracy(folder: Path, node: LocalNode) -> float:
    """Score a saved folder on a node's test part, at its last exit."""
    exported = load_exported(folder)
    model = exported.model
    pixels = BatchTransform(model.backbone.image_size, exported.mean, exported.std)(
        node.test.images.images[node.test.positions]
    )
    answers = model(pixels)[model.exits[-1]].argmax(1).numpy()
    return float(np.mean(answers == node.test.labels))


@pytest.mark.parametrize("client", [0, 2, 5])
def test_what_a_client_saved_has_the_stated_accuracy(
    whole: Run, settings: Settings, client: int
) -> None:
    """A client of each tier; only its plan's units are in the file, and they moved."""
    row, node = personal_rows(whole)[client], simulated_nodes(settings)[client]
    folder = Path(settings.personal_dir) / str(client)
    assert accuracy(folder, node) == pytest.approx(row["accuracy"], abs=1e-9)
    saved = load_bank(folder)
    assert {key.split(".")[0] for key in saved} == {f"block{b}" for b in UNITS[node.tier]}
    frozen = {"block1.", "block2."} if node.tier == "odd" else set()
    for key, value in saved.items():
        assert (value.tobytes() == whole.bank()[key].tobytes()) == key.startswith(tuple(frozen))


def in_process(settings: Settings, nodes: list[dict[str, Any]], mods: Any = ()) -> Run:
    """Run on nodes with these node configs."""
    grid = InProcessGrid(create_client_app(mods), len(nodes), dict(settings.to_dict()))
    for context, config in zip(grid.contexts.values(), nodes, strict=True):
        context.node_config.clear()
        context.node_config.update(config)
    run(grid, settings)
    return Run(Path(settings.output_dir))


ONE_ROUND = {"rounds": 1, "num_clients": 2, "clients_per_round": 2, "personalise_epochs": 1}


def test_odd_client_keys_stay_inside_the_folder(tiny_vit: Path, tmp_path: Path) -> None:
    keys = ["../../out of it", "..", "a/b\\c:ü\n", "."]
    own = tmp_path / "deep" / "down" / "own"
    settings = settings_of(
        tiny_vit,
        tmp_path / "run",
        **{**ONE_ROUND, "num_clients": 4},
        personal_dir=str(own),
        tiers="all depth=2 share=1",
    )
    nodes = [
        {"partition-id": number, "num-partitions": 4, "client-key": key}
        for number, key in enumerate(keys)
    ]
    found = in_process(settings, nodes)
    assert {row["client"] for row in personal_rows(found) if not row["refused"]} == set(keys)
    files = [p for p in tmp_path.rglob("adapters.json") if settings.output_dir not in str(p)]
    assert len(files) == 4
    assert {file.parent.parent for file in files} == {own}
    assert own.parent.parent.parent == tmp_path


@pytest.mark.parametrize("obstacle", ["file", "folder"])
def test_a_folder_that_cannot_be_written_is_refused_in_a_sentence(
    tiny_vit: Path, tmp_path: Path, obstacle: str
) -> None:
    """A file where the folder should be; a folder of client 0 where its file should be."""
    own = tmp_path / "own"
    if obstacle == "file":
        own.write_text("in the way")
    else:
        (own / "0" / ".exits.safetensors").mkdir(parents=True)
    settings = settings_of(
        tiny_vit, tmp_path / "run", **ONE_ROUND, personal_dir=str(own), tiers="all depth=2 share=1"
    )
    run_in_process(settings)
    found = Run(tmp_path / "run")
    reason = {"file": "Not a directory", "folder": "Is a directory"}[obstacle]
    sentence = f"personal-dir: {own / '0'} cannot be written to ({reason}); give another folder."
    reasons = [row["refused"] for row in personal_rows(found)]
    if obstacle == "file":
        assert reasons == [sentence, sentence.replace(str(own / "0"), str(own / "1"))]
        assert "personalisation" not in found.summary
    else:
        assert reasons == [sentence, ""]
        after = found.summary["personalisation"]["after"]["mean"]
        assert after == personal_rows(found)[1]["accuracy"]
    assert len(found.bank()) > 0


class KilledError(BaseException):
    """Passes every `except Exception`, as a signal does."""


def test_a_run_killed_while_it_personalised_does_it_anew(
    whole: Run, settings: Settings, tiny_vit: Path, tmp_path: Path
) -> None:
    values = {"personalise_epochs": 2, "personal_dir": settings.personal_dir}
    seen: list[int] = []

    def kill_third(message: Message, context: Context, call_next: Callable[..., Message]) -> Any:
        if message.metadata.message_type == "evaluate.personalise":
            seen.append(context.node_id)
            if len(seen) == 3:
                raise KilledError
        return call_next(message, context)

    cut = settings_of(tiny_vit, tmp_path / "cut", **values)
    nodes = [{"partition-id": number, "num-partitions": 6} for number in range(6)]
    with pytest.raises(KilledError):
        in_process(cut, nodes, [kill_third])
    assert not (tmp_path / "cut" / "summary.json").exists()
    again = settings_of(tiny_vit, tmp_path / "cut", **values, resume=str(tmp_path / "cut"))
    for _ in range(2):  # the second time from a run that had finished
        run_in_process(again)
        resumed = Run(tmp_path / "cut")
        assert personal_rows(resumed) == personal_rows(whole)
        assert len(resumed.clients) == len(whole.clients)
        assert resumed.summary["personalisation"] == whole.summary["personalisation"]
        for key, value in whole.bank().items():
            assert resumed.bank()[key].tobytes() == value.tobytes()


def test_a_real_node_saves_where_it_says_itself(tiny_vit: Path, tmp_path: Path) -> None:
    """The run's folder is the server's word; a real node has its own, or none."""
    from PIL import Image

    for node in ("ada", "bob"):
        for label, level in (("dark", 40), ("light", 200)):
            folder = tmp_path / node / label
            folder.mkdir(parents=True)
            for number in range(6):
                Image.new("L", (16, 16), level + number).save(folder / f"{number}.png")
    settings = settings_of(
        tiny_vit,
        tmp_path / "run",
        **ONE_ROUND,
        personal_dir=str(tmp_path / "servers"),
        dataset="folder",
        data_dir=str(tmp_path / "ada"),
        tiers="all depth=4 share=1",
    )
    nodes = [
        {"data-dir": str(tmp_path / "ada"), "client-key": "ada"},
        {
            "data-dir": str(tmp_path / "bob"),
            "client-key": "bob",
            "personal-dir": str(tmp_path / "bobs"),
        },
    ]
    found = in_process(settings, nodes)
    assert [(row["client"], row["refused"]) for row in personal_rows(found)] == [
        ("ada", ""),
        ("bob", ""),
    ]
    assert not (tmp_path / "servers").exists()
    assert load_exported(tmp_path / "bobs" / "bob").classes == ("dark", "light")
    assert {p.name for p in tmp_path.iterdir()} == {"ada", "bob", "bobs", "run"}
