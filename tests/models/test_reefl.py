"""ReeFL against a plain reading of its equations, over the whole history, head by head."""

import math
from pathlib import Path

import pytest
import torch
from shapes import shaped_backbone
from torch import Tensor

from models import ReeflModel, build_model, load_backbone
from models.history import HistoryAttention

LABELS = torch.tensor([0, 1, 2])


def randomised(model: ReeflModel) -> ReeflModel:
    torch.manual_seed(1)
    for parameter in model.adapter_parameters().values():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def images() -> Tensor:
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("width", "heads", "classes", "count"),
    [
        (384, 6, 100, 469_914),
        (384, 6, 62, 455_284),
        (384, 6, 35, 444_889),
        (384, 6, 12, 436_034),
        (192, 3, 100, 135_575),
        (192, 3, 62, 128_241),
        (192, 3, 35, 123_030),
        (192, 3, 12, 118_591),
    ],
)
@pytest.mark.parametrize("exits", [(3, 6, 9, 12), tuple(range(1, 13))])
def test_parameter_counts(
    width: int, heads: int, classes: int, count: int, exits: tuple[int, ...]
) -> None:
    """The table of the paper's code, for DeiT-S and ViT-Tiny; the same at 4 and 12 exits."""
    model = ReeflModel(shaped_backbone(width, heads), exits, classes)
    assert sum(p.numel() for p in model.adapter_parameters().values()) == count


def test_parameter_counts_of_the_backbone() -> None:
    backbone = shaped_backbone(384, 6)
    embeddings = sum(p.numel() for p in backbone.embed.parameters())
    blocks = [sum(p.numel() for p in block.parameters()) for block in backbone.blocks]
    sizes = [embeddings + sum(blocks[:depth]) for depth in (3, 6, 9, 12)]
    assert sizes == [5_694_720, 11_018_112, 16_341_504, 21_664_896]


def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight + bias


def plain_ree(history: Tensor, p: dict[str, Tensor]) -> Tensor:
    """All outputs ``(B, n, D)`` of Ree; attention head by head, width 16, scale 1/4."""
    normed = norm(history, p["norm1.weight"], p["norm1.bias"])
    q, k, v = (normed @ p["qkv.weight"].T + p["qkv.bias"]).split(16, dim=-1)
    heads = []
    for first in range(0, 16, 2):
        part = slice(first, first + 2)
        attention = (q[..., part] @ k[..., part].transpose(1, 2) / 4).softmax(-1)
        heads.append(attention @ v[..., part])
    x = history + torch.cat(heads, -1) @ p["out.weight"].T + p["out.bias"]
    normed = norm(x, p["norm2.weight"], p["norm2.bias"])
    hidden = normed @ p["up.weight"].T + p["up.bias"]
    gelu = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    return x + gelu @ p["down.weight"].T + p["down.bias"]


def plain_reefl(model: ReeflModel, pixels: Tensor, history: str) -> dict[int, Tensor]:
    """The whole pass, Ree recomputed over the entire history after every block."""
    p = {key.removeprefix("shared."): v.detach() for key, v in model.adapter_parameters().items()}
    ree = {key.removeprefix("ree."): v for key, v in p.items() if key.startswith("ree.")}
    x = model.backbone.embed(pixels)
    seen: list[Tensor] = []
    logits = {}
    for number, block in enumerate(model.backbone.blocks, start=1):
        x = block(x)
        z = x[:, 0].clone()
        tokens = [p["tokens.query"].expand(len(x), -1), *seen, z]
        m = plain_ree(torch.stack(tokens, 1) + p["tokens.depth"][: number + 1], ree)
        if number in model.exits:
            normed = norm(m[:, 0] + z, p["head.0.weight"], p["head.0.bias"])
            logits[number] = normed @ p["head.1.weight"].T + p["head.1.bias"]
        seen.append(m[:, -1] if history == "modulated" else z)
        x = torch.cat([m[:, -1:], x[:, 1:]], 1)
    return logits


@pytest.mark.parametrize("history", ["modulated", "raw"])
def test_the_pass_is_that_of_the_equations(tiny_vit: Path, history: str) -> None:
    backbone = load_backbone(str(tiny_vit))
    model = randomised(ReeflModel(backbone, (1, 3, 6), 5, history=history))
    expected, found = plain_reefl(model, images(), history), model(images())
    assert list(found) == [1, 3, 6]
    for exit_block, logits in expected.items():
        torch.testing.assert_close(found[exit_block], logits, atol=2e-5, rtol=1e-4)


def test_the_histories_differ(tiny_vit: Path) -> None:
    """Not after the first block, whose history is its own token; after each later one."""
    backbone = load_backbone(str(tiny_vit))
    raw, modulated = (
        randomised(ReeflModel(backbone, (1, 2, 6), 5, history=h))(images())
        for h in ("raw", "modulated")
    )
    torch.testing.assert_close(raw[1], modulated[1])
    for exit_block in (2, 6):
        assert (raw[exit_block] - modulated[exit_block]).abs().max() > 1e-3


def test_three_blocks_with_the_whole_loss(tiny_vit: Path) -> None:
    """Exits after blocks 1, 2 and 3 in round 150: cross-entropies, best teacher, ramp 300."""
    model = randomised(ReeflModel(load_backbone(str(tiny_vit)), (1, 2, 3), 5))
    logits = plain_reefl(model, images(), "modulated")
    log_p = {e: y - y.exp().sum(1, keepdim=True).log() for e, y in logits.items()}
    losses = {e: -sum(y[i, c] for i, c in enumerate(LABELS)) / 3 for e, y in log_p.items()}
    teacher = min(losses, key=lambda e: losses[e])
    distilled = sum(
        (log_p[teacher].exp() * (log_p[teacher] - log_p[e])).sum() / 3
        for e in losses
        if e != teacher
    )
    expected = sum(losses.values()) + math.exp(-5 * 0.5**2) * distilled
    model.begin_round(150)
    torch.testing.assert_close(model.loss(model(images()), LABELS), expected)


def test_a_step_equals_the_whole_history() -> None:
    """What `step` gives after each token is what `forward` gives over all tokens so far."""
    torch.manual_seed(0)
    attention = HistoryAttention(24, 16, 32, scale=0.25)
    learned, tokens = torch.randn(3, 1, 24), torch.randn(3, 7, 24)
    memory = None
    for number in range(7):
        pair = torch.cat([learned, tokens[:, number : number + 1]], 1)
        outputs, with_it = attention.step(pair, memory)
        whole = attention(torch.cat([learned, tokens[:, : number + 1]], 1))
        torch.testing.assert_close(outputs, whole)
        remembered = attention.remember(memory, tokens[:, number : number + 1])
        for one, other in zip(with_it, remembered, strict=True):
            torch.testing.assert_close(one, other)
        memory = with_it


def test_from_zero_the_first_pass_is_the_pretrained_one(tiny_vit: Path) -> None:
    """With the published start it is not."""
    backbone = load_backbone(str(tiny_vit))
    tokens = backbone.embed(images())
    for block in backbone.blocks:
        tokens = block(tokens)
    for start, same in (("zero", True), ("published", False)):
        model = build_model("reefl", backbone, (6,), 5, start=start)
        state = model.begin(images())
        for number in range(1, 7):
            state, _ = model.advance(state, number)
        assert torch.allclose(state[0], tokens, atol=1e-5) == same


@pytest.mark.parametrize("history", ["modulated", "raw"])
def test_what_the_history_holds(
    tiny_vit: Path, history: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entry j is m_j with "modulated" and z_j with "raw", each with its depth embedding."""
    model = randomised(ReeflModel(load_backbone(str(tiny_vit)), (6,), 5, history=history))
    pairs, outputs = [], []
    step = HistoryAttention.step

    def watched(self: HistoryAttention, pair: Tensor, past: tuple[Tensor, Tensor] | None):  # type: ignore[no-untyped-def]
        pairs.append(pair)
        outputs.append(step(self, pair, past))
        return outputs[-1]

    monkeypatch.setattr(HistoryAttention, "step", watched)
    state = model.begin(images())
    for block in range(1, 7):
        state, _ = model.advance(state, block)
    ree, depth = model.part("shared", "ree"), model.part("shared", "tokens").depth
    for number in range(1, 7):
        modulated = outputs[number - 1][0][:, 1:] + depth[number]
        entry = modulated if history == "modulated" else pairs[number - 1][:, 1:]
        keys, values = ree.remember(None, entry)
        torch.testing.assert_close(state[1][:, :, number - 1 : number], keys)
        torch.testing.assert_close(state[2][:, :, number - 1 : number], values)


def test_four_exits_on_twelve_blocks() -> None:
    """Ree runs after every block, the head at the exits only."""
    model = build_model("reefl", load_backbone("builtin"), (3, 6, 9, 12), 10)
    heads: list[int] = []
    model.part("shared", "head").register_forward_hook(lambda *_: heads.append(1))
    rees: list[int] = []
    model.part("shared", "ree").down.register_forward_hook(lambda *_: rees.append(1))
    assert list(model(torch.randn(2, 3, 32, 32))) == [3, 6, 9, 12]
    assert (len(rees), len(heads)) == (12, 4)


def test_rows_above_the_depth_get_no_gradient(tiny_vit: Path) -> None:
    model = ReeflModel(load_backbone(str(tiny_vit)), (2, 4, 6), 5)
    model.loss(model(images(), depth=4), LABELS).backward()
    gradient = model.part("shared", "tokens").depth.grad
    moved = [bool(row.any()) for row in gradient]
    assert moved == [True] * 5 + [False] * 2
