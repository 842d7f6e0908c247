"""Operations against formulas written by hand, and what measuring leaves alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from models import AdapterSpec, ModelError, anytime_profile, build_model, load_backbone
from models.cost import exit_costs

EXITS = (2, 4, 6)
# The tiny ViT: width D, MLP M, 4 patches of 3 x 8 x 8 and a class token; C classes.
D, M, N, C = 24, 48, 5, 7
EMBED = 2 * 4 * (3 * 8 * 8) * D
BLOCK = 2 * (4 * N * D * D + 2 * N * N * D + 2 * N * D * M)  # projections, attention, MLP
HEAD = 2 * D * C


def accumulator(block: int) -> int:
    """Attention 16 wide from 2 queries to the learned token and `block` class tokens, and MLP."""
    history, inner, hidden = block + 1, 16, int(1.35 * D)
    qkv = history * D * 3 * inner
    return 2 * (qkv + 2 * (2 * history * inner) + 2 * inner * D + 2 * 2 * D * hidden)


def parallel(rank: int) -> int:
    """Two bottlenecks, down and up, on N tokens."""
    return 2 * (2 * 2 * N * D * rank)


FORMULAS = {
    "exits": ({}, lambda block: 0),
    "accumulator": ({}, accumulator),
    "accumulator+parallel": (
        {"adapter": AdapterSpec("parallel", 3)},
        lambda block: accumulator(block) + parallel(3),
    ),
}


@pytest.mark.parametrize("case", FORMULAS)
def test_operations_equal_the_formula(tiny_vit: Path, case: str) -> None:
    options, adapters = FORMULAS[case]
    model = build_model(case.split("+")[0], load_backbone(str(tiny_vit)), EXITS, C, **options)
    for place, (block, cost) in enumerate(exit_costs(model, batch_size=3).items(), start=1):
        added = sum(adapters(b) for b in range(1, block + 1))
        assert cost.flops == EMBED + block * BLOCK + place * HEAD + added


def test_milliseconds_are_a_median_per_image(
    tiny_vit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that ticks by hand: passes of 1, 9, 2, 8 and 3 s per block, four images."""
    model = build_model("exits", load_backbone(str(tiny_vit)), EXITS, C)
    now = [0.0]
    speeds = iter([50.0, 1.0, 9.0, 2.0, 8.0, 3.0])  # the first is the warm-up
    speed = [0.0]

    def tick(_: object, args: tuple[torch.Tensor], __: object) -> None:
        now[0] += speed[0] if len(args[0]) == 4 else 1000

    def begin(_: object, args: tuple[torch.Tensor], __: object) -> None:
        if len(args[0]) == 4:
            speed[0] = next(speeds)

    hooks = [b.norm1.register_forward_hook(tick) for b in model.backbone.blocks]
    hooks.append(model.backbone.embed.register_forward_hook(begin))
    monkeypatch.setattr("models.cost.time.perf_counter", lambda: now[0])
    try:
        costs = exit_costs(model, batch_size=4)
    finally:
        for hook in hooks:
            hook.remove()
    assert {e: c.milliseconds for e, c in costs.items()} == {2: 1500, 4: 3000, 6: 4500}
    assert next(speeds, None) is None


def test_a_profile_disturbs_nothing(tiny_vit: Path) -> None:
    model = build_model("accumulator", load_backbone(str(tiny_vit)), EXITS, C).train()
    model.set_trained(["block2", "shared"])
    training = [module.training for module in model.modules()]
    assert any(training)
    wanted = [p.requires_grad for p in model.parameters()]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    profile = anytime_profile(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == training
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.is_grad_enabled()

    assert json.loads(json.dumps(profile)) == profile
    assert profile.keys() == {"device", "threads", "batch-size", "exits"}
    assert (profile["device"], profile["threads"], profile["batch-size"]) == ("cpu", 1, 1)
    assert list(profile["exits"]) == ["2", "4", "6"]
    for figure in ("flops", "milliseconds"):
        row = [cost[figure] for cost in profile["exits"].values()]
        assert 0 < row[0] < row[1] < row[2]


def test_a_batch_needs_images(tiny_vit: Path) -> None:
    model = build_model("exits", load_backbone(str(tiny_vit)), EXITS, C)
    with pytest.raises(ModelError, match="batch-size: 0 runs nothing"):
        anytime_profile(model, 0)
