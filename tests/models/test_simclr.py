"""SimCLR: the loss against a calculation by hand, and what a plan lets its model train."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from models import AdapterSpec, SimclrModel, build_model, load_backbone
from models.simclr import nt_xent

FULL = AdapterSpec("full")


def model_of(tiny_vit: Path, spec: AdapterSpec = FULL, **options: Any) -> SimclrModel:
    model = build_model(
        "simclr", load_backbone(str(tiny_vit)), (3, 6), 5, adapter=spec, seed=3, **options
    )
    assert isinstance(model, SimclrModel)
    return model


def images(count: int = 8) -> torch.Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_the_loss_of_two_images_is_that_worked_out_by_hand() -> None:
    """First views (1, 0) and (0, 1), second views (0.6, 0.8) and (0, 1); temperature 1/2.

    Twice the cosines, without a view's own:

        view 1 of a:  0 with 1b, 1.2 with 2a, 0 with 2b      loss ln(1 + e^1.2 + 1) - 1.2
        view 1 of b:  0 with 1a, 1.6 with 2a, 2 with 2b      loss ln(1 + e^1.6 + e^2) - 2
        view 2 of a:  1.2 with 1a, 1.6 with 1b, 1.6 with 2b  loss ln(e^1.2 + 2 e^1.6) - 1.2
        view 2 of b:  0 with 1a, 2 with 1b, 1.6 with 2a      loss ln(1 + e^2 + e^1.6) - 2

    which are 0.47150, 0.59092, 1.38220 and 0.59092, in the mean 0.75888.
    """
    views = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.0, 1.0]])
    assert float(nt_xent(views, 0.5)) == pytest.approx(0.7588843, abs=1e-6)
    # Only directions count, and which view of an image comes first does not.
    lengths = torch.tensor([[3.0], [0.5], [10.0], [1.0]])
    assert float(nt_xent(views * lengths, 0.5)) == pytest.approx(0.7588843, abs=1e-6)
    assert float(nt_xent(views.roll(2, 0), 0.5)) == pytest.approx(0.7588843, abs=1e-6)


def test_views_without_any_likeness_lose_the_logarithm_of_the_choices() -> None:
    """Six views, all orthogonal: the partner is one of five, all alike."""
    assert float(nt_xent(torch.eye(6), 0.1)) == pytest.approx(math.log(5))


def test_a_single_image_has_nothing_to_be_told_from() -> None:
    views = torch.randn(2, 4, requires_grad=True)
    loss = nt_xent(views, 0.5)
    loss.backward()
    assert loss.item() == 0.0
    assert views.grad is not None
    assert not views.grad.any()


def test_the_projection_head_is_a_unit_of_its_own(tiny_vit: Path) -> None:
    """Layer norm 2D, D to D, D to 128: D^2 + 131 D + 128; no head for classes anywhere."""
    model = model_of(tiny_vit)
    assert list(model.units) == ["embed", *(f"block{b}" for b in range(1, 7)), "projection"]
    size = sum(value.size for value in model.adapter_arrays(["projection"]).values())
    assert size == 24 * 24 + 131 * 24 + 128
    assert not [key for key in model.adapter_parameters() if ".head." in key]


@pytest.mark.parametrize("depth", [1, 2, 6])
def test_the_class_token_after_the_last_block_is_projected(tiny_vit: Path, depth: int) -> None:
    model = model_of(tiny_vit)
    tokens = model.backbone.embed(images())
    for block in model.backbone.blocks[:depth]:
        tokens = block(tokens)
    norm, first, relu, last = model.part("projection", "mlp")
    expected = last(relu(first(norm(tokens[:, 0]))))
    ((end, found),) = model(images(), depth).items()
    assert end == depth
    torch.testing.assert_close(found, expected)


def test_skipped_blocks_run_in_evaluation_alone(tiny_vit: Path) -> None:
    model = model_of(tiny_vit)
    whole = model.eval()(images())[6]
    model.skipped = frozenset({2, 5})
    assert torch.equal(model.eval()(images())[6], whole)
    tokens = model.backbone.embed(images())
    for number in (1, 3, 4, 6):
        tokens = model.backbone.blocks[number - 1](tokens)
    expected = model.part("projection", "mlp")(tokens[:, 0])
    torch.testing.assert_close(model.train()(images())[6], expected)


@pytest.mark.parametrize("kind", ["full", "parallel", "lora", "ssf"])
def test_the_first_pass_is_the_backbones(tiny_vit: Path, kind: str) -> None:
    model = model_of(tiny_vit, AdapterSpec(kind, 4))
    tokens = model.backbone.embed(images())
    for block in model.backbone.blocks:
        tokens = block(tokens)
    expected = model.part("projection", "mlp")(tokens[:, 0])
    torch.testing.assert_close(model(images())[6], expected)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_step_moves_the_plans_units_alone(tiny_vit: Path, kind: str) -> None:
    """A phase that trains block 3, with blocks 1 and 2 below it, and none of 4 to 6."""
    model = model_of(tiny_vit, AdapterSpec(kind, 4)).train()
    model.set_trained(["block3", "projection"])
    before = {key: value.detach().clone() for key, value in model.adapter_parameters().items()}
    recorded: list[int] = []
    handles = [
        model.block(number).norm1.register_forward_hook(
            lambda _, given, __, n=number: recorded.append(n) if given[0].requires_grad else None
        )
        for number in range(1, 7)
    ]
    loss = model.loss(model(images(), depth=3), torch.zeros(4, dtype=torch.int64))
    loss.backward()
    for handle in handles:
        handle.remove()
    assert not recorded  # what enters block 3 needs no gradient, and nothing above it runs
    trained = [p for p in model.adapter_parameters().values() if p.requires_grad]
    torch.optim.SGD(trained, lr=0.1).step()
    for key, value in model.adapter_parameters().items():
        unit = key.split(".")[0]
        if unit not in ("block3", "projection"):
            assert value.grad is None
            assert torch.equal(value, before[key])
    moved = {
        key.split(".")[0]
        for key, value in model.adapter_parameters().items()
        if not torch.equal(value, before[key])
    }
    assert moved == {"block3", "projection"}


def test_the_loss_is_that_of_the_projections(tiny_vit: Path) -> None:
    model = model_of(tiny_vit, temperature=0.2)
    outputs = model(images())
    labels = torch.tensor([0, 1, 2, 3])
    assert torch.equal(model.loss(outputs, labels), nt_xent(outputs[6], 0.2))
    assert model.scores(outputs, labels) == {}
