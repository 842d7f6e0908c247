"""InclusiveFL and ExclusiveFL as runs: who trains what, who is scored where, what is kept."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import load_bank

from client_app.node import simulated_nodes
from models import load_exported, score_exits
from settings import Settings, load_toml
from strategies import StrategyError
from wiring import get_transform

RunApp = Callable[..., Any]
END = {"small": 2, "medium": 4, "large": 6}


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_inclusive_clients_train_and_score_their_own_exit_alone(
    run_app: RunApp, adapter: str
) -> None:
    """With kept features, and with adapters in the blocks."""
    run = run_app(method="inclusivefl", adapter=adapter, adapter_rank=4)
    for row in run.clients:
        end = END[row["tier"]]
        prefix = "accuracy-exit-" if row["phase"] == "evaluate" else "train-loss-exit-"
        assert [key for key in row if key.startswith(prefix)] == [f"{prefix}{end}"]
        if row["phase"] == "evaluate":
            assert row["accuracy"] == row[f"accuracy-exit-{end}"]
        else:
            assert row["train-loss"] == pytest.approx(row[f"train-loss-exit-{end}"])
    assert list(run.summary["accuracy"]) == ["2", "4", "6", "mean"]


def test_inclusive_tiers_may_hold_fewer_ranks(run_app: RunApp) -> None:
    """A shallow tier of rank 2 leaves the other ranks of its own version as they were."""
    tiers = "small depth=2 rank=2 clients=0-2; large depth=6 clients=3-5"
    values = {"method": "inclusivefl", "adapter": "lora", "adapter_rank": 4, "tiers": tiers}
    start = run_app("start", **values, rounds=1, learning_rate=1e-12, head_rate=1.0)
    end = run_app("end", **values, rounds=2, clients_per_round=6)
    key = "exit2.adapter.q.B"
    changed = end.bank()[key] != start.bank()[key]
    assert changed[:, :2].all()
    assert not changed[:, 2:].any()
    assert (end.bank()["block2.adapter.q.B"] != 0).all()


def test_an_inclusive_device_keeps_what_it_reported(run_app: RunApp, tmp_path: Path) -> None:
    """Its personal adapters build a model with its only exit, which scores as it said."""
    own = tmp_path / "own"
    run = run_app(
        method="inclusivefl",
        adapter="parallel",
        adapter_rank=4,
        personalise_epochs=1,
        personal_dir=str(own),
    )
    settings = Settings.from_dict(load_toml(run.output / "settings.toml"))
    rows = {row["client"]: row for row in run.clients if row["phase"] == "personalise"}
    for node in simulated_nodes(settings):
        row, exported = rows[node.client_key], load_exported(own / node.client_key)
        assert exported.model.exits == (END[row["tier"]],)
        transform = get_transform(settings, node.source, training=False)
        pixels = transform(node.test.images.images[node.test.positions])
        scores = score_exits([(exported.model(pixels), torch.from_numpy(node.test.labels))])
        assert scores.last == row["accuracy"]


def test_exclusive_runs_train_on_the_deepest_tier_alone(run_app: RunApp) -> None:
    """Two clients of it: both train in every round, all six are scored; nobody else sends."""
    run = run_app(method="exclusivefl", report=True, personalise_epochs=1)
    trained = [row for row in run.clients if row["phase"] == "train"]
    assert [(row["round"], row["client"]) for row in trained] == [
        (number, client) for number in (1, 2, 3) for client in ("4", "5")
    ]
    assert {row["client"] for row in run.clients if row["phase"] == "evaluate"} == set("012345")
    parameters = run.summary["trainable-parameters"]
    assert (parameters["small"], parameters["medium"]) == (0, 0)
    assert parameters["large"] == sum(value.size for value in run.bank().values())
    assert "<td>small</td>" in (run.output / "report.html").read_text()


def test_all_clients_of_an_exclusive_run_personalise_what_they_would_train(
    run_app: RunApp, tmp_path: Path
) -> None:
    """So their accuracy before is the clients' accuracy; a tier moves its own blocks and no other.

    "medium" trains blocks 3 and 4, whose exits are 2 and 4.
    """
    own = tmp_path / "own"
    run = run_app(method="exclusivefl", personalise_epochs=1, personal_dir=str(own))
    rows = [row for row in run.clients if row["phase"] == "personalise"]
    assert [row["client"] for row in rows] == list("012345")
    assert run.summary["personalisation"]["before"] == run.summary["client-accuracy"]
    bank = run.bank()
    trained = {"small": {"block2"}, "medium": {"block4"}, "large": {"block2", "block4", "block6"}}
    for row in rows:
        moved = {
            key.split(".")[0]
            for key, value in load_bank(own / row["client"]).items()
            if (value != bank[key]).any()
        }
        assert moved == trained[row["tier"]]


def test_an_exclusive_run_without_a_deep_client_ends_in_a_sentence(run_app: RunApp) -> None:
    tiers = "small depth=2 share=1; large depth=6 share=0"
    with pytest.raises(StrategyError, match=r"all 6 nodes .* train nothing .* \(small\)"):
        run_app(method="exclusivefl", tiers=tiers)


def test_feddyn_with_inclusivefl_is_refused_before_the_start(run_app: RunApp) -> None:
    with pytest.raises(StrategyError, match="InclusiveFL has one for each tier"):
        run_app(method="inclusivefl", server_optimizer="dyn")
