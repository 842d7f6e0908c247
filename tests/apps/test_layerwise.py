"""Whole runs layer by layer: what changes when, what is sent, drawn, kept and resumed."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import SMALL, Run

from client_app.app import app
from client_app.call import Call
from client_app.training import Trainer
from server_app.app import run
from server_app.inprocess import InProcessGrid
from settings import Settings
from strategies import AdapterFedAvg, Callback, RoundReport

TENSORS = dict[str, np.ndarray]
LAYERWISE: dict[str, Any] = {
    "method": "layerwise",
    "adapter": "parallel",
    "adapter-rank": 2,
    "rounds": 6,
    "evaluate-every": 6,
    "learning-rate": 0.01,
    "tiers": "all depth=1.0 share=1",
    "clients-per-round": 3,
}


class Banks(Callback):
    """The bank at the start and after every round."""

    def __init__(self) -> None:
        self.after: list[TENSORS] = []

    def on_start(self, strategy: AdapterFedAvg, num_rounds: int) -> None:
        self._note(strategy)

    def on_round_end(self, strategy: AdapterFedAvg, report: RoundReport) -> None:
        self._note(strategy)

    def _note(self, strategy: AdapterFedAvg) -> None:
        assert strategy.bank is not None
        self.after.append({key: value.copy() for key, value in strategy.bank.tensors().items()})


def run_noting(tiny_vit: Path, output: Path, **values: Any) -> tuple[Run, list[TENSORS]]:
    given = {key.replace("_", "-"): value for key, value in values.items()}
    base = {**SMALL, "backbone": str(tiny_vit), "output-dir": str(output), **LAYERWISE}
    settings = Settings.from_dict({**base, **given})
    banks = Banks()
    grid = InProcessGrid(app, settings.num_clients, dict(settings.to_dict()))
    run(grid, settings, [banks])
    return Run(output), banks.after


def changed(before: TENSORS, after: TENSORS) -> set[str]:
    """The units of which a tensor is another."""
    return {k.split(".")[0] for k in after if before[k].tobytes() != after[k].tobytes()}


def same(first: TENSORS, second: TENSORS) -> bool:
    return first.keys() == second.keys() and all(
        first[key].tobytes() == second[key].tobytes() for key in first
    )


@pytest.mark.parametrize(
    ("values", "phases"),
    [
        (
            {"layer_order": "bottom-up", "exits": "6"},
            [{f"block{b}", f"head{b}"} for b in range(1, 7)],
        ),
        (
            {"layer_order": "top-down", "exits": "6,"},
            [{f"block{b}", "head6"} for b in range(6, 0, -1)],
        ),
        (
            {"layer_order": "bottom-up", "exits": "3", "window": 2, "adapter": "ssf"},
            [{"embed", "block1", "block2", "head2"}] * 2
            + [{"block3", "block4", "head4"}] * 2
            + [{"block5", "block6", "head6"}] * 2,
        ),
        (
            {"layer_order": "progressive", "exits": "6", "rounds": 6},
            [{f"{u}{b}" for b in range(1, p + 1) for u in ("block", "head")} for p in range(1, 7)],
        ),
        (
            {
                "objective": "simclr",
                "adapter": "full",
                "backbone_start": "random",
                "layer_order": "bottom-up",
                "exits": "6",
                "downstream_images": 50,
                "downstream_epochs": 0,
            },
            [{"embed", "block1", "projection"}]
            + [{f"block{b}", "projection"} for b in range(2, 7)],
        ),
    ],
)
def test_a_round_changes_what_its_phase_trains_and_nothing_else(
    values: dict[str, Any], phases: list[set[str]], tiny_vit: Path, tmp_path: Path
) -> None:
    found, banks = run_noting(tiny_vit, tmp_path / "run", **values)
    assert [changed(*pair) for pair in pairwise(banks)] == phases
    numbers = [len({str(sorted(units)) for units in phases[: n + 1]}) for n in range(6)]
    for row, units, number in zip(found.metrics[1:], phases, numbers, strict=True):
        assert set(row["coverage"]) == units
        assert row["figures"]["phase"] == number


def test_clients_hold_the_final_values_of_what_is_finished(
    tiny_vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that got them rounds ago; and nothing frozen has a gradient or a moment."""
    frozen: dict[int, list[TENSORS]] = {}
    train = Trainer.train

    def noting(trainer: Trainer, units: list[str], *args: Any, **options: Any) -> Any:
        model = trainer.model
        there = model.units.keys() - model.missing - set(units)
        frozen.setdefault(options["server_round"], []).append(model.adapter_arrays(there))
        result = train(trainer, units, *args, **options)
        optimizers = trainer._optimizer(
            tuple(k for k in model.adapter_parameters() if k.split(".")[0] in units)
        )
        held = {id(p) for p in optimizers.state}
        for key, parameter in model.adapter_parameters().items():
            assert (id(parameter) in held) == (key.split(".")[0] in units)
            assert parameter.grad is None
        return result

    monkeypatch.setattr(Trainer, "train", noting)
    values = {"layer_order": "bottom-up", "exits": "6"}
    _, banks = run_noting(tiny_vit, tmp_path / "run", **values)
    for number, clients in frozen.items():
        before = banks[number - 1]
        assert len(clients) == 3
        for tensors in clients:
            units = {key.split(".")[0] for key in tensors}
            assert units == {f"block{b}" for b in range(1, number)}
            assert all(tensors[key].tobytes() == before[key].tobytes() for key in tensors)


@pytest.mark.parametrize("order", ["top-down", "bottom-up"])
@pytest.mark.parametrize("adapter", [{}, {"adapter": "serial", "adapter_targets": "mlp"}])
def test_a_run_that_keeps_tokens_gives_the_bits_of_one_that_does_not(
    order: str, adapter: dict[str, str], tiny_vit: Path, tmp_path: Path
) -> None:
    values = {"layer_order": order, "exits": "3", "window": 2, **adapter}
    kept, banks = run_noting(tiny_vit, tmp_path / "kept", **values)
    anew, others = run_noting(tiny_vit, tmp_path / "anew", cache_megabytes=0, **values)
    assert all(same(*pair) for pair in zip(banks, others, strict=True))
    for mine, other in zip(kept.metrics, anew.metrics, strict=True):
        assert {k: v for k, v in mine.items() if k != "seconds"} == {
            k: v for k, v in other.items() if k != "seconds"
        }


def test_finished_units_are_sent_once_to_each_client(tiny_vit: Path, tmp_path: Path) -> None:
    """4(a + c) up; down the same to who was there in the round before, and a more each phase.

    a: two bottlenecks of D = 24, r = 2. c: layer norm and linear layer for ten classes.
    """
    values = {
        "layer_order": "bottom-up",
        "exits": "6",
        "rounds": 12,
        "evaluate_every": 12,
        "clients_per_round": 6,
        "report": False,
    }
    found, _ = run_noting(tiny_vit, tmp_path / "run", **values)
    adapter, head = 2 * (2 * 24 * 2 + 2 + 24), 2 * 24 + 24 * 10 + 10
    own = 4 * (adapter + head)
    assert found.summary["trainable-parameters"] == {"all": adapter + head}
    rows = [row for row in found.clients if row["phase"] == "train"]
    assert found.summary["bytes"]["minimum-up"] == own * len(rows)
    first = [row["bytes-down"] for row in rows if row["client"] == "0"][::2]
    second = [row["bytes-down"] for row in rows if row["client"] == "0"][1::2]
    # In the first round of a phase one more adapter comes, of which the second has the mark alone.
    for number, (new, held) in enumerate(zip(first, second, strict=True)):
        assert own < held < own + 700 + 60 * number
        assert 4 * adapter * (number > 0) <= new - held < 4 * adapter * (number > 0) + 300
    assert all(own < row["bytes-up"] < own + 900 for row in rows)


def test_what_is_drawn_is_logged_and_left_out_of_trainings_alone(
    tiny_vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks that are left out neither run nor get their adapters; evaluations have them all."""
    seen: dict[tuple[int, str], tuple[list[int], set[str]]] = {}
    scored: list[frozenset[str]] = []
    load = Call.load

    def noting(call: Call) -> Trainer:
        trainer = load(call)
        model = trainer.model
        if call.message.metadata.message_type == "train":
            there = set(model.units) - model.missing
            seen[call.server_round, call.node.client_key] = call.skipped, there
        else:
            assert call.skipped == []
            scored.append(model.missing)
        return trainer

    monkeypatch.setattr(Call, "load", noting)
    values = {"layer_order": "bottom-up", "exits": "6", "depth_budget": 3}
    found, _ = run_noting(tiny_vit, tmp_path / "run", **values)
    rows = {(r["round"], r["client"]): r for r in found.clients if r["phase"] == "train"}
    assert rows.keys() == seen.keys()
    for (number, client), (skipped, there) in seen.items():
        assert rows[number, client].get("skipped", []) == skipped
        assert len(skipped) == max(0, number - 3)
        blocks = set(range(1, number + 1)) - set(skipped)
        assert there == {f"block{b}" for b in blocks} | {f"head{number}"}
    assert len({str(skipped) for skipped, _ in seen.values()}) > 4
    assert all("skipped" not in row for row in found.clients if row["phase"] != "train")
    assert scored == 6 * [frozenset()]


def test_a_budget_of_all_blocks_changes_nothing(tiny_vit: Path, tmp_path: Path) -> None:
    values = {"layer_order": "bottom-up", "exits": "6"}
    _, plain = run_noting(tiny_vit, tmp_path / "plain", **values)
    _, all_run = run_noting(tiny_vit, tmp_path / "all", depth_budget=6, **values)
    assert all(same(*pair) for pair in zip(plain, all_run, strict=True))


def test_clients_are_scored_where_there_is_a_head(tiny_vit: Path, tmp_path: Path) -> None:
    values = {"layer_order": "bottom-up", "exits": "3", "window": 2, "evaluate_every": 1}
    found, _ = run_noting(tiny_vit, tmp_path / "run", **values)
    for row in found.clients:
        if row["phase"] == "evaluate":
            exits = {int(key.split("-")[-1]) for key in row if key.startswith("accuracy-exit-")}
            assert exits == {e for e in (2, 4, 6) if e <= 2 * ((row["round"] + 1) // 2)}


def test_clients_personalise_what_is_trained_last(tiny_vit: Path, tmp_path: Path) -> None:
    """Scored with all blocks and heads, although a budget leaves some out of the training."""
    values = {
        "layer_order": "bottom-up",
        "exits": "6",
        "depth_budget": 4,
        "personalise_epochs": 1,
        "personal_dir": str(tmp_path / "own"),
    }
    found, _ = run_noting(tiny_vit, tmp_path / "run", **values)
    before = {
        row["client"]: row["accuracy-before"]
        for row in found.clients
        if row["phase"] == "personalise"
    }
    shared = {r["client"]: r["accuracy"] for r in found.clients if r["phase"] == "evaluate"}
    assert before == shared
    assert len(list((tmp_path / "own").glob("*/exits.safetensors"))) == 6
