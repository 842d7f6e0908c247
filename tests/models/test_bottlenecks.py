"""The bottlenecks of `parallel` and `serial`: where they act, and what comes before all of them."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch
from adapted import arrays, build, count, tokens
from shapes import shaped_backbone
from torch import Tensor

from models import AdapterSpec, build_model

BRANCHES = ("attention", "mlp")


@torch.no_grad()
def test_bottlenecks_beside_and_behind_the_branches(tiny_vit: Path) -> None:
    """The two forms written out: ``F(a) + g(a)`` and ``h + g(h)`` with ``h = F(a)``."""
    for kind, targets in product(("parallel", "serial"), (BRANCHES, *zip(BRANCHES, strict=True))):
        model = build(tiny_vit, AdapterSpec(kind, 4, targets=targets))
        block, own = model.backbone.blocks[2], arrays(model, "block3.adapter.")

        def bottleneck(values: Tensor, branch: str, own: dict[str, Tensor] = own) -> Tensor:
            down, up = (own[f"{branch}.{name}.weight"].T for name in ("down", "up"))
            inner = (values @ down + own[f"{branch}.down.bias"]).clamp(min=0)
            return inner @ up + own[f"{branch}.up.bias"]

        found = tokens()
        for branch, norm, run in (
            ("attention", block.norm1, lambda x: block.self_attention(x)[0]),  # noqa: B023
            ("mlp", block.norm2, block.feed_forward),
        ):
            normed = norm(found)
            output = run(normed)
            read = normed if kind == "parallel" else output
            found = found + output + (bottleneck(read, branch) if branch in targets else 0)
        torch.testing.assert_close(model.block(3)(tokens()), found)


@pytest.mark.parametrize("kind", ["parallel", "serial"])
def test_bottlenecks_at_the_mlp_alone(tiny_vit: Path, kind: str) -> None:
    """``2 D m + m + D``: 37,296 a block for D = 384 and m = 48, 74,544 for D = 768."""
    for width, heads, expected in ((384, 6, 37_296), (768, 12, 74_544)):
        with torch.device("meta"):
            spec = AdapterSpec(kind, 48, targets=("mlp",))
            model = build_model("exits", shaped_backbone(width, heads), (3,), 100, adapter=spec)
        assert count(model, 1, heads=False) == expected
        assert count(model, 3, heads=False) == 3 * expected
    small = build(tiny_vit, AdapterSpec(kind, 4, targets=("mlp",)))
    assert arrays(small, "block3.adapter.").keys() == {
        f"mlp.{layer}.{part}" for layer in ("down", "up") for part in ("weight", "bias")
    }


@torch.no_grad()
def test_a_block_goes_on_from_its_two_halves(tiny_vit: Path) -> None:
    """Bit for bit; only where all that is trained comes after both."""
    for spec in (AdapterSpec("serial", 4, targets=("mlp",)), AdapterSpec("serial", 4)):
        block = build(tiny_vit, spec).block(3)
        assert block.is_trained_last == (spec.targets == ("mlp",))
        halves = block.split(tokens())
        assert torch.equal(block(*halves), block(tokens()))
        for parameter in block.trained.parameters():
            parameter += 1
        again = zip(halves, block.split(tokens()), strict=True)
        assert all(torch.equal(*pair) for pair in again) == block.is_trained_last
