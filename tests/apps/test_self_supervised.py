"""Runs without labels: what they learn, what they leave, and that no label is read."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import Run
from transformers import ViTConfig, ViTImageProcessor

from client_app.node import simulated_nodes
from client_app.training import Trainer
from data import ImageSet, Part
from models import AnytimeClassifier, load_exported
from server_app.downstream import Downstream
from settings import Settings, load_toml
from wiring import get_source, make_model

RunApp = Callable[..., Run]
SIMCLR: dict[str, Any] = {
    "method": "exits",
    "objective": "simclr",
    "adapter": "full",
    "exits": "2",
    "tiers": "all depth=6 share=1",
    "batch_size": 32,
    "downstream_epochs": 0,
    "downstream_images": 300,
}
SCRATCH: dict[str, Any] = {"backbone_start": "random", "tiers": "all depth=2 share=1"}


@pytest.fixture
def shape(tmp_path: Path) -> Path:
    """A ViT of two blocks without weights."""
    folder = tmp_path / "shape"
    ViTConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=192,
        image_size=16,
        patch_size=4,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    ).save_pretrained(folder)
    ViTImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder)
    return folder


def test_a_run_from_scratch_learns_without_labels(run_app: RunApp, shape: Path) -> None:
    """The loss falls, and a linear classifier on the result beats one on random weights."""
    run = run_app(
        **{**SIMCLR, **SCRATCH, "exits": "2,", "downstream_images": 100},
        backbone=str(shape),
        num_clients=2,
        clients_per_round=2,
        partition="iid",
        rounds=3,
        local_epochs=2,
        view_crop=0.5,
        simclr_temperature=0.2,
        learning_rate=0.001,
        schedule="constant",
    )
    losses = [row["train-loss"] for row in run.metrics if "train-loss" in row]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 0.5
    before, after = (row["accuracy-exit-2"] for row in (run.metrics[0], run.metrics[-1]))
    assert after > before + 0.08
    assert run.summary["downstream"] == {"linear": {"2": after}}


def test_seeds_repeat_and_differ(run_app: RunApp, shape: Path) -> None:
    values = {**SIMCLR, **SCRATCH, "rounds": 1, "backbone": str(shape), "downstream_images": 50}
    first, again = run_app("first", **values), run_app("again", **values)
    other = run_app("other", **values, seed=1)
    for key, value in first.bank().items():
        assert value.tobytes() == again.bank()[key].tobytes()
    assert first.bank()["block1.adapter.norm1.weight"].tobytes() != (
        other.bank()["block1.adapter.norm1.weight"].tobytes()
    )


def settings_of(run: Run, **changed: Any) -> Settings:
    return Settings.from_dict({**load_toml(run.output / "settings.toml"), **changed})


def test_a_tier_trains_its_blocks_and_the_projection_head(run_app: RunApp) -> None:
    """The last two of four blocks, and the head: all else stays as the backbone has it."""
    tiers = "all depth=4 trained=2 share=1"
    run = run_app(**{**SIMCLR, "tiers": tiers, "exits": "2,4", "rounds": 1})
    start = make_model(settings_of(run, objective="supervised"), 10).adapter_arrays()
    moved = {
        key.split(".")[0]
        for key, value in run.bank().items()
        if ".adapter." in key and value.tobytes() != start[key].tobytes()
    }
    assert moved == {"block3", "block4"}
    row = next(row for row in run.clients if row["phase"] == "train")
    head = 24 * 24 + 131 * 24 + 128
    block = sum(v.size for k, v in run.bank().items() if k.startswith("block3.adapter."))
    assert run.summary["trainable-parameters"] == {"all": 2 * block + head}
    assert 0 <= row["bytes-up"] - 4 * (2 * block + head) < 3000
    assert not [row for row in run.clients if row["phase"] == "evaluate"]


def test_labels_are_not_read(tiny_vit: Path) -> None:
    """With the labels of other images a client's training gives the same bits."""
    settings = Settings.from_dict(
        {key.replace("_", "-"): value for key, value in SIMCLR.items()}
        | {"backbone": str(tiny_vit), "num-clients": 2, "clients-per-round": 1}
    )
    node = simulated_nodes(settings)[0]
    images = node.train.images
    mixed = np.random.default_rng(0).permutation(images.labels)
    other = ImageSet(images.images, mixed, images.classes)
    found = []
    for part in (node.train, Part(other, node.train.positions)):
        model = make_model(settings, 10)
        trainer = Trainer(model, settings)
        result = trainer.train(
            list(model.units),
            6,
            part,
            node.train_transform,
            server_round=1,
            client_key="0",
            epochs=1,
        )
        found.append((model.adapter_arrays(), result.metrics["train-loss"]))
    (plain, loss), (shuffled, same_loss) = found
    assert loss == same_loss
    assert not (node.train.labels == mixed[node.train.positions]).all()
    start = make_model(settings, 10).adapter_arrays()
    for key, value in plain.items():
        assert value.tobytes() == shuffled[key].tobytes()
    assert plain["block1.adapter.norm1.weight"].tobytes() != (
        start["block1.adapter.norm1.weight"].tobytes()
    )


def test_what_a_run_leaves_answers_with_the_accuracy_it_states(
    run_app: RunApp, shape: Path
) -> None:
    """The exported blocks and linear heads on the central test set; fine-tuning is not in them."""
    values = {**SIMCLR, **SCRATCH, "downstream_epochs": 1, "rounds": 1, "seed": 4}
    run = run_app(**values, backbone=str(shape))
    description = json.loads((run.output / "adapters" / "adapters.json").read_text())
    assert (description["method"], description["backbone-seed"]) == ("exits", 4)
    test = get_source(settings_of(run), "").test
    assert test is not None
    classifier = AnytimeClassifier.load(run.output / "adapters")
    for block in (1, 2):
        answers = [int(p.name) for p in classifier.predict(test.images, exit=block)]
        share = float(np.mean(np.array(answers) == test.labels))
        assert share == pytest.approx(run.summary["downstream"]["linear"][str(block)], abs=0.01)
    assert 0 < run.summary["downstream"]["fine-tune"] <= 1
    assert run.summary["accuracy"]["2"] == run.summary["downstream"]["linear"]["2"]
    assert load_exported(run.output / "adapters").model.exits == (1, 2)


def test_fine_tuning_trains_every_block_and_learns(tiny_vit: Path) -> None:
    values = {**SIMCLR, "downstream_images": 0, "downstream_epochs": 4, "downstream_rate": 0.002}
    settings = Settings.from_dict(
        {key.replace("_", "-"): value for key, value in values.items()}
        | {"backbone": str(tiny_vit)}
    )
    bank = make_model(settings, 10).adapter_arrays()
    downstream = Downstream(settings, get_source(settings, ""), 10)
    tuned = downstream.fine_tune(bank)
    assert tuned is not None
    assert tuned > 0.5
    assert downstream.fine_tune(bank) == tuned  # it starts from the bank each time


def test_a_server_without_labels_fits_nothing(tiny_vit: Path) -> None:
    settings = Settings.from_dict(
        {key.replace("_", "-"): value for key, value in SIMCLR.items()}
        | {"backbone": str(tiny_vit), "downstream-epochs": 3}
    )
    bank = make_model(settings, 10).adapter_arrays()
    source = get_source(settings, "")
    without = Downstream(settings, None, 10)
    start = without.model.adapter_arrays()
    without.take({key: value + 1 for key, value in bank.items()})
    for key, value in without.model.adapter_arrays().items():
        expected = start[key] if ".head." in key else bank[key] + 1
        assert value.tobytes() == expected.tobytes()
    assert without.fine_tune(bank) is None
    untested = Downstream(settings, dataclasses.replace(source, test=None), 10)
    assert untested.fine_tune(bank) is None


def test_the_labelled_images_are_as_many_as_the_settings_say(tiny_vit: Path) -> None:
    for count, expected in ((7, 7), (0, 1437), (10**6, 1437)):
        settings = Settings.from_dict(
            {key.replace("_", "-"): value for key, value in SIMCLR.items()}
            | {"backbone": str(tiny_vit), "downstream-images": count}
        )
        labelled = Downstream(settings, get_source(settings, ""), 10).labelled
        assert labelled is not None
        assert len(set(labelled.positions.tolist())) == len(labelled) == expected
