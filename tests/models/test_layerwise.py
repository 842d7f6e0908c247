"""The model that is trained layer by layer: it starts as the backbone, and lacks what it lacks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models import AdapterSpec, LayerwiseModel, ModelError, build_model, load_backbone

EXITS = (2, 4, 6)
KINDS = {
    "parallel": AdapterSpec("parallel", 4),
    "serial": AdapterSpec("serial", 4),
    "serial at the MLP": AdapterSpec("serial", 4, targets=("mlp",)),
    "lora": AdapterSpec("lora", 4),
    "ssf": AdapterSpec("ssf"),
    "full": AdapterSpec("full"),
}


def images() -> torch.Tensor:
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def make(tiny_vit: Path, kind: str) -> LayerwiseModel:
    model = build_model("layerwise", load_backbone(str(tiny_vit)), EXITS, 5, adapter=KINDS[kind])
    assert isinstance(model, LayerwiseModel)
    return model


def tokens(model: LayerwiseModel) -> torch.Tensor:
    state, _ = model.lead(model.begin(images()), 1, 7)
    return state[0]


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_start_as_nothing(tiny_vit: Path, kind: str) -> None:
    """The tokens of a new model are those of the backbone, bit for bit."""
    model = make(tiny_vit, kind)
    expected = model.backbone.embed(images())
    for block in model.backbone.blocks:
        expected = block(expected)
    assert torch.equal(tokens(model), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_that_is_missing_is_the_backbones(tiny_vit: Path, kind: str) -> None:
    model = make(tiny_vit, kind)
    expected = tokens(model)
    for key, parameter in model.adapter_parameters().items():
        if not key.startswith("head"):
            parameter.data.fill_(float("nan"))
    assert tokens(model).isnan().all()
    model.missing = frozenset(unit for unit in model.units if not unit.startswith("head"))
    assert torch.equal(tokens(model), expected)


def test_an_exit_without_its_head_is_silent(tiny_vit: Path) -> None:
    model = make(tiny_vit, "parallel")
    expected = model(images())
    model.missing = frozenset({"head2", "head6"})
    found = model(images())
    assert list(found) == [4]
    assert torch.equal(found[4], expected[4])


def test_it_is_the_model_of_exits_with_heads_of_their_own(tiny_vit: Path) -> None:
    """Trained end to end it does what `exits` with the same adapters does (test 8)."""
    backbone, spec = load_backbone(str(tiny_vit)), KINDS["parallel"]
    model = make(tiny_vit, "parallel")
    twin = build_model("exits", backbone, EXITS, 5, adapter=spec)
    twin.load_adapters(
        {key.replace("head", "block", 1): v for key, v in model.adapter_arrays().items()}
    )
    labels = torch.tensor([0, 1, 2])
    for each in (model, twin):
        each.set_trained(list(each.units))
        optimizer = torch.optim.SGD(each.adapter_parameters().values(), lr=0.5)
        for _ in range(3):
            optimizer.zero_grad()
            each.loss(each(images()), labels).backward()
            optimizer.step()
    found = {k.replace("head", "block", 1): v for k, v in model.adapter_parameters().items()}
    expected = twin.adapter_parameters()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_without_an_adapter_there_is_nothing_to_train(tiny_vit: Path) -> None:
    with pytest.raises(ModelError, match="adapter: method layerwise trains what is inside"):
        build_model("layerwise", load_backbone(str(tiny_vit)), EXITS, 5)


def test_a_skipped_block_is_skipped_in_training_alone(tiny_vit: Path) -> None:
    model = make(tiny_vit, "parallel")
    (state,) = model.begin(images())
    for number in (1, 2, 3, 5):
        state = model.block(number)(state)
    whole = model.eval()(images())
    model.skipped = frozenset({4, 6})
    found = model.train()(images())
    assert list(found) == [2]
    again = model.eval()(images())
    assert all(torch.equal(again[e], whole[e]) for e in EXITS)
    model.skipped = frozenset({4})
    found = model.train()(images())
    last = model.block(6)(state)
    assert torch.equal(found[6], model.head(6)(last[:, 0]))
