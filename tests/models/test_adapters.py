"""The adapter kinds: their sizes, starts, and equations computed in another way."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from adapted import arrays, build, count, tokens
from shapes import shaped_backbone
from torch import Tensor, nn
from torch.nn import functional

from client_app.optimizer import make_optimizer
from models import (
    ADAPTERS,
    AdapterSpec,
    ModelError,
    build_model,
    parse_targets,
)
from settings import Settings

KINDS = [kind for kind in ADAPTERS if kind != "none"]
FROZEN_KINDS = [kind for kind in KINDS if kind != "full"]


@pytest.mark.parametrize(
    ("kind", "inside"),
    [
        ("none", (0, 0, 0, 0)),
        ("lora", (147_456, 294_912, 442_368, 589_824)),
        ("parallel", (149_952, 299_904, 449_856, 599_808)),
        ("serial", (149_952, 299_904, 449_856, 599_808)),
        ("ssf", (26_112, 51_456, 76_800, 102_144)),
        ("full", (5_694_720, 11_018_112, 16_341_504, 21_664_896)),
    ],
)
def test_a_tier_of_deit_small_trains_the_published_numbers(
    kind: str, inside: tuple[int, ...]
) -> None:
    """100 classes, exits after every third block, rank 32."""
    with torch.device("meta"):
        backbone = shaped_backbone(384, 6)
        model = build_model("exits", backbone, (3, 6, 9, 12), 100, adapter=AdapterSpec(kind))
    depths = (3, 6, 9, 12)
    assert tuple(count(model, depth, heads=False) for depth in depths) == inside
    head = 39_268 + (768 if kind == "ssf" else 0)
    assert [count(model, d, heads=True) for d in depths] == [head * n for n in (1, 2, 3, 4)]


def images() -> Tensor:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_lora_is_a_change_of_the_weights(tiny_vit: Path) -> None:
    """``W + 3 B A`` written into a copy of the frozen block."""
    spec = AdapterSpec("lora", 4, scaling=3.0, targets=("q", "k", "v", "o", "fc1", "fc2"))
    model = build(tiny_vit, spec)
    merged = copy.deepcopy(model.backbone.blocks[2])
    own = arrays(model, "block3.adapter.")
    assert set(own) == {f"{target}.{factor}" for target in spec.targets for factor in "AB"}
    for target in spec.targets:
        part = merged.feed_forward if target.startswith("fc") else merged.self_attention
        layer = getattr(part, target if target.startswith("fc") else f"{target}_proj")
        layer.weight += 3.0 * own[f"{target}.B"] @ own[f"{target}.A"]
    torch.testing.assert_close(model.block(3)(tokens()), merged(tokens()))
    assert not torch.allclose(model.block(3)(tokens()), model.backbone.blocks[2](tokens()))


@torch.no_grad()
def test_a_smaller_rank_is_the_leading_part_of_a_larger(tiny_vit: Path) -> None:
    """The product is scaled alike at any rank, so rows and columns of zero change nothing."""
    large, small = (build(tiny_vit, AdapterSpec("lora", rank)) for rank in (4, 2))
    for key, tensor in large.adapter_parameters().items():
        if key.endswith(".B"):
            tensor[:, 2:] = 0
        leading = tuple(slice(n) for n in small.adapter_parameters()[key].shape)
        small.adapter_parameters()[key].copy_(tensor[leading])
    for e, logits in large(images()).items():
        torch.testing.assert_close(small(images())[e], logits)


@torch.no_grad()
def test_ssf_is_a_change_of_weights_and_biases(tiny_vit: Path) -> None:
    """``a (W x + b) + c`` is a layer with weights ``a W`` and biases ``a b + c``."""

    def merge(layer: nn.Module, own: dict[str, Tensor], name: str) -> None:
        scale, shift = own[f"{name}.scale"], own[f"{name}.shift"]
        layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.ndim - 1)))
        layer.bias.mul_(scale).add_(shift)

    model = build(tiny_vit, AdapterSpec("ssf"))
    backbone = copy.deepcopy(model.backbone)
    embed, blocks = backbone.embed, list(backbone.blocks)
    merge(embed.patch_embeddings.projection, arrays(model, "embed.adapter."), "patches")
    torch.testing.assert_close(model.begin(images())[0], embed(images()))
    found = embed(images())
    for number, block in enumerate(blocks, start=1):
        own = arrays(model, f"block{number}.adapter.")
        assert len(own) == 16
        for name in ("norm1", "norm2"):
            merge(getattr(block, name), own, name)
        for name in "qkvo":
            merge(getattr(block.self_attention, f"{name}_proj"), own, name)
        for name in ("fc1", "fc2"):
            merge(getattr(block.feed_forward, name), own, name)
        found = block(found)
    head = arrays(model, "block6.head.")
    weight = head["0.weight"] * head["ssf.scale"]
    bias = head["0.bias"] * head["ssf.scale"] + head["ssf.shift"]
    normed = functional.layer_norm(found[:, 0], (24,), weight, bias)
    expected = functional.linear(normed, head["1.weight"], head["1.bias"])
    torch.testing.assert_close(model(images())[6], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_first_pass_is_the_pretrained_one(tiny_vit: Path, kind: str) -> None:
    plain, adapted = (build(tiny_vit, AdapterSpec(k), moved=False) for k in ("none", kind))
    adapted.load_adapters(plain.adapter_arrays())  # the heads
    for e, logits in plain(images()).items():
        assert torch.equal(adapted(images())[e], logits)


def test_fresh_adapters_start_as_documented(tiny_vit: Path) -> None:
    """Kaiming-uniform ``A`` within ``1 / sqrt(inputs)``, ``B`` zero; the others by their spread."""

    def start(kind: str) -> Iterator[tuple[str, Tensor]]:
        targets = ("q", "fc2") if kind == "lora" else ()
        model = build(tiny_vit, AdapterSpec(kind, 16, targets=targets), moved=False)
        inside = {k: v for k, v in model.adapter_parameters().items() if "adapter" in k}
        ends = {key.rsplit(".", 1)[-1] for key in inside}
        if kind == "lora":
            ends = {"q.A", "q.B", "fc2.A", "fc2.B"}
        for end in sorted(ends):
            yield end, torch.cat([v.detach().flatten() for k, v in inside.items() if end in k])

    lora = dict(start("lora"))
    for end, inputs in (("q.A", 24), ("fc2.A", 48)):
        bound = inputs**-0.5
        assert 0.95 * bound < lora[end].abs().max() <= bound
        assert lora[end].std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert not lora["q.B"].any()
    assert not lora["fc2.B"].any()
    for kind in ("parallel", "serial"):
        found = dict(start(kind))
        assert found["weight"].std().item() == pytest.approx(0.02, rel=0.05)
        assert not found["bias"].any()
    found = dict(start("ssf"))
    assert (found["scale"] - 1).std().item() == pytest.approx(0.02, rel=0.1)
    assert found["shift"].std().item() == pytest.approx(0.02, rel=0.1)
    assert found["scale"].mean().item() == pytest.approx(1, abs=0.005)


@pytest.mark.parametrize("kind", FROZEN_KINDS)
def test_an_adapted_block_holds_the_backbones_own_tensors(tiny_vit: Path, kind: str) -> None:
    model = build(tiny_vit, AdapterSpec(kind, 4))
    frozen = {id(tensor) for tensor in model.backbone.parameters()}
    trained = {id(tensor) for tensor in model.units.parameters()}
    assert not frozen & trained
    for number in range(1, 7):
        held = {id(tensor) for tensor in model.block(number).parameters()}
        assert held <= frozen | trained
        assert held & frozen == {id(t) for t in model.backbone.blocks[number - 1].parameters()}


def test_full_trains_copies(tiny_vit: Path) -> None:
    model = build(tiny_vit, AdapterSpec("full"))
    frozen = {tensor.data_ptr() for tensor in model.backbone.parameters()}
    assert not frozen & {tensor.data_ptr() for tensor in model.units.parameters()}
    names = {name for name, _ in model.backbone.embed.named_parameters()}
    assert arrays(model, "embed.adapter.").keys() == names


@pytest.mark.parametrize("kind", KINDS)
def test_a_copied_model_moves_as_a_whole(tiny_vit: Path, kind: str) -> None:
    """As when it goes to another device: no tensor of an adapted part is left behind."""
    model = build(tiny_vit, AdapterSpec(kind, 4))
    moved = copy.deepcopy(model).double()
    for e, logits in moved(images().double()).items():
        assert logits.dtype == torch.float64
        torch.testing.assert_close(logits.float(), model(images())[e], rtol=1e-4, atol=1e-4)
    assert {tensor.dtype for tensor in model.backbone.parameters()} == {torch.float32}


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_run_and_train_under_autocast(tiny_vit: Path, kind: str) -> None:
    model = build(tiny_vit, AdapterSpec(kind, 4))
    model.set_trained(list(model.units))
    with torch.autocast("cpu", torch.bfloat16):
        half = model(images())
    model.loss({e: y.float() for e, y in half.items()}, torch.arange(4)).backward()
    for e, logits in model(images()).items():
        torch.testing.assert_close(half[e].float(), logits, rtol=0.1, atol=0.1)
    for tensor in model.adapter_parameters().values():
        assert tensor.grad is not None
        assert tensor.grad.dtype == torch.float32


def test_all_of_a_head_and_nothing_else_learns_at_its_rate(tiny_vit: Path) -> None:
    for kind in KINDS:
        trained = build(tiny_vit, AdapterSpec(kind, 4)).adapter_parameters()
        groups = make_optimizer(Settings(), trained).param_groups
        fast = {
            id(tensor) for group in groups if group["factor"] == 10 for tensor in group["params"]
        }
        assert fast == {id(tensor) for key, tensor in trained.items() if ".head." in key}


def test_targets_are_names_of_layers() -> None:
    assert parse_targets("q,v", "lora") == ("q", "v")
    assert parse_targets(" fc1, v ,q,v", "lora") == ("q", "v", "fc1")
    assert parse_targets("mlp,attention", "serial") == ("attention", "mlp")
    assert parse_targets("mlp", "parallel") == ("mlp",)
    assert parse_targets("", "serial") == parse_targets(" ", "lora") == ()
    assert AdapterSpec("lora").targets == ("q", "v")
    assert AdapterSpec("serial").targets == AdapterSpec("parallel").targets == ("attention", "mlp")
    for text, wrong in (("q,value", "value"), (",", ""), ("q;v", "q;v"), ("mlp", "mlp")):
        with pytest.raises(ModelError, match=f"adapter-targets: '{wrong}' is no linear layer"):
            parse_targets(text, "lora")
    with pytest.raises(
        ModelError, match="'q' is no branch of a block; with adapter=serial list some of attention"
    ):
        parse_targets("mlp,q", "serial")


def test_wrong_kinds_and_ranks_get_a_sentence(tiny_vit: Path) -> None:
    with pytest.raises(ModelError, match="adapter: 'magic' is unknown; choose one of none, lora"):
        build(tiny_vit, AdapterSpec("magic"))
    with pytest.raises(ModelError, match="adapter-rank: 0 leaves no adapter"):
        build(tiny_vit, AdapterSpec("lora", 0))
    with pytest.raises(ModelError, match="adapter-targets: 'q' is no branch"):
        build(tiny_vit, AdapterSpec("parallel", targets=("q",)))
    with pytest.raises(ModelError, match="adapter-targets: 'q,v' is no linear layer"):
        build(tiny_vit, AdapterSpec("lora", targets=("q,v",)))
    with pytest.raises(ModelError, match="adapter-targets: 'ssf' acts everywhere"):
        build(tiny_vit, AdapterSpec("ssf", targets=("mlp",)))


def test_the_order_of_targets_does_not_matter(tiny_vit: Path) -> None:
    there, back = (
        build(tiny_vit, AdapterSpec("serial", 4, targets=targets)).adapter_parameters()
        for targets in (("attention", "mlp"), ("mlp", "attention"))
    )
    assert list(there) == list(back)
