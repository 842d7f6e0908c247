"""The meter: bytes of a step, counted for real, by the allocator, and on shapes alone."""

from pathlib import Path

import pytest
import torch
from shapes import shaped_backbone
from torch import nn
from torch.profiler import ProfilerActivity, profile

from models import AdapterSpec, Backbone, build_model, load_backbone
from models.memory import count_step, held_bytes, make_step, measure_step


@pytest.fixture
def tiny_backbone(tiny_vit: Path) -> Backbone:
    return load_backbone(str(tiny_vit))


def allocated(step) -> int:  # type: ignore[no-untyped-def]
    """The peak by the allocator's own events."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        step()
    events = [e for e in run.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def test_a_small_step_by_hand() -> None:
    """x (8, 16) and W (16, 4) are there before; relu(x W) is saved, with 8 x 4 = 32 numbers.

    The backward pass goes down to W: the gradient of relu's output (32) makes that of x W (32) with
    the saved output (32), then that of x W makes W's (64). Both times 96 numbers are there, and the
    loss and its gradient (2).
    """
    inputs, weight = torch.randn(8, 16), nn.Parameter(torch.randn(16, 4))

    def step() -> None:
        y = torch.relu(inputs @ weight)
        loss = (y * 2).sum()
        del y
        loss.backward()
        weight.grad = None

    found = measure_step(step)
    assert found.saved == 4 * 32  # relu's output; the input and the weight were there
    assert found.peak == 4 * (96 + 2)


def test_views_count_once_and_what_is_let_go_counts_no_more() -> None:
    def step() -> None:
        for _ in range(3):
            values = torch.zeros(100)
            assert values.view(10, 10).t()[2:].shape == (8, 10)

    assert measure_step(step).peak == 2 * 400  # the new one is made before the old one goes


@pytest.mark.parametrize(
    ("method", "kind"), [("exits", "lora"), ("exits", "full"), ("reefl", "parallel")]
)
def test_the_meter_agrees_with_the_allocator_and_with_shapes_alone(
    tiny_backbone: Backbone, method: str, kind: str
) -> None:
    model = build_model(method, tiny_backbone, (2, 4), 5, adapter=AdapterSpec(kind, 4)).train()
    units, side = list(model.units), tiny_backbone.image_size
    model.set_trained(units)
    step = make_step(model, torch.randn(6, 3, side, side), torch.arange(6) % 5)
    step()
    measured = measure_step(step)
    assert measured.peak == pytest.approx(allocated(step), rel=0.01)
    assert count_step(model, units, 6) == measured


def test_what_is_read_of_the_tokens_does_not_hold_them(tiny_backbone: Backbone) -> None:
    """Of frozen blocks heads save class tokens: 24 numbers twice, two more, logits (5), labels.

    The tokens that they are of would be 5 times 24.
    """
    model = build_model("exits", tiny_backbone, (1, 2, 3, 4, 5, 6), 5)
    saved = count_step(model, list(model.units), 8).saved
    assert saved < 6 * 8 * 4 * (2 * 24 + 2 + 2 * 5 + 4)


def test_counting_changes_nothing_and_needs_no_values() -> None:
    model = build_model("exits", shaped_backbone(384, 6), (3,), 10, adapter=AdapterSpec("lora", 8))
    assert next(model.backbone.parameters()).device.type == "meta"
    before = {key: p.requires_grad for key, p in model.adapter_parameters().items()}
    small, large = (count_step(model, ["block3"], size).saved for size in (2, 4))
    assert large == pytest.approx(2 * small, rel=1e-4)
    assert {key: p.requires_grad for key, p in model.adapter_parameters().items()} == before
    assert all(p.grad is None for p in model.parameters())


def test_held_bytes_count_shared_tensors_once(tiny_backbone: Backbone) -> None:
    frozen = 4 * tiny_backbone.num_parameters()
    lora = build_model("exits", tiny_backbone, (4,), 5, adapter=AdapterSpec("lora", 4))
    trained = sum(p.numel() for p in lora.adapter_parameters().values())
    assert held_bytes(lora) == frozen + 4 * trained
