"""Every adapter kind under every method: truncated, trained, exported."""

from __future__ import annotations

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

# The mixture has all parts of this method in its answers.
OPTIONS: dict[str, dict[str, Any]] = {"mofm": {"mixing": True}}
COMBINATIONS = [(method, kind) for method in METHODS for kind in ADAPTERS]


@pytest.fixture(params=COMBINATIONS, ids="+".join)
def model(request: pytest.FixtureRequest, tiny_vit: Path) -> AdapterModel:
    """A model with all adapters away from their start."""
    method, kind = request.param
    spec = AdapterSpec(kind, 4)
    backbone, options = load_backbone(str(tiny_vit)), OPTIONS.get(method, {})
    built = build_model(method, backbone, (2, 4, 6), 3, adapter=spec, **options)
    generator = torch.Generator().manual_seed(1)
    for tensor in built.adapter_parameters().values():
        tensor.data += 0.1 * torch.randn(tensor.shape, generator=generator)
    return built.eval()


def images() -> torch.Tensor:
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def describe(
    method: str, model: AdapterModel, exits: tuple[int, ...], backbone: Path
) -> dict[str, Any]:
    """What an export says of a model with these exits."""
    return {
        "method": method,
        "backbone": str(backbone),
        "image-size": 16,
        "exits": ",".join(map(str, exits)) + ",",
        "adapter": asdict(model.adapter),
        "options": dict(model.own_options),
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
    method = request.node.callspec.params["model"][0]
    description = describe(method, model, model.exits, tiny_vit)
    write_exported(tmp_path, model.adapter_arrays(), description, {})
    read = load_exported(tmp_path).model(images())
    for e, logits in full.items():
        assert torch.equal(read[e], logits)


@torch.no_grad()
@pytest.mark.parametrize("depth", [3, 4])
def test_a_devices_exported_model_gives_the_logits_it_had(
    model: AdapterModel, depth: int, tiny_vit: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Built anew from what `ending_at` copies out, it holds no block above its last exit."""
    method = request.node.callspec.params["model"][0]
    own = {**OPTIONS.get(method, {}), **type(model).tier_options(model.exits, depth)}
    device = build_model(
        method, load_backbone(str(tiny_vit)), (2, 4, 6), 3, adapter=model.adapter, **own
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
    within = {"shared", "embed", "local-embed"}
    for name in ("block", "head", "gate", "personal", "local-block", "local-head"):
        within |= {f"{name}{b}" for b in range(1, last + 1)}
    assert {key.split(".")[0] for key in tensors} <= within
    write_exported(tmp_path, tensors, describe(method, device, exits, tiny_vit), {})
    exported = load_exported(tmp_path).model
    assert {*exported.units} <= within
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
