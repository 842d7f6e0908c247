"""What enters the lowest trained block is kept: the same bits, and each image computed once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokens import ROW, SHIFTED, counted, make_part, same_bits, train, trainer_of

from client_app.training import make_predictor
from data import BatchTransform, Part, StoredViews, ViewTransform
from models import AdapterSpec, build_model, load_backbone


@pytest.fixture
def part() -> Part:
    """Forty images."""
    return make_part()


# Of a block that has this, all but the bottleneck runs once, too, under `layerwise` and SimCLR.
BEHIND = {"adapter": "serial", "adapter_targets": "mlp"}
# Methods, and the units that are trained.
VARIANTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "exits": ({}, ["block5", "block6"]),
    "lora": ({"adapter": "lora"}, ["block4", "block5", "block6"]),
    "full": ({"adapter": "full"}, ["block6"]),
    # Exits below teach and learn.
    "depthfl": ({"method": "depthfl", "depthfl_ramp_rounds": 0}, ["block5", "block6"]),
    "inclusivefl": ({"method": "inclusivefl"}, ["block5", "block6"]),
    "scalefl": ({"method": "scalefl"}, ["block5", "block6"]),
    "layerwise": ({"method": "layerwise"}, ["block5", "head6"]),
    "behind the MLP": ({"method": "layerwise", **BEHIND}, ["block5", "head6"]),
    # The head is in the same unit, and reads what comes after the bottleneck.
    "exits behind the MLP": (BEHIND, ["block5", "block6"]),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_gives_the_same_bits(variant: str, tiny_vit: Path, part: Part) -> None:
    """And every image goes through the blocks below once, instead of once an epoch."""
    values, units = VARIANTS[variant]
    kept = trainer_of(tiny_vit, **values)
    anew = trainer_of(tiny_vit, cache_megabytes=0, **values)
    if variant == "scalefl":  # a tier has a model of its own
        for trainer in (kept, anew):
            options = {"own": 3, "adapter": AdapterSpec("parallel", 4)}
            model = build_model("scalefl", load_backbone(str(tiny_vit)), (2, 4, 6), 10, **options)
            trainer.model, trainer.predictor = model, make_predictor(model, trainer.settings)
    with counted(kept.model) as passes:
        first = train(kept, part, units=units)
    assert first == train(anew, part, units=units)
    assert same_bits(kept.model, anew.model)
    lowest = min(int(unit[-1]) for unit in units) + (variant == "behind the MLP")
    assert all(passes[b] == (40 if b < lowest else 120) for b in range(1, 7))


@pytest.mark.parametrize(
    "values",
    [{"adapter": "none"}, {"method": "accumulator"}, {"method": "reefl", "reefl_ramp_rounds": 0}],
)
def test_where_the_first_block_is_trained_or_none_nothing_is_kept(
    values: dict[str, Any], tiny_vit: Path, part: Part, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = trainer_of(tiny_vit, **values)
    train(trainer, part, units=[u for u in trainer.model.units if u in ("shared", "block6")])
    assert trainer.predictor.tokens is None or trainer.predictor.tokens.size == 0
    assert "What enters block" not in caplog.text


def test_later_rounds_find_what_lasts(tiny_vit: Path, part: Part) -> None:
    trainer = trainer_of(tiny_vit)
    with counted(trainer.model) as passes:
        for number in (1, 2, 3):
            train(trainer, part, epochs=1, server_round=number, lasting=True)
    assert (passes[4], passes[5]) == (40, 120)
    assert trainer.predictor.tokens.size == 40 * (ROW + 2 * 4 * 10)  # and logits of two exits


def test_what_does_not_last_is_let_go(tiny_vit: Path, part: Part) -> None:
    """One epoch has no use for it, and after more the room is free again."""
    trainer = trainer_of(tiny_vit)
    with counted(trainer.model) as passes:
        train(trainer, part, epochs=1)
        train(trainer, part, epochs=2)
    assert passes[1] == 80
    assert trainer.predictor.tokens.size == 0


def test_another_value_below_makes_them_stale(tiny_vit: Path, part: Part) -> None:
    kept, anew = trainer_of(tiny_vit), trainer_of(tiny_vit, cache_megabytes=0)
    for trainer in (anew, kept):
        with counted(kept.model) as passes:
            train(trainer, part, lasting=True)
            trainer.model.adapter_parameters()["block3.adapter.mlp.up.bias"].data += 0.5
            train(trainer, part, lasting=True, server_round=2)
    assert passes[1] == 80
    assert same_bits(kept.model, anew.model)


def test_values_of_what_is_missing_are_not_looked_at(tiny_vit: Path, part: Part) -> None:
    """Other messages, as of an evaluation, leave the head of a finished block in the process."""
    trainer = trainer_of(tiny_vit, method="layerwise", exits="6")
    trainer.model.missing = frozenset({"head1"})
    with counted(trainer.model) as passes:
        for number in (1, 2):
            train(trainer, part, units=["block2", "head2"], server_round=number, lasting=True)
            trainer.model.adapter_parameters()["head1.head.1.bias"].data += 0.5
        assert passes[1] == 40
        trainer.model.missing = frozenset()
        train(trainer, part, units=["block2", "head2"], server_round=3, lasting=True)
    assert passes[1] == 80


# A phase change.


# Three epochs where a block is trained; then once more, as finished; block 4 is passed once.
@pytest.mark.parametrize(
    ("values", "expected"),
    [({}, [40, 120 + 40, 120 + 40, 40, 120]), (BEHIND, [40, 40, 40, 40, 40])],
)
def test_tokens_are_pushed_through_the_blocks_between(
    values: dict[str, Any], expected: list[int], tiny_vit: Path, part: Part
) -> None:
    """Phases of one block upwards: no image goes through a finished block twice."""
    kept = trainer_of(tiny_vit, method="layerwise", exits="6", **values)
    anew = trainer_of(tiny_vit, method="layerwise", exits="6", cache_megabytes=0, **values)
    for trainer in (anew, kept):
        with counted(kept.model) as passes:
            for number in (2, 3, 5):
                units = [f"block{number}", f"head{number}"]
                trainer.model.missing = frozenset(f"head{b}" for b in range(1, 7) if b != number)
                train(trainer, part, units=units, depth=number, server_round=number, lasting=True)
    assert same_bits(kept.model, anew.model)
    assert [passes[n] for n in range(1, 6)] == expected


def test_behind_the_mlp_two_tensors_are_kept(tiny_vit: Path, part: Part) -> None:
    """Of each image; what enters the block is kept no more."""
    trainer = trainer_of(tiny_vit, method="layerwise", exits="6,", **BEHIND)
    train(trainer, part, units=["block5", "head6"], lasting=True)
    assert trainer.predictor.tokens.size == 40 * 2 * ROW


def test_going_down_computes_anew(tiny_vit: Path, part: Part) -> None:
    kept, anew = trainer_of(tiny_vit), trainer_of(tiny_vit, cache_megabytes=0)
    for trainer in (anew, kept):
        with counted(kept.model) as passes:
            for number in (6, 5, 3):
                train(trainer, part, units=[f"block{number}"], server_round=number, lasting=True)
    assert passes[1] == 120
    assert same_bits(kept.model, anew.model)


def test_exits_on_the_way_are_not_forgotten(tiny_vit: Path, part: Part) -> None:
    """There is no room for their logits where the tokens were: all is computed anew."""
    kept, anew = trainer_of(tiny_vit), trainer_of(tiny_vit, cache_megabytes=0)
    results = [
        [train(trainer, part, units=[f"block{b}"], lasting=True) for b in (2, 3, 4, 6)]
        for trainer in (kept, anew)
    ]
    assert results[0] == results[1]
    assert same_bits(kept.model, anew.model)


# What cannot be kept.


def test_random_images_are_refused_with_the_reason(
    tiny_vit: Path, part: Part, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = trainer_of(tiny_vit)
    with caplog.at_level("INFO", logger="flwr"), counted(trainer.model) as passes:
        for number in (1, 2):
            train(trainer, part, SHIFTED, server_round=number, lasting=True)
    assert passes[1] == 240
    sentence = "What enters block 5 is computed in every epoch: the transform is random (augment)"
    assert caplog.text.count(sentence) == 1


def test_drawn_blocks_are_refused_with_the_reason(
    tiny_vit: Path, part: Part, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = trainer_of(tiny_vit)
    with caplog.at_level("INFO", logger="flwr"), counted(trainer.model) as passes:
        train(trainer, part, skipped=[3], lasting=True)
        assert (passes[1], passes[3]) == (120, 0)
        train(trainer, part, lasting=True)
        assert (passes[1], passes[3]) == (160, 40)
    assert caplog.text.count("every epoch: blocks are drawn for each round (depth-budget).") == 1


# Views.


def test_views_repeat_and_differ(part: Part) -> None:
    views = StoredViews(SHIFTED, 3, seed=5)
    images, places = part.images.images[:8], np.arange(8)
    state = torch.get_rng_state()
    first = views(images, places, np.full(8, 1))
    torch.rand(9)
    assert torch.equal(views(images[4:6], places[4:6], np.full(2, 1)), first[4:6])
    assert not torch.equal(views(images, places, np.full(8, 2)), first)
    assert not torch.equal(StoredViews(SHIFTED, 3, seed=6)(images, places, np.full(8, 1)), first)
    torch.set_rng_state(state)
    views(images, places, np.full(8, 0))
    assert torch.equal(torch.get_rng_state(), state)


def test_pairs_of_views_come_first_ones_first(part: Part) -> None:
    pairs = StoredViews(ViewTransform(16, [0.5], [0.25]), 2, seed=0)
    images, places, chosen = part.images.images[:3], np.arange(3), np.array([0, 1, 1])
    found = pairs(images, places, chosen)
    assert found.shape == (6, 3, 16, 16)
    for i in range(3):
        own = pairs(images[i : i + 1], places[i : i + 1], chosen[i : i + 1])
        assert torch.equal(found[[i, 3 + i]], own)


@pytest.mark.parametrize(
    ("objective", "values"), [("supervised", {}), ("simclr", {}), ("simclr", BEHIND)]
)
def test_training_on_stored_views_gives_the_same_bits(
    objective: str, values: dict[str, Any], tiny_vit: Path, part: Part
) -> None:
    """Two views of 40 images: at most 80 pass the blocks below, or 80 pairs."""
    transform: BatchTransform = SHIFTED
    units = ["block5", "block6"]
    if objective == "simclr":
        transform, units = ViewTransform(16, [0.5], [0.25]), [*units, "projection"]
    values = {"objective": objective, "stored_views": 2, "augment": "shift", **values}
    kept = trainer_of(tiny_vit, **values)
    anew = trainer_of(tiny_vit, **values, cache_megabytes=0)
    views = StoredViews(transform, 2, seed=0)
    with counted(kept.model) as passes:
        result = train(kept, part, views, units=units, epochs=6)
    assert result == train(anew, part, views, units=units, epochs=6)
    assert same_bits(kept.model, anew.model)
    copies = 2 if objective == "simclr" else 1
    assert 40 * copies < passes[1] <= 80 * copies
    assert passes[6] == 6 * 40 * copies
    assert passes[5] == (passes[1] if "adapter" in values else 6 * 40 * copies)
