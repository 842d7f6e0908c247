"""Runs whose tiers hold parts of tensors: mixed ranks and ScaleFL."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message
from support import SMALL, Run

from client_app.app import create_client_app
from client_app.node import simulated_nodes
from client_app.training import get_trainer
from models import load_exported, score_exits
from server_app.app import run
from server_app.inprocess import InProcessGrid
from server_app.strategy import make_strategy
from settings import Settings, load_toml
from wiring import get_transform, make_model

RunApp = Callable[..., Any]
RANKS = "small depth=2 rank=1 clients=0-2; large depth=6 rank=3 clients=3-5"
VARIANTS: dict[str, dict[str, Any]] = {
    "scalefl": {"method": "scalefl"},
    "scalefl lora": {"method": "scalefl", "adapter": "lora", "adapter-rank": 4},
    "scalefl full": {"method": "scalefl", "adapter": "full"},
    "ranks": {"method": "exits", "adapter": "parallel", "adapter-rank": 4, "tiers": RANKS},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_no_tier_holds_stays_bit_identical(run_app: RunApp, variant: str) -> None:
    """Only tiers of ranks up to 3, or of widths up to 16 of 24 (0.7), take part."""
    values = {"tiers": "small depth=2 share=0.5; medium depth=4 share=0.5", **VARIANTS[variant]}
    start = run_app("start", **values, rounds=1, learning_rate=1e-12, head_rate=1).bank()
    end = run_app("end", **values, rounds=2, clients_per_round=6).bank()
    changed = {key: value != start[key] for key, value in end.items()}
    if variant == "ranks":
        assert not changed["block1.adapter.attention.down.weight"][3:].any()
        assert not changed["block1.adapter.attention.up.weight"][:, 3:].any()
        assert changed["block1.adapter.attention.up.weight"][:, :3].all()
        assert changed["block1.adapter.attention.up.bias"].all()
    else:
        assert not changed["block2.head.1.weight"][:, 16:].any()
        assert changed["block2.head.1.weight"][:, :16].all()
        assert not any(value.any() for key, value in changed.items() if key.startswith("block6"))
    if variant == "scalefl full":
        query = changed["block1.adapter.self_attention.q_proj.weight"]
        assert query.shape == (24, 24)
        assert not query[16:].any()
        assert not query[:, 16:].any()
        assert query[:16, :16].all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_client_keeps_what_it_reported(run_app: RunApp, variant: str, tmp_path: Path) -> None:
    """Its personal adapters build the model of its tier, which scores as it said."""
    own = tmp_path / "own"
    values = {**VARIANTS[variant], "rounds": 1, "personal_dir": str(own)}
    run = run_app(**values, personalise_epochs=1)
    settings = Settings.from_dict(load_toml(run.output / "settings.toml"))
    rows = {row["client"]: row for row in run.clients if row["phase"] == "personalise"}
    for node in simulated_nodes(settings):
        exported = load_exported(own / node.client_key)
        transform = get_transform(settings, node.source, training=False)
        pixels = transform(node.test.images.images[node.test.positions])
        scores = score_exits([(exported.model(pixels), torch.from_numpy(node.test.labels))])
        assert scores.last == rows[node.client_key]["accuracy"]


def test_the_server_scores_each_exit_with_its_tiers_model(run_app: RunApp) -> None:
    """From the exported bank, without kept features."""
    run = run_app(method="scalefl", adapter="lora", adapter_rank=2, rounds=2)
    model = load_exported(run.output / "adapters").model
    settings = Settings.from_dict(load_toml(run.output / "settings.toml"))
    node = simulated_nodes(settings)[0]
    test, transform = node.source.test, get_transform(settings, node.source, training=False)
    with torch.no_grad():
        batches = [(model(transform(test.images)), torch.from_numpy(np.array(test.labels)))]
    for block, accuracy in score_exits(batches).accuracy.items():
        assert run.summary["accuracy"][str(block)] == pytest.approx(accuracy, abs=0.003)


def test_scalefl_averages_without_weights_and_other_methods_with(tiny_vit: Path) -> None:
    for method, weighted in (("scalefl", False), ("exits", True)):
        settings = Settings.from_dict({**SMALL, "method": method, "backbone": str(tiny_vit)})
        strategy = make_strategy(settings, make_model(settings, 10))
        assert strategy.aggregation.weighted == weighted


def test_tiers_with_one_model_share_a_trainer(tiny_vit: Path) -> None:
    """And a process keeps as many as there are models, not as there are tiers."""
    base = {**SMALL, "backbone": str(tiny_vit), "method": "exits", "adapter": "parallel"}
    tiers = "a depth=2 share=0.5; b depth=4 rank=2 share=0.25; c depth=6 rank=32 share=0.25"
    settings = Settings.from_dict({**base, "tiers": tiers})
    a, b, c = (get_trainer(settings, 10, name) for name in "abc")
    assert a is c
    assert a is not b
    keys = a.model.adapter_parameters()
    shape = b.model.adapter_parameters()["block1.adapter.mlp.down.weight"].shape
    assert (keys["block1.adapter.mlp.down.weight"].shape, shape) == ((32, 24), (2, 24))


def test_a_node_with_other_ranks_is_refused_in_a_sentence(tiny_vit: Path, tmp_path: Path) -> None:
    """One node's copy of the settings has another rank for its tier."""
    base = {**SMALL, **VARIANTS["ranks"], "backbone": str(tiny_vit), "rounds": 1}
    settings = Settings.from_dict({**base, "output-dir": str(tmp_path / "run")})

    def mistaken(message: Message, context: Context, call_next: Any) -> Message:
        if context.node_config["partition-id"] == 0:
            other = {"tiers": RANKS.replace("rank=1", "rank=2")}
            context.run_config = {**context.run_config, **other}
        return call_next(message, context)

    grid = InProcessGrid(create_client_app([mistaken]), 6, dict(settings.to_dict()))
    run(grid, Settings.from_dict({**settings.to_dict(), "clients-per-round": 6}))
    rows = Run(tmp_path / "run").clients
    refused = {row["client"]: row["refused"] for row in rows if row["refused"]}
    assert list(refused) == ["0"]
    assert "both need the same method, tiers, backbone and classes" in refused["0"]
