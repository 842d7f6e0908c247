"""InclusiveFL's models: two versions of a block, a device's only exit, counts and costs."""

from pathlib import Path

import pytest
import torch
from shapes import shaped_backbone

from models import AdapterModel, AdapterSpec, InclusiveflModel, build_model, load_backbone
from models.cost import exit_costs

EXITS = (2, 4, 6)
SPEC = AdapterSpec("parallel", 4)


def build(tiny_vit: Path, adapter: AdapterSpec = SPEC, *, moved: bool = True) -> AdapterModel:
    """A model with all adapters away from their start, if they are to be moved."""
    backbone = load_backbone(str(tiny_vit))
    model = build_model("inclusivefl", backbone, EXITS, 5, seed=3, adapter=adapter)
    torch.manual_seed(1)
    for parameter in model.adapter_parameters().values():
        parameter.data += 0.1 * torch.randn_like(parameter) * moved
    return model


def images() -> torch.Tensor:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_units_are_shared_blocks_and_the_ends_of_devices(tiny_vit: Path) -> None:
    assert list(build(tiny_vit).units) == [*(f"block{b}" for b in range(1, 7)), "exit2", "exit4"]
    assert list(build(tiny_vit, AdapterSpec()).units) == ["block6", "exit2", "exit4"]


def test_a_version_of_its_own_moves_its_exit_alone(tiny_vit: Path) -> None:
    model = build(tiny_vit)
    before = model(images())
    for unit, moved in {"exit4": [4], "block4": [6], "block3": [4, 6], "block6": [6]}.items():
        start = model.adapter_arrays([unit])
        model.load_adapters({key: value + 0.1 for key, value in start.items()})
        after = model(images())
        assert [e for e in EXITS if not torch.equal(before[e], after[e])] == moved
        model.load_adapters(start)


def test_both_versions_of_a_block_start_alike(tiny_vit: Path) -> None:
    arrays = build(tiny_vit, moved=False).adapter_arrays()
    for block in (2, 4):
        own = {k: v for k, v in arrays.items() if k.startswith(f"exit{block}.adapter.")}
        assert len(own) == 8
        for key, value in own.items():
            assert value.tobytes() == arrays[key.replace("exit", "block")].tobytes()


@pytest.mark.parametrize("spec", [SPEC, AdapterSpec(), AdapterSpec("full")])
def test_logits_are_those_of_a_plain_loop(tiny_vit: Path, spec: AdapterSpec) -> None:
    model = build(tiny_vit, spec)
    for e, logits in model(images()).items():
        (tokens,) = model.begin(images())
        for block in range(1, e):
            tokens = model.block(block)(tokens)
        unit = f"exit{e}" if e < 6 else "block6"
        tokens = (model.part(unit, "adapter") or model.backbone.blocks[e - 1])(tokens)
        assert torch.equal(logits, model.part(unit, "head")(tokens[:, 0]))


@pytest.mark.parametrize(("depth", "end"), [(2, 2), (3, 2), (4, 4), (5, 4), (6, 6)])
def test_a_device_trains_its_last_exit_alone(tiny_vit: Path, depth: int, end: int) -> None:
    """Its loss is the cross-entropy there, and reaches no other version of the block."""
    model = build(tiny_vit)
    logits, labels = model(images(), depth), torch.tensor([0, 1, 2, 3])
    assert list(logits) == [end]
    loss = model.loss(logits, labels)
    assert torch.equal(loss, torch.nn.functional.cross_entropy(logits[end], labels))
    loss.backward()
    used = {k.split(".")[0] for k, p in model.adapter_parameters().items() if p.grad is not None}
    assert used == {*(f"block{b}" for b in range(1, end)), "block6" if end == 6 else f"exit{end}"}


@pytest.mark.parametrize("depth", [3, 4, 6])
@pytest.mark.parametrize("spec", [SPEC, AdapterSpec()])
def test_a_device_can_keep_its_model(tiny_vit: Path, depth: int, spec: AdapterSpec) -> None:
    """A model built with its only exit takes its tensors and gives its logits."""
    model = build(tiny_vit, spec)
    exits, tensors = model.ending_at(depth)
    kept = build_model("inclusivefl", model.backbone, exits, 5, adapter=spec)
    assert isinstance(kept, InclusiveflModel)
    assert set(tensors) == set(kept.adapter_parameters())
    kept.load_adapters(tensors)
    (expected,) = model(images(), depth).values()
    assert torch.equal(kept(images())[exits[0]], expected)


def test_counts_of_what_tiers_hold() -> None:
    """DeiT-S, 100 classes, 4 exits, rank 32: 49,984 in every block of a tier, and one head."""
    model = build_model(
        "inclusivefl", shaped_backbone(384, 6), (3, 6, 9, 12), 100, adapter=AdapterSpec("parallel")
    )
    sizes = dict.fromkeys(model.units, 0)
    for key, parameter in model.adapter_parameters().items():
        sizes[key.split(".")[0]] += parameter.numel()
    for end in (3, 6, 9, 12):
        units = [*(f"block{b}" for b in range(1, end)), f"exit{end}" if end < 12 else "block12"]
        assert sum(sizes[unit] for unit in units) == end * 49_984 + 39_268


def test_the_first_answer_costs_what_it_does_without_a_second_version(tiny_vit: Path) -> None:
    """Who goes on has run one block more at each exit passed; linear probes run none twice."""
    backbone = load_backbone(str(tiny_vit))

    def flops(method: str, spec: AdapterSpec) -> list[int]:
        model = build_model(method, backbone, EXITS, 5, adapter=spec)
        return [cost.flops for cost in exit_costs(model).values()]

    assert flops("inclusivefl", AdapterSpec()) == flops("exits", AdapterSpec())
    one, two, three = flops("exits", SPEC)
    head = 2 * 24 * 5
    block = (two - one - head) // 2
    assert flops("inclusivefl", SPEC) == [one, two + block, three + 2 * block]
