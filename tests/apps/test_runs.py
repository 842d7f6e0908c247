"""Whole runs in-process: every method through the same matrix, with the files they leave."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message
from support import SMALL, Run

from client_app.app import create_client_app
from client_app.training import get_trainer
from models import load_backbone
from server_app.app import run
from server_app.inprocess import InProcessGrid
from settings import Settings, load_toml
from strategies import exchange
from wiring import get_backbone

RunApp = Callable[..., Any]
RANKS = (
    "small depth=2 rank=1 clients=0,1; medium depth=4 trained=2 rank=2 clients=2,3; "
    "large depth=6 clients=4,5"
)
VARIANTS: dict[str, dict[str, Any]] = {
    "exits": {"method": "exits"},
    # Ramps of no round: distillation has its whole weight from the start.
    "depthfl": {"method": "depthfl", "depthfl-ramp-rounds": 0},
    "reefl": {"method": "reefl", "reefl-ramp-rounds": 0},
    "exclusivefl": {"method": "exclusivefl"},
    "inclusivefl": {"method": "inclusivefl"},
    "inclusivefl parallel": {"method": "inclusivefl", "adapter": "parallel", "adapter-rank": 4},
    # Two phases, which the tiers join where they reach the blocks.
    "layerwise": {"method": "layerwise", "adapter": "parallel", "adapter-rank": 4, "window": 3},
    "behind the MLP": {
        "method": "layerwise",
        "adapter": "serial",
        "adapter-rank": 4,
        "adapter-targets": "mlp",
        "window": 3,
    },
    "scalefl": {"method": "scalefl"},
    "accumulator": {"method": "accumulator"},
    "per-block": {"method": "accumulator", "accumulator-sharing": "per-block"},
    "parallel": {"method": "exits", "adapter": "parallel", "adapter-rank": 4},
    "serial": {"method": "exits", "adapter": "serial", "adapter-rank": 4},
    "lora": {"method": "exits", "adapter": "lora", "adapter-rank": 4, "adapter-alpha": 8.0},
    "mixed ranks": {"method": "exits", "adapter": "serial", "adapter-rank": 4, "tiers": RANKS},
    "products": {
        "method": "exits",
        "adapter": "lora",
        "adapter-rank": 4,
        "tiers": RANKS,
        "rank-aggregation": "product",
    },
    "ssf": {"method": "exits", "adapter": "ssf"},
    "full": {"method": "exits", "adapter": "full"},
    "yogi": {"method": "exits", "server-optimizer": "yogi", "server-learning-rate": 0.05},
    "feddyn": {"method": "exits", "server-optimizer": "dyn"},
    "hyper-attention": {"method": "hyper-attention", "attention-rank": 2},
    "personal heads": {
        "method": "hyper-attention",
        "personal-heads": True,
        "adapter": "parallel",
        "adapter-rank": 4,
    },
    "projections": {
        "method": "hyper-attention",
        "attention-form": "projections",
        "adapter": "full",
        "hyper-attention-shared-head": False,
        "hyper-attention-zero-start": False,
        "hyper-attention-rate": 0.01,
    },
    "local-attention": {"method": "local-attention"},
    "shared-attention": {"method": "shared-attention", "adapter": "lora", "adapter-rank": 4},
}


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The settings of one method and adapter."""
    return VARIANTS[request.param]


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return list(first) == list(second) and all(
        first[key].tobytes() == second[key].tobytes() for key in first
    )


def test_a_run_learns_and_leaves_the_backbone_alone(
    run_app: RunApp, variant: dict[str, Any], tiny_vit: Path
) -> None:
    backbone = get_backbone(Settings(backbone=str(tiny_vit)))  # the object that the run uses
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    run = run_app(**variant, learning_rate=0.01, local_epochs=3)
    losses = [row["train-loss"] for row in run.metrics if "train-loss" in row]
    first = run.metrics[0]["accuracy-mean"]
    if variant.get("personal-heads"):  # the server has none that learnt
        assert run.summary["client-accuracy"]["mean"] > 0.2
    else:
        assert run.summary["accuracy"]["mean"] > max(0.2, first)
    assert len(losses) == 3
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, before[key])


def test_seeds_repeat_and_differ(run_app: RunApp, variant: dict[str, Any]) -> None:
    first, again = run_app("first", **variant, rounds=2), run_app("again", **variant, rounds=2)
    assert same(first.bank(), again.bank())
    assert not same(first.bank(), run_app("other", **variant, rounds=2, seed=1).bank())


def test_stale_adapters_of_another_client_do_not_matter(
    run_app: RunApp, variant: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every unit the plan does not bring is poisoned on the node before it trains."""
    from client_app.call import Call

    clean = run_app("clean", **variant, rounds=2)
    load = Call.load

    def poisoned(call: Call) -> Any:
        model = get_trainer(call.settings, call.node.num_classes, call.node.tier).model
        for parameter in model.adapter_parameters().values():
            parameter.data.fill_(float("nan"))
        return load(call)

    monkeypatch.setattr(Call, "load", poisoned)
    assert same(clean.bank(), run_app("poisoned", **variant, rounds=2).bank())


def held_size(variant: dict[str, Any], tier: str, key: str, shape: tuple[int, ...]) -> int:
    """Elements of a tensor that a tier holds: all, but for ScaleFL's widths and mixed ranks."""
    if variant["method"] == "scalefl" and shape[-1] == 24:
        return math.prod(shape) // 24 * {"small": 9, "medium": 16, "large": 24}[tier]
    if "tiers" in variant and ".adapter." in key and not key.endswith("up.bias"):
        return math.prod(shape) // 4 * {"small": 1, "medium": 2, "large": 4}[tier]
    return math.prod(shape)


def test_only_the_plans_bytes_travel(run_app: RunApp, variant: dict[str, Any]) -> None:
    if variant["method"] == "layerwise":
        pytest.skip("its plans differ by phase: tests/apps/test_layerwise.py")
    run = run_app(**variant)
    trained = run.summary["trainable-parameters"]
    depth = {"small": (1, 2), "medium": (3, 4), "large": (1, 6)}
    for tier, (lowest, highest) in depth.items():
        held = {key: held_size(variant, tier, key, v.shape) for key, v in run.bank().items()}
        kinds = ["block", "personal", "head"]
        kinds.remove("personal") if variant["method"] == "local-attention" else None
        kinds.remove("head") if variant.get("personal-heads") else None
        units = {"shared", *(f"{k}{b}" for k in kinds for b in range(lowest, highest + 1))}
        units |= {"embed"} if lowest == 1 else set()
        if variant["method"] == "inclusivefl" and tier != "large":
            units = units - {f"block{highest}"} | {f"exit{highest}"}
        if variant["method"] == "exclusivefl" and tier != "large":
            units = set()
        expected = sum(size for key, size in held.items() if key.split(".")[0] in units)
        assert trained[tier] == expected
    for row in run.clients:
        if row["phase"] == "train":
            own = 4 * trained[row["tier"]]
            assert own < row["bytes-up"] < own + 3000
    up = sum(row["bytes-up"] for row in run.clients if row["phase"] == "train")
    assert run.summary["bytes"]["up"] == up
    used = [row for row in run.clients if row["phase"] == "train"]
    assert run.summary["bytes"]["minimum-up"] == sum(4 * trained[row["tier"]] for row in used)


def test_the_output_folder_is_complete(run_app: RunApp, tiny_vit: Path) -> None:
    run = run_app(method="accumulator", report=True)
    names = {path.name for path in run.output.iterdir()}
    assert names >= {
        "metrics.jsonl",
        "clients.jsonl",
        "summary.json",
        "settings.toml",
        "checkpoint",
        "adapters",
        "report.html",
        "anytime.json",
        "partition.json",
    }
    summary = run.summary
    assert list(summary["accuracy"]) == ["2", "4", "6", "mean"]
    assert summary["accuracy"]["mean"] == pytest.approx(
        sum(summary["accuracy"][e] for e in ("2", "4", "6")) / 3
    )
    assert set(summary["client-accuracy"]) == {
        "mean",
        "worst-decile",
        "small",
        "medium",
        "large",
    }
    parameters = load_backbone(str(tiny_vit)).num_parameters()
    adapters = sum(value.size for value in run.bank().values())
    assert summary["bytes"]["full-model"] == 2 * 4 * (parameters + adapters) * 12
    assert (summary["method"], summary["seed"], summary["rounds"]) == ("accumulator", 0, 3)
    assert [row["round"] for row in run.metrics] == [0, 1, 2, 3]
    assert len([row for row in run.clients if row["phase"] == "train"]) == 12
    assert len([row for row in run.clients if row["phase"] == "evaluate"]) == 6
    settings = Settings.from_dict(load_toml(run.output / "settings.toml"))
    assert settings.output_dir == str(run.output)
    description = json.loads((run.output / "adapters" / "adapters.json").read_text())
    assert description["classes"] == [str(digit) for digit in range(10)]


def test_clients_are_scored_at_the_exits_of_their_tier(run_app: RunApp) -> None:
    run = run_app(method="exits")
    for row in run.clients:
        if row["phase"] == "evaluate":
            reached = {"small": 2, "medium": 4, "large": 6}[row["tier"]]
            exits = {int(key.split("-")[-1]) for key in row if key.startswith("accuracy-exit-")}
            assert exits == set(range(2, reached + 1, 2))
            assert row["accuracy"] == row[f"accuracy-exit-{reached}"]


def test_a_unit_no_sampled_client_holds_stays_bit_identical(run_app: RunApp) -> None:
    """Nobody is in the tier that runs blocks 5 and 6."""
    tiers = "small depth=2 share=0.5; medium depth=4 share=0.5"
    start = run_app("start", method="exits", tiers=tiers, rounds=1, learning_rate=1e-12)
    end = run_app("end", method="exits", tiers=tiers, rounds=3)
    for key, value in end.bank().items():
        unchanged = value.tobytes() == start.bank()[key].tobytes()
        assert unchanged == key.startswith("block6")


def test_a_round_goes_on_without_clients_slower_than_round_timeout(
    tiny_vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last client takes 100 s of the exchange's clock in round 1; 60 s are allowed."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(
        exchange, "time", SimpleNamespace(monotonic=lambda: clock.now, sleep=pytest.fail)
    )

    def slow(message: Message, context: Context, call_next: Any) -> Message:
        if message.metadata.message_type == "train" and context.node_id == 6:
            clock.now += 100 if message.content["config"]["server-round"] == 1 else 1
        return call_next(message, context)

    values = {
        **SMALL,
        "method": "exits",
        "clients-per-round": 6,
        "rounds": 2,
        "round-timeout": 60,
        "backbone": str(tiny_vit),
        "output-dir": str(tmp_path / "run"),
    }
    settings = Settings.from_dict(values)
    grid = InProcessGrid(create_client_app([slow]), 6, dict(settings.to_dict()))
    run(grid, settings)
    found = Run(tmp_path / "run")
    late = [
        (row["round"], row["client"], row["refused"]) for row in found.clients if row["refused"]
    ]
    assert late == [(1, "5", "it did not come in time")]
    assert [(row["replies"], row["refused"]) for row in found.metrics[1:]] == [(5, 1), (6, 0)]


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adamw"])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_optimisers_and_schedules_run(run_app: RunApp, optimizer: str, schedule: str) -> None:
    run = run_app(method="exits", optimizer=optimizer, schedule=schedule, rounds=2)
    assert np.isfinite(run.metrics[-1]["train-loss"])


def test_a_zero_update_is_reported(run_app: RunApp, caplog: pytest.LogCaptureFixture) -> None:
    """A learning rate far below the precision of the weights moves nothing but zero biases."""
    run_app(method="exits", rounds=1, optimizer="sgd", learning_rate=1e-45, head_rate=1)
    assert "trained block2" in caplog.text
    assert "without any change" in caplog.text


def test_own_folders_name_clients_and_classes(run_app: RunApp, tmp_path: Path) -> None:
    """Natural partition of client/class folders: three clients with their own images."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for client in ("ada", "bob", "cyd"):
        for label, level in (("dark", 40), ("light", 200)):
            folder = tmp_path / "images" / client / label
            folder.mkdir(parents=True)
            for number in range(6):
                pixels = rng.normal(level, 10, (20, 24, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    run = run_app(
        method="exits",
        dataset="folder",
        data_dir=str(tmp_path / "images"),
        partition="natural",
        num_clients=3,
        clients_per_round=3,
        tiers="all depth=1.0 share=1",
        rounds=5,
        learning_rate=0.03,
    )
    assert run.summary["accuracy"]["6"] == 1.0
