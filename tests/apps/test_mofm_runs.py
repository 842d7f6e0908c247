"""Runs in two stages: what is trained, what travels and stays, and going on after a stop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from support import Run
from two_stages import ONE_TIER, TWO_STAGES, make_settings, same

import client_app.training as training
from models import load_exported
from run_simulation import run_in_process
from settings import Settings
from wiring import make_model

RunApp = Callable[..., Any]
HEAD = 2 * 24 + 24 * 10 + 10
GATE = 5 * 24 + 2 * 24 * 4 + 4 + 2
BLOCKS = {1: 2, 2: 4, 3: 6, 4: 6}  # active, by round


@pytest.fixture(scope="module")
def staged(tiny_vit: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run in two stages, with all that it leaves, for several tests to look at."""
    output = tmp_path_factory.mktemp("staged")
    settings = make_settings(
        tiny_vit, output / "run", evaluate_every=2, test_pooled=True, state_dir=str(output / "own")
    )
    run_in_process(settings)
    return Run(output / "run")


def check_bytes(found: Run, per_block: int) -> None:
    """Only active blocks and the head travel; then the gate alone."""
    for row in found.metrics[1:]:
        stage_one = {"head6", *(f"block{b}" for b in range(7 - BLOCKS.get(row["round"], 0), 7))}
        assert set(row["coverage"]) == (stage_one if row["round"] <= 4 else {"gate6"})
        assert row["figures"]["active-blocks"] == BLOCKS.get(row["round"], 6)
    sent = 0
    for row in found.clients:
        if row["phase"] == "train":
            number = row["round"]
            size = BLOCKS[number] * per_block + HEAD if number <= 4 else GATE
            sent += 4 * size
            assert 4 * size < row["bytes-up"] < 4 * size + 2500
    assert found.summary["bytes"]["minimum-up"] == sent
    assert found.summary["trainable-parameters"] == {"all": 6 * per_block + HEAD}


def test_only_what_is_active_travels(staged: Run) -> None:
    """2 r D numbers in a block."""
    check_bytes(staged, 2 * 24 * 4)


def test_with_both_factors_twice_as_much_travels(run_app: RunApp) -> None:
    check_bytes(run_app(**TWO_STAGES, mofm_factors="both"), 4 * 24 * 4)


def test_the_global_expert_is_sent_once_in_stage_two(run_app: RunApp) -> None:
    """To a client that comes for the first time; who returns gets the gate alone."""
    found = run_app(**{**TWO_STAGES, "evaluate_every": 100, "stage_one_rounds": 1})
    whole, seen = 4 * (6 * 192 + HEAD), set()
    for row in found.clients:
        if row["phase"] == "train" and row["round"] > 1:
            expected = 4 * GATE + (0 if row["client"] in seen else whole)
            assert expected < row["bytes-down"] < expected + 4500
            seen.add(row["client"])
    assert len(seen) > 3  # somebody came again, somebody for the first time


def test_nothing_inactive_has_a_gradient_or_a_place_in_an_optimiser(
    run_app: RunApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[set[str]] = []
    make, train = training.make_optimizer, training.Trainer.train
    clip = torch.nn.utils.clip_grad_norm_

    def noted(settings: Settings, trained: dict[str, Any]) -> torch.optim.Optimizer:
        moved.append({key.split(".")[0] for key in trained})
        return make(settings, trained)

    def checked(self: training.Trainer, units: list[str], *args: Any, **options: Any) -> Any:
        def look(trained: Any, norm: float) -> torch.Tensor:
            for key, parameter in self.model.adapter_parameters().items():
                assert (parameter.grad is not None) == any(parameter is p for p in trained), key
                assert parameter.grad is None or key.split(".")[0] in units
            return clip(trained, norm)

        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", look)
        return train(self, units, *args, **options)

    monkeypatch.setattr(training, "make_optimizer", noted)
    monkeypatch.setattr(training.Trainer, "train", checked)
    run_app(**TWO_STAGES)
    local = {"local-head6", *(f"local-block{b}" for b in range(1, 7))}
    stage_one = [{"head6", *(f"block{b}" for b in range(7 - k, 7))} for k in (2, 4, 6)]
    assert moved == [*stage_one, local, {"gate6"}]


def test_all_blocks_from_the_start_are_plain_averaging(run_app: RunApp) -> None:
    """The bits of `exits` with LoRA."""
    lora = {"adapter": "lora", "adapter_rank": 4, "adapter_alpha": 8.0, "clip_norm": 0}
    common = {**lora, "tiers": ONE_TIER, "exits": "1", "rounds": 3}
    plain = run_app("plain", method="exits", **common).bank()
    staged = run_app("mofm", method="mofm", activation="all", stage_one_rounds=3, **common).bank()
    for key, value in plain.items():
        mine = staged[key.replace("block6.head", "head6.head")]
        assert mine.tobytes() == value.tobytes(), key


def test_a_block_that_becomes_active_changes_no_answer(run_app: RunApp) -> None:
    """After round 2 the bank of 6 blocks is that of the 4 active ones."""
    values = {**TWO_STAGES, "rounds": 3, "stage_one_rounds": 3, "activation_ramp": 1.0}
    found = run_app(**values)
    bank = load_file(found.output / "checkpoint" / "round-00002" / "bank.safetensors")
    moved = {key.split(".")[0] for key, value in bank.items() if key.endswith(".B") and value.any()}
    assert moved == {f"block{b}" for b in range(3, 7)}
    exported = load_exported(found.output / "adapters").model
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    exported.load_adapters(bank)
    whole = exported(images)[6]
    backbone = exported.backbone
    tokens = backbone.embed(images)
    for number, block in enumerate(backbone.blocks, 1):
        tokens = (exported.block(number) if number >= 3 else block)(tokens)
    assert torch.allclose(exported.part("head6", "head")(tokens[:, 0]), whole, atol=1e-6)


def test_a_block_that_nobody_trains_keeps_its_bits(run_app: RunApp) -> None:
    """Two tiers train at most one and three blocks of the four they run."""
    tiers = "weak depth=4 trained=1 share=0.5; fair depth=4 trained=3 share=0.5"
    values = {**TWO_STAGES, "tiers": tiers, "exits": "2,4,6", "activation": "all"}
    start = run_app("start", **{**values, "learning_rate": 1e-12}).bank()
    end = run_app("end", **values).bank()
    for key, value in end.items():
        if key.startswith(("block", "head")):
            unmoved = value.tobytes() == start[key].tobytes()
            assert unmoved == key.startswith(("block1", "block5", "block6", "head6")), key


def test_the_local_expert_stays_on_its_client(staged: Run, tiny_vit: Path) -> None:
    """In files of its own, and nowhere else; the server's own units of it stay as they were."""
    files = list((staged.output.parent / "own").rglob("own-*.safetensors"))
    assert files
    for file in files:
        names = {key.split(".")[0] for key in load_file(file)}
        assert names == {"local-head6", *(f"local-block{b}" for b in range(1, 7))}
    initial = make_model(make_settings(tiny_vit, staged.output), 10).adapter_arrays()
    for key, value in staged.bank().items():
        assert not key.startswith("local-") or value.tobytes() == initial[key].tobytes(), key


def test_each_expert_is_scored(staged: Run) -> None:
    rows = [row for row in staged.clients if row["phase"] == "evaluate"]
    assert not any("global-accuracy" in row for row in rows if row["round"] <= 4)
    last = [row for row in rows if row["round"] == 6]
    assert {0 < row["local-weight"] < 1 for row in last} == {True}
    scored = staged.summary["client-accuracy-of"]
    names = ["global", "local", "routed"]
    assert list(scored) == [*names, "pooled", *(f"pooled-{name}" for name in names)]
    mean = sum(row["global-accuracy"] for row in last) / len(last)
    assert scored["global"]["mean"] == pytest.approx(mean)
    # All clients score one global expert on the same images as the server does.
    central = staged.summary["accuracy"]["6"]
    assert scored["pooled-global"]["mean"] == pytest.approx(central)
    assert scored["pooled-global"]["worst-decile"] == pytest.approx(central)


def test_who_never_trained_answers_with_the_global_expert(staged: Run) -> None:
    trained = {r["client"] for r in staged.clients if r["phase"] == "train" and r["round"] > 4}
    others = [
        row
        for row in staged.clients
        if row["phase"] == "evaluate" and row["round"] == 6 and row["client"] not in trained
    ]
    assert others
    for row in others:
        assert row["accuracy"] == row["global-accuracy"] == row["local-accuracy"]
        assert row["accuracy"] == row["routed-accuracy"]


@pytest.mark.parametrize("stop", [2, 4, 5])
def test_a_resumed_run_ends_with_the_same_bits(run_app: RunApp, tmp_path: Path, stop: int) -> None:
    """After a round of either stage, with clients that are seen first and again in stage 2."""
    values = {
        **TWO_STAGES,
        "clients_per_round": 2,
        "activation": "plateau",
        "activation_patience": 1,
        "activation_threshold": 1.0,
        "evaluate_every": 3,
        "state_dir": str(tmp_path / "own"),
    }
    whole = run_app("whole", **values)
    rest = run_app("rest", **values, resume=str(interrupted(run_app, values, stop)))
    assert same(rest.bank(), whole.bank())
    assert rest.summary["client-accuracy"] == whole.summary["client-accuracy"]
    assert rest.summary["client-accuracy-of"] == whole.summary["client-accuracy-of"]
    active = [row["figures"]["active-blocks"] for row in rest.metrics[1:]]
    assert active == [1, 1, 2, 3, 3, 3]  # a rise after stage 1 would be of no use


def interrupted(run_app: RunApp, values: dict[str, Any], stop: int) -> Path:
    """Run until a round and end there by an error."""
    import server_app.checkpoint as checkpoint

    write = checkpoint.Checkpoints.write

    def write_and_stop(self: Any, strategy: Any, server_round: int) -> None:
        write(self, strategy, server_round)
        if server_round == stop:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint.Checkpoints, "write", write_and_stop)
        with pytest.raises(KeyboardInterrupt):
            run_app("until", **values)
    (folder,) = (path for path in Path(values["state_dir"]).parent.glob("until"))
    return folder


def test_kept_features_give_the_bank_of_a_run_without(run_app: RunApp, staged: Run) -> None:
    anew = run_app(**TWO_STAGES, cache_megabytes=0, evaluate_every=2).bank()
    for key, value in staged.bank().items():
        np.testing.assert_allclose(anew[key], value, atol=1e-4)
