"""The accumulator against a plain reading of its equations, and its parameter counts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from shapes import shaped_backbone
from torch import Tensor
from torch.nn import functional

from models import AccumulatorModel, AdapterSpec, build_model, load_backbone


@pytest.mark.parametrize(
    ("width", "heads", "sharing", "size", "count"),
    [
        (384, 6, "shared", "bottleneck", 469_914),
        (192, 3, "shared", "bottleneck", 135_575),
        (384, 6, "shared", "full", 1_819_108),
        (192, 3, "shared", "full", 467_236),
        (384, 6, "per-block", "bottleneck", 5_579_832),
        (192, 3, "per-block", "bottleneck", 1_597_332),
        (384, 6, "per-block", "full", 21_770_160),
        (192, 3, "per-block", "full", 5_577_264),
    ],
)
def test_parameter_counts(width: int, heads: int, sharing: str, size: str, count: int) -> None:
    """12 exits and 100 classes on DeiT-S and ViT-Tiny."""
    model = AccumulatorModel(
        shaped_backbone(width, heads), tuple(range(1, 13)), 100, sharing=sharing, size=size
    )
    assert sum(p.numel() for p in model.adapter_parameters().values()) == count


def test_parallel_adapters_count() -> None:
    """2 x (2 x 384 x 32 + 32 + 384) = 49,984 per block."""
    backbone = shaped_backbone(384, 6)
    plain = AccumulatorModel(backbone, (12,), 100)
    beside = AccumulatorModel(backbone, (12,), 100, adapter=AdapterSpec("parallel", 32))
    sizes = [sum(p.numel() for p in m.adapter_parameters().values()) for m in (plain, beside)]
    assert sizes[1] - sizes[0] == 12 * 49_984


def reference(
    model: AccumulatorModel, images: Tensor, *, per_block: bool, modulated: bool, tap: str
) -> dict[int, Tensor]:
    """The equations of the method, over the whole history at every block and nothing reused."""
    p = model.adapter_parameters()
    z = model.backbone.embed(images)
    q, e = p["shared.tokens.query"], p["shared.tokens.depth"]
    g: list[Tensor] = []
    logits = {}
    for number, block in enumerate(model.backbone.blocks, start=1):
        z = block.attend(z)
        z = block.transform(z) if tap == "block" else z
        h = z[:, 0]
        x = torch.stack([q[0].expand_as(h), *g, h], dim=1) + e[: number + 1]
        unit = f"block{number}" if per_block else "shared"
        w = {
            k.removeprefix(f"{unit}.accumulator."): v
            for k, v in p.items()
            if k.startswith(f"{unit}.accumulator.")
        }
        normed = functional.layer_norm(x, x.shape[-1:], w["norm1.weight"], w["norm1.bias"])
        query, key, value = functional.linear(normed, w["qkv.weight"], w["qkv.bias"]).chunk(3, -1)
        inner = query.shape[-1]
        mixed = torch.zeros_like(query)
        for head in range(8):
            part = slice(head * inner // 8, (head + 1) * inner // 8)
            scores = query[..., part] @ key[..., part].mT / (inner / 8) ** 0.5
            mixed[..., part] = scores.softmax(-1) @ value[..., part]
        x = x + functional.linear(mixed, w["out.weight"], w["out.bias"])
        normed = functional.layer_norm(x, x.shape[-1:], w["norm2.weight"], w["norm2.bias"])
        hidden = functional.gelu(functional.linear(normed, w["up.weight"], w["up.bias"]))
        m = x + functional.linear(hidden, w["down.weight"], w["down.bias"])
        if number in model.exits:
            s = functional.layer_norm(
                m[:, 0] + h,
                h.shape[-1:],
                p[f"{unit}.head.0.weight"],
                p[f"{unit}.head.0.bias"],
            )
            logits[number] = functional.linear(
                s, p[f"{unit}.head.1.weight"], p[f"{unit}.head.1.bias"]
            )
        g.append(m[:, number] if modulated else h)
        z = torch.cat([m[:, number : number + 1], z[:, 1:]], dim=1)
        z = block.transform(z) if tap == "attention" else z
    return logits


@pytest.mark.parametrize("sharing", ["shared", "per-block"])
@pytest.mark.parametrize("history", ["modulated", "raw"])
@pytest.mark.parametrize("size", ["bottleneck", "full"])
@pytest.mark.parametrize("tap", ["block", "attention"])
def test_it_computes_its_equations(
    sharing: str, history: str, size: str, tap: str, tiny_vit: Path
) -> None:
    options: dict[str, Any] = {"sharing": sharing, "history": history, "size": size, "tap": tap}
    model = build_model("accumulator", load_backbone(str(tiny_vit)), (2, 4, 6), 5, **options)
    assert isinstance(model, AccumulatorModel)
    torch.manual_seed(0)
    for parameter in model.adapter_parameters().values():
        torch.nn.init.normal_(parameter, std=0.3)
    images = torch.randn(3, 3, 16, 16)
    expected = reference(
        model,
        images,
        per_block=sharing == "per-block",
        modulated=history == "modulated",
        tap=tap,
    )
    with torch.no_grad():
        logits = model(images)
    assert list(logits) == [2, 4, 6]
    for exit_block, value in expected.items():
        torch.testing.assert_close(logits[exit_block], value, rtol=1e-4, atol=1e-4)


def test_the_two_histories_differ(tiny_vit: Path) -> None:
    backbone, images = load_backbone(str(tiny_vit)), torch.randn(2, 3, 16, 16)
    outputs = []
    for history in ("modulated", "raw"):
        model = build_model("accumulator", backbone, (6,), 5, history=history)
        torch.manual_seed(0)
        for parameter in model.adapter_parameters().values():
            torch.nn.init.normal_(parameter, std=0.3)
        outputs.append(model(images)[6])
    assert not torch.allclose(*outputs, atol=1e-3)


def test_round_zero_is_the_pretrained_pass(tiny_vit: Path) -> None:
    """With both branches at zero the head sees the backbone's own class token plus the query."""
    backbone = load_backbone(str(tiny_vit))
    model = build_model("accumulator", backbone, (6,), 5)
    images = torch.randn(2, 3, 16, 16)
    tokens = backbone.embed(images)
    for block in backbone.blocks:
        tokens = block(tokens)
    query = model.adapter_parameters()["shared.tokens.query"]
    expected = model.part("shared", "head")(tokens[:, 0] + query)
    torch.testing.assert_close(model(images)[6], expected)


def test_depth_rows_beyond_the_tier_get_no_gradient(tiny_vit: Path) -> None:
    model = build_model("accumulator", load_backbone(str(tiny_vit)), (2, 4, 6), 5)
    for parameter in model.adapter_parameters().values():
        torch.nn.init.normal_(parameter, std=0.3)
    logits = model(torch.randn(2, 3, 16, 16), depth=4)
    sum(y.square().sum() for y in logits.values()).backward()
    gradient = model.adapter_parameters()["shared.tokens.depth"].grad
    assert (gradient[:5].abs().sum(dim=1) > 0).all()
    assert (gradient[5:] == 0).all()
