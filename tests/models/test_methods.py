"""The matrix every method passes: frozen, truncated, recorded, saved and loaded."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models import (
    AdapterModel,
    AdapterSpec,
    Block,
    FixedFeaturesModel,
    InclusiveflModel,
    ModelError,
    ScaleflModel,
    build_model,
    load_backbone,
    parse_exits,
)
from models.registry import METHODS

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "exits": ("exits", {}),
    "exits+parallel": ("exits", {"adapter": AdapterSpec("parallel", 4)}),
    "exits+serial": ("exits", {"adapter": AdapterSpec("serial", 4)}),
    "exits+serial at the MLP": ("exits", {"adapter": AdapterSpec("serial", 4, targets=("mlp",))}),
    "exits+lora": ("exits", {"adapter": AdapterSpec("lora", 4)}),
    "exits+ssf": ("exits", {"adapter": AdapterSpec("ssf")}),
    "exits+full": ("exits", {"adapter": AdapterSpec("full")}),
    "depthfl": ("depthfl", {}),
    "exclusivefl": ("exclusivefl", {}),
    "inclusivefl": ("inclusivefl", {}),
    "inclusivefl+parallel": ("inclusivefl", {"adapter": AdapterSpec("parallel", 4)}),
    "layerwise+parallel": ("layerwise", {"adapter": AdapterSpec("parallel", 4)}),
    "layerwise+serial at the MLP": (
        "layerwise",
        {"adapter": AdapterSpec("serial", 4, targets=("mlp",))},
    ),
    "layerwise+full": ("layerwise", {"adapter": AdapterSpec("full")}),
    "mofm": ("mofm", {"mixing": True}),
    "mofm both factors": ("mofm", {"mixing": True, "factors": "both", "gate": "scalar"}),
    "scalefl": ("scalefl", {}),
    "scalefl+parallel": ("scalefl", {"adapter": AdapterSpec("parallel", 4)}),
    "scalefl+parallel at the MLP": (
        "scalefl",
        {"adapter": AdapterSpec("parallel", 4, targets=("mlp",))},
    ),
    "scalefl+lora": ("scalefl", {"adapter": AdapterSpec("lora", 4, targets=("q", "o", "fc1"))}),
    "scalefl+ssf": ("scalefl", {"adapter": AdapterSpec("ssf")}),
    "scalefl+full": ("scalefl", {"adapter": AdapterSpec("full")}),
    "reefl": ("reefl", {}),
    "reefl raw all": ("reefl", {"history": "raw", "teacher": "all", "start": "zero"}),
    "accumulator": ("accumulator", {}),
    "accumulator per-block": ("accumulator", {"sharing": "per-block"}),
    "accumulator raw full": ("accumulator", {"history": "raw", "size": "full"}),
    "accumulator attention": ("accumulator", {"tap": "attention"}),
    "accumulator+parallel": ("accumulator", {"adapter": AdapterSpec("parallel", 4)}),
    "accumulator+lora": (
        "accumulator",
        {"adapter": AdapterSpec("lora", 4, targets=("q", "o", "fc1")), "tap": "attention"},
    ),
    "accumulator+ssf": ("accumulator", {"adapter": AdapterSpec("ssf"), "sharing": "per-block"}),
    "accumulator+full": ("accumulator", {"adapter": AdapterSpec("full")}),
    "hyper-attention": ("hyper-attention", {"rank": 2}),
    "hyper-attention+ssf": ("hyper-attention", {"adapter": AdapterSpec("ssf")}),
    "local-attention+lora": ("local-attention", {"adapter": AdapterSpec("lora", 4)}),
    "shared-attention": ("shared-attention", {}),
    "projections": ("hyper-attention", {"form": "projections"}),
    "projections+full": (
        "hyper-attention",
        {"form": "projections", "adapter": AdapterSpec("full")},
    ),
}
EXITS = (2, 4, 6)


@pytest.fixture(params=VARIANTS)
def model(request: pytest.FixtureRequest, tiny_vit: Path) -> AdapterModel:
    """A model with all adapters away from their start."""
    method, options = VARIANTS[request.param]
    built = build_model(method, load_backbone(str(tiny_vit)), EXITS, 5, seed=3, **options)
    torch.manual_seed(1)
    for parameter in built.adapter_parameters().values():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return built


def images() -> torch.Tensor:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


LABELS = torch.tensor([0, 1, 2, 3])


def test_every_method_is_in_the_matrix() -> None:
    assert {method for method, _ in VARIANTS.values()} == set(METHODS)


@pytest.mark.parametrize("depth", [2, 3, 4, 5, 6])
def test_a_truncated_model_gives_the_same_logits(model: AdapterModel, depth: int) -> None:
    full, short = model(images()), model(images(), depth)
    within = [e for e in EXITS if e <= depth]
    # A device of InclusiveFL has the last exit alone.
    assert list(short) == (within[-1:] if isinstance(model, InclusiveflModel) else within)
    for exit_block, logits in short.items():
        assert torch.equal(logits, full[exit_block])


def adapted_blocks(model: AdapterModel) -> list[tuple[int, Block]]:
    parts = [model]
    if isinstance(model, ScaleflModel):
        parts = [sub_model.model for sub_model in model.sub_models]
    return [(n, part.block(n)) for part in parts for n in range(1, part.exits[-1] + 1)]


def test_blocks_above_the_last_exit_do_not_run(model: AdapterModel) -> None:
    ran: list[int] = []
    handles = [
        block.norm1.register_forward_hook(lambda *_, n=number: ran.append(n))
        for number, block in adapted_blocks(model)
    ]
    model(images(), depth=5)
    for handle in handles:
        handle.remove()
    assert sorted(set(ran)) == [1, 2, 3, 4]


def train_step(model: AdapterModel, units: list[str]) -> None:
    model.set_trained(units)
    trained = [p for p in model.adapter_parameters().values() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    model.loss(model(images()), LABELS).backward()
    optimizer.step()


def test_training_changes_the_plans_units_alone(model: AdapterModel) -> None:
    """Backbone and other units stay bit-identical and have no gradient; the plan's all move."""
    units = list(model.units)
    trained = units[:1] + units[-1:]
    backbone = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    before = {k: v.detach().clone() for k, v in model.adapter_parameters().items()}
    train_step(model, trained)
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(value, backbone[key])
    assert all(p.grad is None for p in model.backbone.parameters())
    moved = set()
    for key, value in model.adapter_parameters().items():
        unit = key.split(".")[0]
        if unit not in trained:
            assert torch.equal(value, before[key])
            assert value.grad is None
        elif not torch.equal(value, before[key]):
            moved.add(unit)
    assert moved == set(trained)


def recorded_blocks(model: AdapterModel, depth: int | None = None) -> list[int]:
    """Numbers of the blocks in which autograd records something."""
    found = []
    handles = [
        block.norm2.register_forward_hook(
            lambda _, __, out, n=number: found.append(n) if out.requires_grad else None
        )
        for number, block in adapted_blocks(model)
    ]
    model(images(), depth)
    for handle in handles:
        handle.remove()
    return found


def test_nothing_below_the_lowest_trained_unit_is_recorded(model: AdapterModel) -> None:
    """With blocks 5 and 6 trained, autograd sees nothing of blocks 1 to 4."""
    model.set_trained(["block5", "block6", "personal5", "personal6", "head6"])
    assert all(number >= 5 for number in recorded_blocks(model))


def test_frozen_exits_record_nothing_in_the_backbone(tiny_vit: Path) -> None:
    model = build_model("exits", load_backbone(str(tiny_vit)), EXITS, 5)
    model.set_trained(list(model.units))
    assert recorded_blocks(model) == []
    assert all(logits.requires_grad for logits in model(images()).values())


def test_save_and_load_give_the_same_logits(model: AdapterModel) -> None:
    arrays = model.adapter_arrays()
    expected = model(images())
    for parameter in model.adapter_parameters().values():
        torch.nn.init.zeros_(parameter)
    model.load_adapters(arrays)
    for exit_block, logits in model(images()).items():
        assert torch.equal(logits, expected[exit_block])


FIXED = ["exits", "depthfl", "exclusivefl", "inclusivefl", "scalefl"]


def has_fixed_features(model: AdapterModel) -> bool:
    return isinstance(model, FixedFeaturesModel) and model.has_fixed_features


def test_nothing_trained_acts_before_fixed_features(
    model: AdapterModel, request: pytest.FixtureRequest
) -> None:
    """A training step of every unit leaves what the heads read as it was, or it does not."""
    name = request.node.callspec.params["model"]
    assert has_fixed_features(model) == (name in FIXED)
    read: list[torch.Tensor] = []
    handles = [
        block.norm2.register_forward_hook(lambda _, __, out: read.append(out.detach()))
        for _, block in adapted_blocks(model)
    ]
    model(images())
    before, read[:] = list(read), []
    train_step(model, list(model.units))
    model(images())
    after = read[-len(before) :]
    for handle in handles:
        handle.remove()
    same = all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert same == has_fixed_features(model)


@pytest.mark.parametrize("model", FIXED, indirect=True)
@pytest.mark.parametrize("depth", [None, 2, 3, 6])
def test_predictions_from_fixed_features_are_the_models(
    model: FixedFeaturesModel, depth: int | None
) -> None:
    features, expected = model.features(images(), depth), model(images(), depth)
    assert not features.requires_grad
    found = model.predict_from(features, depth)
    assert list(found) == list(expected)
    for exit_block, logits in expected.items():
        assert torch.equal(found[exit_block], logits)


def test_copies_out_do_not_follow_later_training(model: AdapterModel) -> None:
    arrays = model.adapter_arrays()
    before = {key: value.copy() for key, value in arrays.items()}
    train_step(model, list(model.units))
    for key, value in arrays.items():
        np.testing.assert_array_equal(value, before[key])


def test_the_first_part_of_every_key_is_its_unit(model: AdapterModel) -> None:
    for key in model.adapter_parameters():
        unit = r"shared|embed|(local-)?(block[1-6]|head[246])|personal[1-6]|exit[24]|gate[246]"
        assert re.fullmatch(unit, key.split(".")[0])


def test_seeds_repeat(tiny_vit: Path) -> None:
    backbone = load_backbone(str(tiny_vit))
    first, again, other = (
        build_model("accumulator", backbone, EXITS, 5, seed=s).adapter_arrays() for s in (1, 1, 2)
    )
    assert all(np.array_equal(first[k], again[k]) for k in first)
    assert any(not np.array_equal(first[k], other[k]) for k in first)


def test_the_loss_is_the_sum_over_exits(tiny_vit: Path) -> None:
    """Two exits, two examples: -log softmax by hand."""
    model = build_model("exits", load_backbone(str(tiny_vit)), (2, 4), 2)
    logits = {2: torch.tensor([[0.0, 0.0], [0.0, 0.0]]), 4: torch.tensor([[1.0, 0.0], [1.0, 0.0]])}
    labels = torch.tensor([0, 1])
    expected = np.log(2) + (np.log(1 + np.exp(-1)) + np.log(1 + np.exp(1))) / 2
    assert model.loss(logits, labels).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("text", "depth", "exits"),
    [
        ("4", 12, (3, 6, 9, 12)),
        ("12", 12, tuple(range(1, 13))),
        ("3,6,12", 12, (3, 6, 12)),
        ("1", 6, (6,)),
    ],
)
def test_exits_are_a_number_or_blocks(text: str, depth: int, exits: tuple[int, ...]) -> None:
    assert parse_exits(text, depth) == exits


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("5", "5 exits do not divide 12 blocks evenly; use one of 1, 2, 3, 4, 6, 12"),
        ("0", "do not divide"),
        ("three", "neither a number of exits nor blocks"),
        ("6,3", "not ascending"),
        ("3,3", "not ascending"),
        ("0,6", "not ascending"),
        ("6,13", "there is no block 13; the backbone has 6 blocks"),
    ],
)
def test_wrong_exits_get_a_sentence(text: str, sentence: str, tiny_vit: Path) -> None:
    with pytest.raises(ModelError, match=sentence):
        build_model("exits", load_backbone(str(tiny_vit)), parse_exits(text, 12), 5)


def test_foreign_tensors_are_refused(tiny_vit: Path) -> None:
    model = build_model("exits", load_backbone(str(tiny_vit)), EXITS, 5)
    with pytest.raises(ModelError, match="no adapter tensor"):
        model.load_adapters({"block2.tail": np.zeros(1)})
    with pytest.raises(ModelError, match="has shape \\(1,\\)"):
        model.load_adapters({"block2.head.1.bias": np.zeros(1)})


def test_a_depth_without_an_exit_is_refused(tiny_vit: Path) -> None:
    model = build_model("exits", load_backbone(str(tiny_vit)), EXITS, 5)
    with pytest.raises(ModelError, match="a depth of 1 blocks reaches no exit"):
        model(images(), depth=1)
