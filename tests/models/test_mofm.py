"""Two experts and a gate against plain readings of their equations, sizes and memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from shapes import shaped_backbone
from torch import nn

from models import AdapterSpec, Mixture, MofmModel, build_model, load_backbone
from models.gates import AdapterGate, build_gate

EXITS = (4, 6)


def images(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def make(tiny_vit: Path, exits: tuple[int, ...] = EXITS, **options: Any) -> MofmModel:
    built = build_model("mofm", load_backbone(str(tiny_vit)), exits, 5, seed=3, **options)
    assert isinstance(built, MofmModel)
    return built


def disturb(model: MofmModel, *prefixes: str) -> None:
    """Move the units whose names begin so away from where they are."""
    generator = torch.Generator().manual_seed(1)
    for key, parameter in model.adapter_parameters().items():
        if key.startswith(prefixes):
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)


@pytest.fixture
def moved(tiny_vit: Path) -> MofmModel:
    """A model in stage 2, everything away from its start."""
    model = make(tiny_vit)
    disturb(model, "block", "head", "gate")
    model.keep(["local-head6"], {})
    disturb(model, "local-")
    return model


@pytest.mark.parametrize("gate", ["adapter", "private", "scalar", "half", "local"])
@pytest.mark.parametrize("kind", ["none", "parallel", "ssf", "full"])
def test_stage_two_begins_with_the_answers_of_the_global_expert(
    gate: str, kind: str, tiny_vit: Path
) -> None:
    """Bit for bit, whatever the gate: the local expert is a copy."""
    model = make(tiny_vit, gate=gate, adapter=AdapterSpec(kind, 4))
    disturb(model, "block", "head", "gate", "embed")
    before = model(images())
    assert not isinstance(before, Mixture)
    model.keep(["local-head6"], {})
    after = model(images())
    assert isinstance(after, Mixture)
    for e in EXITS:
        assert torch.equal(after[e], before[e])
        assert torch.equal(after.routed()[e], before[e])


@pytest.mark.parametrize("kind", ["none", "lora", "parallel", "serial", "ssf", "full"])
def test_what_is_not_active_is_as_if_it_were_not_there(kind: str, tiny_vit: Path) -> None:
    """It does not travel, and tiers of other ranks draw other adapters."""
    model = make(tiny_vit, adapter=AdapterSpec(kind, 4))
    tokens = model.backbone.embed(images())
    for number, block in enumerate(model.backbone.blocks, 1):
        tokens = block(tokens)
        if number in EXITS:
            expected = model.part(f"head{number}", "head")(model.backbone.read_out(tokens))
            assert torch.allclose(model(images())[number], expected, atol=1e-6)


def test_weights_add_up_and_start_at_one_half(tiny_vit: Path) -> None:
    model = make(tiny_vit, mixing=True)
    for weights in model(images()).weights.values():  # type: ignore[attr-defined]
        assert torch.equal(weights, torch.full((4, 2), 0.5))
    disturb(model, "gate")
    for weights in model(images()).weights.values():  # type: ignore[attr-defined]
        assert torch.allclose(weights.sum(dim=1), torch.ones(4), atol=1e-6)
        assert not torch.allclose(weights, torch.tensor(0.5), atol=1e-4)


def test_the_gate_is_that_of_its_equation() -> None:
    """softmax(V (u + Up GELU(Down LN(u))) / T), read a second time with plain numbers."""
    torch.manual_seed(2)
    gate = AdapterGate(6, 3, temperature=2.0)
    for parameter in gate.parameters():
        nn.init.normal_(parameter)
    u = torch.randn(1, 6)
    normed = (u - u.mean()) / torch.sqrt(((u - u.mean()) ** 2).mean() + 1e-5)
    low = (normed * gate.norm.weight + gate.norm.bias) @ gate.down.weight.T + gate.down.bias
    low = low * 0.5 * (1 + torch.erf(low / 2**0.5))
    scores = (u + low @ gate.up.weight.T + gate.up.bias) @ gate.V.weight.T + gate.V.bias
    first, second = (scores / 2).exp()[0]
    expected = torch.stack([first, second])[None] / (first + second)
    assert torch.allclose(gate(u), expected, atol=1e-6)


def test_other_gates_by_hand() -> None:
    u = torch.zeros(2, 6)
    scalar: Any = build_gate("scalar", 6, 3, 1.0)
    scalar.score.data.fill_(1.0)
    share = 1 / (1 + 2.718281828**-1)
    assert torch.allclose(scalar(u), torch.tensor([[1 - share, share]] * 2), atol=1e-6)
    assert build_gate("half", 6, 3, 1.0)(u).tolist() == [[0.5, 0.5]] * 2
    assert build_gate("local", 6, 3, 1.0)(u).tolist() == [[0.0, 1.0]] * 2


def test_the_mixture_and_the_routed_answer_by_hand() -> None:
    mixture = Mixture(
        {6: torch.tensor([[1.0, 0.0], [1.0, 0.0]])},
        {6: torch.tensor([[0.0, 2.0], [0.0, 2.0]])},
        {6: torch.tensor([[0.75, 0.25], [0.25, 0.75]])},
    )
    assert mixture[6].tolist() == [[0.75, 0.5], [0.25, 1.5]]
    assert mixture.routed()[6].tolist() == [[1.0, 0.0], [0.0, 2.0]]


def test_the_mixture_is_made_of_three_passes(moved: MofmModel) -> None:
    """Each expert as a stage-1 model of its own tensors, the gate on the plain backbone."""
    mixture: Any = moved(images())
    moved.mixing = False
    of_global = moved(images())
    for key, parameter in moved.adapter_parameters().items():
        if key.startswith("local-"):
            other = moved.adapter_parameters().get(key.removeprefix("local-"))
            if other is not None:
                other.data.copy_(parameter)
    for fixed, local in zip(
        moved.fixed_factors,
        [p for k, p in moved.adapter_parameters().items() if k.endswith(".A")],
        strict=True,
    ):
        fixed.data.copy_(local)
    of_local = moved(images())
    backbone = moved.backbone
    tokens = backbone.embed(images())
    for number, block in enumerate(backbone.blocks, 1):
        tokens = block(tokens)
        if number in EXITS:
            weights = moved.part(f"gate{number}", "gate")(tokens[:, 0])
            expected = weights[:, :1] * of_global[number] + weights[:, 1:] * of_local[number]
            assert torch.allclose(mixture[number], expected, atol=1e-5)


def test_kept_features_give_the_mixture_of_the_images(moved: MofmModel) -> None:
    for depth in (None, 5):
        features = moved.features(images(), depth)
        assert features.shape == (4, 2 if depth is None else 1, 5 + 24)
        assert not features.requires_grad
        found, expected = moved(images(), depth, features), moved(images(), depth)
        assert list(found) == list(expected)
        for e, logits in expected.items():
            assert torch.equal(found[e], logits)


def test_versions_tell_which_exits_a_change_reaches(moved: MofmModel) -> None:
    before = moved.feature_versions()
    assert moved.feature_versions(5) == before[:1]
    disturb(moved, "local-", "gate")
    assert moved.feature_versions() == before
    disturb(moved, "block5")
    after = moved.feature_versions()
    assert (after[0] == before[0], after[1] == before[1]) == (True, False)
    disturb(moved, "head4")
    assert moved.feature_versions()[0] != before[0]


def test_what_a_client_has_of_its_own_takes_the_place_of_the_copy(moved: MofmModel) -> None:
    own = moved.adapter_arrays(["local-block6", "local-head6"])
    other = moved.adapter_arrays(["local-block2"])
    moved.keep(["local-head6"], own)
    for key, value in own.items():
        assert moved.adapter_arrays()[key].tobytes() == value.tobytes()
    for key, value in other.items():
        assert moved.adapter_arrays()[key].tobytes() != value.tobytes()
    moved.keep([], {})
    assert not isinstance(moved(images()), Mixture)


def test_the_loss_by_hand(moved: MofmModel) -> None:
    """CE of the mixture, half that of the local expert, and half the squared distance times mu."""
    moved.exits, moved.local_weight, moved.proximal = (6,), 0.5, 0.2
    labels = torch.tensor([0, 1, 2, 3])
    mixture: Any = moved(images())
    cross_entropy = nn.functional.cross_entropy
    tensors = moved.adapter_parameters()
    apart = sum(
        (p - tensors[k.removeprefix("local-")]).square().sum().item()
        for k, p in tensors.items()
        if k.startswith("local-") and k.removeprefix("local-") in tensors
    )
    factors = [p for k, p in tensors.items() if k.endswith(".A")]
    apart += sum(
        (p - a).square().sum().item() for p, a in zip(factors, moved.fixed_factors, strict=True)
    )
    expected = cross_entropy(mixture[6], labels)
    expected += 0.5 * cross_entropy(mixture.local_logits[6], labels) + 0.1 * apart
    assert moved.loss(mixture, labels).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_global_expert_trains_b_alone(tiny_vit: Path) -> None:
    """A is the same on every machine, whatever the seed of the run, and no tensor of the bank."""
    first, other = make(tiny_vit), make(tiny_vit, factor_seed=1)
    keys = [key for key in first.adapter_parameters() if key.startswith("block")]
    assert {key.split(".")[-1] for key in keys} == {"B"}
    local = {k.split(".")[-1] for k in first.adapter_parameters() if k.startswith("local-block")}
    assert local == {"A", "B"}
    assert len(first.fixed_factors) == 12
    again = build_model("mofm", load_backbone(str(tiny_vit)), EXITS, 5, seed=9)
    assert isinstance(again, MofmModel)
    for mine, same, different in zip(
        first.fixed_factors, again.fixed_factors, other.fixed_factors, strict=True
    ):
        assert mine.shape == (8, 24)
        assert mine.abs().max() <= 24**-0.5
        assert torch.equal(mine, same)
        assert not torch.equal(mine, different)
        assert not mine.requires_grad
    both = make(tiny_vit, factors="both").adapter_parameters()
    assert {k.split(".")[-1] for k in both if k.startswith("block")} == {"A", "B"}


def test_sizes_are_those_of_the_specification() -> None:
    """D = 384, r = 8: 12,288 numbers in a block with both factors; a gate of m = 32 has 26,530."""
    with torch.device("meta"):
        gate = AdapterGate(384, 32, 1.0)
    assert sum(p.numel() for p in gate.parameters()) == 26_530
    with torch.device("meta"):
        gate = AdapterGate(768, 32, 1.0)
    assert sum(p.numel() for p in gate.parameters()) == 53_026
    model = build_model("mofm", shaped_backbone(384, 2), (2,), 100, factors="both")
    sizes = {key: p.numel() for key, p in model.adapter_parameters().items()}
    assert sum(size for key, size in sizes.items() if key.startswith("block1.")) == 12_288
    model = build_model("mofm", shaped_backbone(384, 2), (2,), 100)
    sizes = {key: p.numel() for key, p in model.adapter_parameters().items()}
    assert sum(size for key, size in sizes.items() if key.startswith("block1.")) == 6_144


def saved_bytes(model: MofmModel, units: list[str], batch: torch.Tensor) -> int:
    """Bytes of the activations that autograd keeps for the backward pass, each memory once."""
    model.set_trained(units)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        logits = model(batch)
        loss = model.loss(logits, torch.zeros(len(batch), dtype=torch.long))
    del loss
    return sum(kept.values())


@pytest.mark.parametrize(("factors", "per_block"), [("B", 10), ("both", 11)])
def test_memory_grows_with_the_active_blocks_from_the_top(factors: str, per_block: int) -> None:
    """In units of a block's tokens, U = 4 B N D bytes.

    A block keeps the inputs of two layer norms (1 each) and of GELU (4), and q, k, v and the output
    of attention (1 each); where A is trained, its input too. The lowest block needs no input of its
    first layer norm.
    """
    blocks, batch = 4, torch.randn(2, 3, 224, 224)
    backbone = shaped_backbone(384, 6, blocks, "cpu")
    model = build_model("mofm", backbone, (blocks,), 10, factors=factors)
    assert isinstance(model, MofmModel)
    unit = 4 * 2 * 197 * 384
    top_down = [[f"block{b}" for b in range(blocks, blocks - k, -1)] for k in range(1, blocks + 1)]
    sizes = [saved_bytes(model, ["head4", *units], batch) for units in top_down]
    assert sizes == sorted(sizes)
    for k, size in enumerate(sizes, 1):
        assert size == pytest.approx((per_block * k - 1) * unit, rel=0.02)
    # From the bottom the gradient crosses every block at once.
    assert saved_bytes(model, ["head4", "block1"], batch) > 0.9 * sizes[-1]
