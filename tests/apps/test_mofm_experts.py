"""Runs in two stages: gates, local experts, and what must not matter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message
from safetensors.numpy import load_file
from support import Run
from two_stages import TWO_STAGES, make_settings, same

import client_app.call as call
import client_app.training as training
from client_app.app import create_client_app
from client_app.feature_cache import FeatureCache
from models import load_exported
from server_app.app import run
from server_app.inprocess import InProcessGrid
from settings import SettingsError

RunApp = Callable[..., Any]


def test_the_plateau_hears_of_images_that_no_expert_trains_on(
    run_app: RunApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The share is the same in all rounds and both stages, and in stage 2 the gate's own."""
    seen: dict[str, list[tuple[frozenset[int], bool]]] = {}
    passes = training.Trainer._passes

    def noted(self: training.Trainer, units: list[str], part: Any, client_key: str) -> Any:
        found = passes(self, units, part, client_key)
        for names, images in found:
            places = frozenset(images.positions.tolist()), names[0].startswith("gate")
            seen.setdefault(client_key, []).append(places)
        assert set().union(*(images.positions for _, images in found)) <= set(part.positions)
        return found

    monkeypatch.setattr(training.Trainer, "_passes", noted)
    values = {**TWO_STAGES, "rounds": 3, "stage_one_rounds": 2, "clients_per_round": 6}
    found = run_app(**values, activation="plateau", gate_share=0.25)
    for rows in seen.values():
        assert len(rows) == 2 + 2
        (experts,) = {places for places, is_gate in rows if not is_gate}
        (gate,) = {places for places, is_gate in rows if is_gate}
        assert not experts & gate
        assert len(gate) == pytest.approx(0.25 * (len(experts) + len(gate)), abs=1)
    figures = [row["figures"] for row in found.metrics[1:]]
    assert all(0 <= row["validation-accuracy"] <= 1 for row in figures[:2])
    assert "validation-accuracy" not in figures[2]


def test_without_a_share_gate_and_local_expert_learn_together(
    run_app: RunApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[list[int]] = []
    passes = training.Trainer._passes

    def noted(self: training.Trainer, units: list[str], part: Any, client_key: str) -> Any:
        found = passes(self, units, part, client_key)
        sizes.append([len(images) - len(part) for _, images in found])
        return found

    monkeypatch.setattr(training.Trainer, "_passes", noted)
    run_app(**{**TWO_STAGES, "stage_one_rounds": 0, "rounds": 1}, gate_share=0)
    assert all(found == [0] for found in sizes)


@pytest.mark.parametrize("gate", ["private", "scalar", "half", "local"])
def test_gates_that_are_not_averaged_send_nothing(
    run_app: RunApp, gate: str, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    values = {**TWO_STAGES, "rounds": 3, "stage_one_rounds": 1}
    found = run_app(**values, mofm_gate=gate, mofm_proximal=0.1, state_dir=str(own))
    rows = [row for row in found.metrics if row["round"] > 1]
    assert all(row["coverage"] == {} for row in rows)
    names = {k.split(".")[0] for f in own.rglob("own-*.safetensors") for k in load_file(f)}
    assert ("gate6" in names) == (gate in ("private", "scalar"))
    last = [r for r in found.clients if r["phase"] == "evaluate" and r["round"] == 3]
    weights = {row["local-weight"] for row in last}
    if gate in ("half", "local"):
        assert weights == {0.5 if gate == "half" else 1.0}
    else:
        assert len(weights) > 1
    if gate == "local":
        assert all(row["accuracy"] == row["local-accuracy"] for row in last)


def test_local_experts_alone(run_app: RunApp) -> None:
    """Without stage 1 nothing is sent up, the bank stays, and clients learn for themselves."""
    found = run_app(
        **{**TWO_STAGES, "stage_one_rounds": 0, "mofm_gate": "local", "clients_per_round": 6}
    )
    assert found.summary["bytes"]["minimum-up"] == 0
    assert found.metrics[-1]["accuracy-mean"] == found.metrics[0]["accuracy-mean"]
    scored = found.summary["client-accuracy-of"]
    assert scored["local"]["mean"] > scored["global"]["mean"] + 0.2


def test_a_proximal_pull_holds_the_local_expert_back(run_app: RunApp, tmp_path: Path) -> None:
    apart = []
    for pull in (0.0, 10.0):
        own = tmp_path / f"own-{pull}"
        run_app(
            f"run-{pull}",
            **{**TWO_STAGES, "rounds": 2, "stage_one_rounds": 1},
            mofm_gate="local",
            mofm_proximal=pull,
            mofm_factors="both",
            state_dir=str(own),
            clip_norm=0,
        )
        bank = load_file(tmp_path / f"run-{pull}" / "adapters" / "exits.safetensors")
        apart.append(
            sum(
                float(np.square(value - bank[key.removeprefix("local-")]).sum())
                for file in own.rglob("own-2.safetensors")
                for key, value in load_file(file).items()
            )
        )
    assert apart[1] < 0.5 * apart[0]


def test_a_run_learns_and_seeds_repeat(run_app: RunApp) -> None:
    """In three tiers with exits of their own."""
    values = {"method": "mofm", "rounds": 2, "stage_one_rounds": 0.5, "learning_rate": 0.01}
    first, again = run_app("first", **values), run_app("again", **values)
    assert first.summary["accuracy"]["mean"] > first.metrics[0]["accuracy-mean"]
    assert same(first.bank(), again.bank())
    assert first.summary["client-accuracy-of"] == again.summary["client-accuracy-of"]
    other = run_app("other", **values, seed=1)
    assert not same(first.bank(), other.bank())


def test_random_images_are_computed_anew(run_app: RunApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of these nothing can be kept, and the frozen expert sees the same ones as the local one."""
    kept: list[Any] = []
    get = FeatureCache.get

    def noted(self: FeatureCache, part: Any, transform: Any, depth: Any) -> Any:
        kept.append((transform.deterministic, get(self, part, transform, depth)))
        return kept[-1][1]

    monkeypatch.setattr(FeatureCache, "get", noted)
    run_app(**{**TWO_STAGES, "rounds": 2, "stage_one_rounds": 1}, augment="shift")
    assert {deterministic for deterministic, _ in kept} == {True, False}
    assert all((found is not None) == deterministic for deterministic, found in kept)


def test_stale_adapters_of_another_client_do_not_matter(
    run_app: RunApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the model of the process held before, in blocks that are not active too."""
    values = {**TWO_STAGES, "rounds": 3, "stage_one_rounds": 2, "activation_ramp": 1.0}
    clean = run_app("clean", **values)
    load = call.Call.load

    def poisoned(self: call.Call) -> training.Trainer:
        trainer = training.get_trainer(self.settings, self.node.num_classes, self.node.tier)
        for parameter in trainer.model.adapter_parameters().values():
            parameter.data.fill_(float("nan"))
        return load(self)

    monkeypatch.setattr(call.Call, "load", poisoned)
    assert same(clean.bank(), run_app("poisoned", **values).bank())


def test_personal_models_are_mixtures(run_app: RunApp, tmp_path: Path) -> None:
    """What a client exports after the last round answers as it scored."""
    found = run_app(
        **{**TWO_STAGES, "rounds": 2, "stage_one_rounds": 1},
        personalise_epochs=1,
        personal_dir=str(tmp_path / "own"),
    )
    assert found.summary["personalisation"]["after"]["mean"] > 0
    exported = load_exported(tmp_path / "own" / "3")
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    mixture: Any = exported.model(images)
    assert not torch.allclose(mixture.global_logits[6], mixture.local_logits[6], atol=1e-3)


def test_rounded_messages(run_app: RunApp) -> None:
    found = run_app(**TWO_STAGES, wire_dtype="int8")
    assert found.summary["accuracy"]["6"] > found.metrics[0]["accuracy-mean"]
    assert all(np.isfinite(value).all() for value in found.bank().values())


def test_a_client_that_lost_the_global_expert_gets_it_again(tiny_vit: Path, tmp_path: Path) -> None:
    """A node's state is emptied in round 3; it is refused once, and goes on in round 4."""
    settings = make_settings(
        tiny_vit, tmp_path / "run", rounds=4, stage_one_rounds=1, clients_per_round=6
    )

    def forgetful(message: Message, context: Context, call_next: Any) -> Message:
        is_training = message.metadata.message_type == "train"
        if is_training and message.content["config"]["server-round"] == 3 and context.node_id == 2:
            for name in list(context.state):
                del context.state[name]
        return call_next(message, context)

    run(InProcessGrid(create_client_app([forgetful]), 6, dict(settings.to_dict())), settings)
    rows = [row for row in Run(tmp_path / "run").clients if row["phase"] == "train"]
    refused = [(row["round"], row["client"]) for row in rows if row["refused"]]
    assert refused == [(3, "1")]
    assert {row["client"] for row in rows if row["round"] == 4 and not row["refused"]} >= {"1"}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"stage_one_rounds": 7}, "stage-one-rounds: 7 is neither a whole number up to the"),
        ({"stage_one_rounds": 2.5}, "stage-one-rounds: 2.5 is neither"),
        (
            {"activation": "plateau", "gate_share": 0},
            "activation: plateau needs a gate-share above 0",
        ),
    ],
)
def test_mistakes_get_a_sentence(run_app: RunApp, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        run_app(**{**TWO_STAGES, **values})
