"""Every adapter kind under every method: truncated, trained, exported."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from models import (
    ADAPTERS,
    METHODS,
    AdapterModel,
    AdapterSpec,
    build_model,
    load_backbone,
    load_exported,
    write_exported,
)

COMBINATIONS = [
    (method, kind, "")
    for method in METHODS
    for kind in ADAPTERS
    if (method, kind) != ("layerwise", "none")  # refused: nothing would be trained
]
# Whole personal projections take the place of weights that adapters change.
COMBINATIONS += [("hyper-attention", kind, "projections") for kind in ADAPTERS]


def options_of(combination: tuple[str, str, str]) -> dict[str, Any]:
    # The mixture has all parts of `mofm` in its answers.
    mixing = {"mixing": True} if combination[0] == "mofm" else {}
    return mixing | ({"form": combination[2]} if combination[2] else {})


@pytest.fixture(params=COMBINATIONS, ids=lambda parts: "+".join(filter(None, parts)))
def model(request: pytest.FixtureRequest, tiny_vit: Path) -> AdapterModel:
    """A model with all adapters away from their start."""
    method, kind, _ = request.param
    options = options_of(request.param)
    spec = AdapterSpec(kind, 4)
    built = build_model(method, load_backbone(str(tiny_vit)), (2, 4, 6), 3, adapter=spec, **options)
    generator = torch.Generator().manual_seed(1)
    for tensor in built.adapter_parameters().values():
        tensor.data += 0.1 * torch.randn(tensor.shape, generator=generator)
    return built.eval()


def images() -> torch.Tensor:
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def describe(
    combination: tuple[str, str, str], model: AdapterModel, exits: tuple[int, ...], backbone: Path
) -> dict[str, Any]:
    """What an export says of a model with these exits."""
    return {
        "method": combination[0],
        "backbone": str(backbone),
        "image-size": 16,
        "exits": ",".join(map(str, exits)) + ",",
        "adapter": asdict(model.adapter),
        "options": {**options_of(combination), **model.own_options},
        "classes": ["cat", "dog", "elk"],
    }


@torch.no_grad()
def test_truncated_and_exported_models_give_the_same_logits(
    model: AdapterModel, tiny_vit: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    full = model(images())
    for depth in (2, 5):
        short = model(images(), depth)
        assert max(short) == depth - depth % 2
        for e, logits in short.items():
            assert torch.equal(logits, full[e])
    combination = request.node.callspec.params["model"]
    description = describe(combination, model, model.exits, tiny_vit)
    write_exported(tmp_path, model.adapter_arrays(), description, {})
    read = load_exported(tmp_path).model(images())
    for e, logits in full.items():
        assert torch.equal(read[e], logits)


def block_of(unit: str) -> int:
    """The block of ``block3`` or ``local-head3``; 0 for ``shared`` and ``embed``."""
    found = re.fullmatch(
        r"(shared|(?:local-)?embed)|(?:local-)?(block|personal|head|gate)(\d)", unit
    )
    assert found, unit
    return int(found[3] or 0)


@torch.no_grad()
@pytest.mark.parametrize("depth", [3, 4])
def test_a_devices_exported_model_gives_the_logits_it_had(
    model: AdapterModel, depth: int, tiny_vit: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Built anew from what `ending_at` copies out, it holds no block above its last exit."""
    combination = request.node.callspec.params["model"]
    own = options_of(combination) | type(model).tier_options(model.exits, depth)
    device = build_model(
        combination[0], load_backbone(str(tiny_vit)), (2, 4, 6), 3, adapter=model.adapter, **own
    )
    bank = model.adapter_arrays()
    device.load_adapters(
        {
            key: bank[key][tuple(map(slice, tensor.shape))]
            for key, tensor in device.adapter_parameters().items()
        }
    )
    expected = device.eval()(images(), depth)
    exits, tensors = device.ending_at(depth)
    last = 2 * (depth // 2)
    assert all(block_of(key.split(".")[0]) <= last for key in tensors)
    write_exported(tmp_path, tensors, describe(combination, device, exits, tiny_vit), {})
    exported = load_exported(tmp_path).model
    assert all(block_of(unit) <= last for unit in exported.units)
    answers = exported(images())
    assert list(answers) == list(expected)
    assert max(answers) == last
    for e, logits in expected.items():
        assert torch.equal(answers[e], logits)


def test_every_adapter_gets_a_gradient_and_the_backbone_none(model: AdapterModel) -> None:
    before = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    model.set_trained(list(model.units))
    model.begin_round(1)
    model.loss(model(images()), torch.arange(3)).backward()
    trained = model.adapter_parameters().values()
    torch.optim.SGD(trained, lr=0.1).step()
    assert all(tensor.grad is not None for tensor in trained)
    assert all(tensor.grad is None for tensor in model.backbone.parameters())
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(value, before[key])
