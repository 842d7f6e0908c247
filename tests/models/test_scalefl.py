"""ScaleFL's sub-models: sizes, what they compute, what they learn from, what they cost."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shapes import shaped_backbone
from torch import Tensor
from torch.nn import functional

from models import (
    AdapterSpec,
    AnytimeClassifier,
    ModelError,
    ScaleflModel,
    anytime_profile,
    build_model,
    load_backbone,
)
from models.narrow import narrow
from models.scalefl import parse_widths

EXITS = (2, 4, 6)
ADAPTERS = {
    "none": AdapterSpec(),
    "lora": AdapterSpec("lora", 4, targets=("q", "k", "v", "o", "fc1", "fc2")),
    "serial": AdapterSpec("serial", 4),
    "ssf": AdapterSpec("ssf"),
    "full": AdapterSpec("full"),
}


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def moved(model: Any) -> Any:
    """The model with all adapters away from their start."""
    torch.manual_seed(1)
    for parameter in model.adapter_parameters().values():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def own_model(bank: ScaleflModel, own: int, backbone: Any, **options: Any) -> Any:
    """A tier's model with the leading parts of the bank's tensors, cut out by numpy."""
    model = build_model("scalefl", backbone, bank.exits, bank.num_classes, own=own, **options)
    tensors = bank.adapter_arrays()
    model.load_adapters(
        {
            key: tensors[key][tuple(slice(n) for n in parameter.shape)]
            for key, parameter in model.adapter_parameters().items()
        }
    )
    return model.eval()


@pytest.mark.parametrize(
    ("own", "width", "inner", "size"),
    [(1, 153, 156, 1.30), (2, 211, 216, 3.49), (3, 288, 288, 9.36), (4, 384, 384, 21.8)],
)
def test_sizes_are_the_published_ones(own: int, width: int, inner: int, size: float) -> None:
    """Backbone and heads at 100 classes, exits after blocks 4, 6, 9 and 12, in millions."""
    model = build_model("scalefl", shaped_backbone(384, 6), (4, 6, 9, 12), 100, own=own)
    block = model.backbone.blocks[0]
    assert model.backbone.width == width
    assert block.self_attention.v_proj.weight.shape == (inner, width)
    assert block.feed_forward.fc1.weight.shape == (4 * width, width)
    parts = [model.backbone.embed, *list(model.backbone.blocks)[: model.exits[-1]]]
    count = sum(p.numel() for part in parts for p in part.parameters())
    count += sum(p.numel() for p in model.adapter_parameters().values())
    assert count / 1e6 == pytest.approx(size, abs=0.005 if size < 10 else 0.05)


def test_widths_are_published_even_or_given() -> None:
    assert parse_widths("", 4) == (0.4, 0.55, 0.75, 1)
    assert parse_widths("", 12)[:3] == (0.25, 0.3, 0.35)
    assert parse_widths("", 3) == pytest.approx((0.4, 0.7, 1))
    assert parse_widths(" ", 1) == (1,)
    assert parse_widths("0.5, 0.5,1", 3) == (0.5, 0.5, 1)


@pytest.mark.parametrize("text", ["0.5,1", "1,0.5,1", "0.2,0.5,0.9", "0,0.5,1", "a,b,1", "nan,1,1"])
def test_other_widths_get_a_sentence(text: str) -> None:
    with pytest.raises(ModelError, match="is no list of 3 ascending shares of the width"):
        parse_widths(text, 3)


def test_a_width_without_a_channel_gets_a_sentence(tiny_vit: Path) -> None:
    with pytest.raises(ModelError, match=r"0\.01 of 24 channels is none"):
        build_model("scalefl", load_backbone(str(tiny_vit)), EXITS, 5, widths="0.01,0.5,1")


def test_a_tier_of_more_exits_than_there_are_gets_a_sentence(tiny_vit: Path) -> None:
    with pytest.raises(ModelError, match="has 4 of 3"):
        build_model("scalefl", load_backbone(str(tiny_vit)), EXITS, 5, own=4)


@pytest.mark.parametrize("folder", ["tiny_vit", "tiny_deit"])
def test_a_narrow_backbone_is_a_view_of_leading_rows_and_columns(
    folder: str, request: pytest.FixtureRequest
) -> None:
    whole = load_backbone(str(request.getfixturevalue(folder)))
    before = {key: value.clone() for key, value in whole.state_dict().items()}
    part = narrow(whole, 0.4)
    for key, value in part.state_dict().items():
        assert value.data_ptr() == whole.state_dict()[key].data_ptr()
        full = whole.state_dict()[key].numpy()
        np.testing.assert_array_equal(value, full[tuple(slice(n) for n in value.shape)])
    assert not any(p.requires_grad for p in part.parameters())
    assert (part.width, part.fingerprint) == (9, whole.fingerprint)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, before[key])
    assert narrow(whole, 1.0) is whole


def test_a_narrow_pass_is_that_of_the_cut_weights(tiny_vit: Path) -> None:
    """Written out once more: width 9, 2 heads of 5, MLP 18, norms over 9 channels."""
    whole = load_backbone(str(tiny_vit))
    weights = {k: v.double() for k, v in whole.state_dict().items()}

    def norm(x: Tensor, name: str) -> Tensor:
        parts = weights[f"{name}.weight"][:9], weights[f"{name}.bias"][:9]
        return functional.layer_norm(x, (9,), *parts, 1e-12)

    def linear(x: Tensor, name: str, outputs: int) -> Tensor:
        weight = weights[f"{name}.weight"][:outputs, : x.shape[-1]]
        return x @ weight.T + weights[f"{name}.bias"][:outputs]

    kernel = weights["embed.patch_embeddings.projection.weight"][:9]
    patches = images().double().unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5)
    tokens = patches.reshape(3, 4, -1) @ kernel.flatten(1).T
    tokens = tokens + weights["embed.patch_embeddings.projection.bias"][:9]
    first = weights["embed.cls_token"][..., :9].expand(3, 1, 9)
    x = torch.cat([first, tokens], 1) + weights["embed.position_embeddings"][..., :9]
    for number in range(2):
        block = f"blocks.{number}"
        y = norm(x, f"{block}.norm1")
        q, k, v = (
            linear(y, f"{block}.self_attention.{n}_proj", 10).view(3, 5, 2, 5).transpose(1, 2)
            for n in "qkv"
        )
        mixed = (q @ k.transpose(2, 3) * 5**-0.5).softmax(-1) @ v
        mixed = mixed.transpose(1, 2).reshape(3, 5, 10)
        x = x + linear(mixed, f"{block}.self_attention.o_proj", 9)
        y = linear(norm(x, f"{block}.norm2"), f"{block}.feed_forward.fc1", 18)
        x = x + linear(functional.gelu(y), f"{block}.feed_forward.fc2", 9)
    part = narrow(whole, 0.4)
    found = part.blocks[1](part.blocks[0](part.embed(images())))
    torch.testing.assert_close(found.double(), x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ADAPTERS)
def test_each_exit_is_answered_by_the_model_of_its_tier(kind: str, tiny_vit: Path) -> None:
    backbone, adapter = load_backbone(str(tiny_vit)), ADAPTERS[kind]
    bank = moved(build_model("scalefl", backbone, EXITS, 5, adapter=adapter))
    answers = bank(images())
    for own, block in enumerate(EXITS, start=1):
        tier = own_model(bank, own, backbone, adapter=adapter)
        logits = tier(images())
        assert list(logits) == list(EXITS[:own])
        torch.testing.assert_close(answers[block], logits[block], rtol=1e-5, atol=1e-6)
        shapes = {key: p.shape for key, p in tier.adapter_parameters().items()}
        assert list(shapes) == [k for k in bank.adapter_parameters() if k in shapes]
        assert (own == 3) == (shapes == {k: p.shape for k, p in bank.adapter_parameters().items()})


@pytest.mark.parametrize("kind", ADAPTERS)
def test_the_banks_model_holds_each_trained_tensor_once(kind: str, tiny_vit: Path) -> None:
    """On the CPU all there is in memory is the backbone and the bank, each tensor of it once."""
    backbone = load_backbone(str(tiny_vit))
    bank = build_model("scalefl", backbone, EXITS, 5, adapter=ADAPTERS[kind])
    held = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in bank.parameters()}
    held.pop(0, None)
    wanted = [*backbone.parameters(), *bank.adapter_parameters().values()]
    assert sum(held.values()) == sum(4 * p.numel() for p in wanted)


def test_training_the_banks_model_reaches_each_exits_part_alone(tiny_vit: Path) -> None:
    """The gradient of the first exit's answer is zero beyond the 9 channels of its sub-model."""
    bank = moved(build_model("scalefl", load_backbone(str(tiny_vit)), EXITS, 5))
    bank(images())[2].sum().backward()
    gradient = bank.adapter_parameters()["block2.head.1.weight"].grad
    assert gradient[:, :9].abs().min() > 0
    assert not gradient[:, 9:].any()


def test_a_tiers_width_follows_its_last_exit() -> None:
    assert ScaleflModel.tier_options((3, 6, 9, 12), 8) == {"own": 2}
    assert ScaleflModel.tier_options((3, 6, 9, 12), 12) == {"own": 4}


def test_the_loss_by_hand(tiny_vit: Path) -> None:
    """Three exits, two images; numpy's own reading of the formula."""
    model = build_model("scalefl", load_backbone(str(tiny_vit)), EXITS, 3)
    generator = np.random.default_rng(5)
    logits = {block: generator.normal(size=(2, 3)) for block in EXITS}
    labels = [2, 0]

    def softmax(y: np.ndarray) -> np.ndarray:
        return np.exp(y) / np.exp(y).sum(axis=1, keepdims=True)

    expected = 0.0
    for block, y in logits.items():
        expected -= np.log(softmax(y)[range(2), labels]).mean()
        if block != 6:
            teacher, student = softmax(logits[6] / 3), softmax(y / 3)
            expected += 0.05 * 9 * (teacher * np.log(teacher / student)).sum(axis=1).mean()
    tensors = {block: torch.tensor(y, requires_grad=True) for block, y in logits.items()}
    loss = model.loss(tensors, torch.tensor(labels))
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    loss.backward()
    # The teacher learns from its labels alone.
    hot = np.eye(3)[labels]
    np.testing.assert_allclose(tensors[6].grad, (softmax(logits[6]) - hot) / 2, atol=1e-12)


def test_a_single_exit_has_no_distillation(tiny_vit: Path) -> None:
    model = build_model("scalefl", load_backbone(str(tiny_vit)), EXITS, 2, own=1)
    assert model.loss({2: torch.zeros(4, 2)}, torch.tensor([0, 1, 0, 1])).item() == pytest.approx(
        np.log(2), rel=1e-6
    )


def test_an_exit_costs_the_sub_models_up_to_it(tiny_vit: Path) -> None:
    """An exit adds its own tier's model, but for the heads of that model's earlier exits."""
    backbone = load_backbone(str(tiny_vit))
    bank = build_model("scalefl", backbone, EXITS, 5)
    exits = anytime_profile(bank)["exits"]
    before = 0
    for own, (block, width) in enumerate(zip(EXITS, (9, 16, 24), strict=True), start=1):
        tier = build_model("scalefl", backbone, EXITS, 5, own=own)
        alone = anytime_profile(tier)["exits"][str(block)]["flops"]
        earlier_heads = (own - 1) * 2 * width * 5
        assert exits[str(block)]["flops"] - before == alone - earlier_heads
        before = exits[str(block)]["flops"]


def test_images_leave_at_the_exit_that_is_sure_of_them(tiny_vit: Path) -> None:
    model = moved(build_model("scalefl", load_backbone(str(tiny_vit)), EXITS, 3))
    classifier = AnytimeClassifier(model, ["cat", "dog", "elk"])
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    sure = classifier.predict(pixels, exit=2)
    threshold = float(np.median([answer.confidence for answer in sure]))
    answers = classifier.predict(pixels, confidence=threshold)
    last = classifier.predict(pixels)
    assert len({answer.exit for answer in answers}) > 1
    for answer, first, final in zip(answers, sure, last, strict=True):
        if first.confidence >= threshold:
            assert answer == first
        elif answer.exit == 6:
            assert (answer.label, answer.confidence) == (
                final.label,
                pytest.approx(final.confidence),
            )
