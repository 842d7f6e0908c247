"""The hypernetwork: sizes, start, and one vector-Jacobian product for all clients."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models import (
    PERSONAL,
    AdapterModel,
    Hypernetwork,
    HypernetworkTrainer,
    ModelError,
    build_model,
    load_backbone,
)

SHAPES = {f"{PERSONAL}{block}": (3, 6, 2) for block in (1, 2)}


def sized(width: int, rank: int, **options: bool) -> int:
    """Parameters for 12 blocks of LoRA's B, with E=64, H=128 and one hidden layer."""
    shapes = {f"{PERSONAL}{block}": (3, width, rank) for block in range(12)}
    with torch.device("meta"):
        network = Hypernetwork(shapes, **options)
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("width", "rank", "shared", "unshared"),
    [
        # trunk 96 x 128 + 128 + 128 x 128 + 128, head 129 x 768, places (12 + 3) x 16
        (192, 4, 12_416 + 16_512 + 99_072 + 240, 8_320 + 16_512 + 12 * 129 * 3 * 768),
        (384, 8, 12_416 + 16_512 + 129 * 3072 + 240, 8_320 + 16_512 + 12 * 129 * 3 * 3072),
    ],
)
def test_sizes(width: int, rank: int, shared: int, unshared: int) -> None:
    """0.128 M and 3.59 M for DeiT-Ti at rank 4, 0.426 M and 14.3 M for DeiT-S at rank 8."""
    assert sized(width, rank) == shared
    assert sized(width, rank, shared_head=False) == unshared


def test_the_published_form_for_the_published_vit() -> None:
    """E=128, H=150, 3 hidden layers, 6 blocks of 3 x 512 x 128: 87,300 and 178,126,848."""
    shapes = {f"{PERSONAL}{block}": (3, 512, 128) for block in range(6)}
    with torch.device("meta"):
        network = Hypernetwork(shapes, embedding=128, hidden=150, layers=3, shared_head=False)
    assert sum(p.numel() for p in network.trunk.parameters()) == 87_300
    assert sum(p.numel() for p in network.heads.parameters()) == 178_126_848


def make_trainer(seed: int = 0, *, shared: bool = True, rate: float = 0.1) -> HypernetworkTrainer:
    """A small network whose heads do not start at zero."""
    torch.manual_seed(seed)
    network = Hypernetwork(SHAPES, embedding=5, hidden=7, shared_head=shared, zero_start=False)
    return HypernetworkTrainer(network, rate=rate, momentum=0.9)


def inputs(count: int = 3) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    generator = np.random.default_rng(1)
    rows = generator.standard_normal((count, 5), np.float32)
    return rows, {u: generator.standard_normal((count, 36), np.float32) for u in SHAPES}


@pytest.mark.parametrize("shared", [True, False])
def test_one_product_is_the_sum_over_clients(shared: bool) -> None:
    """Each client by itself, with its own backward pass, adds up to the same gradients."""
    rows, cotangents = inputs()
    trainer, network = make_trainer(shared=shared), make_trainer(shared=shared).network
    summed = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    expected_rows = []
    for client in range(3):
        row = torch.from_numpy(rows[client : client + 1].copy()).requires_grad_()
        made = network(row)
        loss = sum(
            (made[unit].flatten() * torch.from_numpy(cotangents[unit][client])).sum()
            for unit in SHAPES
        )
        gradients = torch.autograd.grad(loss, [row, *network.parameters()])
        expected_rows.append(gradients[0][0])
        for (name, _), gradient in zip(network.named_parameters(), gradients[1:], strict=True):
            summed[name] += gradient
    found = trainer.pull(rows, cotangents)
    trainer.step()
    torch.testing.assert_close(torch.from_numpy(found), torch.stack(expected_rows))
    for name, parameter in trainer.network.named_parameters():
        torch.testing.assert_close(parameter.grad, summed[name])
        # The first step of SGD with momentum.
        before = dict(network.named_parameters())[name]
        torch.testing.assert_close(parameter, before - 0.1 * summed[name])


def test_a_pass_run_again_gives_the_gradients_of_the_kept_one() -> None:
    """So nothing but rows and weights has to outlive the sending."""
    rows, cotangents = inputs()
    trainer = make_trainer()
    leaf = torch.from_numpy(rows.copy()).requires_grad_()
    made = trainer.network(leaf)
    sent = trainer.generate(rows)
    found = trainer.pull(rows, cotangents)
    again = {name: p.grad.clone() for name, p in trainer.network.named_parameters()}
    for unit in SHAPES:
        np.testing.assert_array_equal(sent[unit], made[unit].flatten(1).detach().numpy())
    kept = torch.autograd.grad(
        [made[unit].flatten(1) for unit in SHAPES],
        [leaf, *trainer.network.parameters()],
        [torch.from_numpy(cotangents[unit]) for unit in SHAPES],
    )
    assert torch.equal(torch.from_numpy(found), kept[0])
    for gradient, replayed in zip(kept[1:], again.values(), strict=True):
        assert torch.equal(gradient, replayed)


def test_a_clients_tensors_are_those_of_its_row_alone() -> None:
    rows, _ = inputs()
    trainer = make_trainer()
    together, alone = trainer.generate(rows), trainer.generate(rows[1:2])
    for unit in SHAPES:
        np.testing.assert_allclose(together[unit][1], alone[unit][0], rtol=1e-5, atol=1e-6)
        assert together[unit].shape == (3, 36)
        assert not np.allclose(together[unit][0], together[unit][1])


def test_it_starts_at_zero() -> None:
    torch.manual_seed(0)
    made = HypernetworkTrainer(Hypernetwork(SHAPES, embedding=5), rate=1).generate(inputs()[0])
    assert all(not vectors.any() for vectors in made.values())


def test_rows_move_from_the_second_step_on() -> None:
    """A head of zeros hands nothing on to what is before it."""
    torch.manual_seed(0)
    trainer = HypernetworkTrainer(Hypernetwork(SHAPES, embedding=5), rate=1)
    rows, cotangents = inputs()
    assert not trainer.pull(rows, cotangents).any()
    trainer.step()
    assert trainer.pull(rows, cotangents).any()


def test_a_loaded_state_goes_on_with_the_same_bits() -> None:
    """Weights and momenta: the third step equals that of a trainer that never stopped."""
    rows, cotangents = inputs()
    trainer = make_trainer()
    for _ in range(2):
        trainer.pull(rows, cotangents)
        trainer.step()
    other = make_trainer(seed=9)
    other.load_state(trainer.state())
    for each in (trainer, other):
        each.pull(rows, cotangents)
        each.step()
    first, second = trainer.generate(rows), other.generate(rows)
    assert all(first[unit].tobytes() == second[unit].tobytes() for unit in SHAPES)


def test_a_foreign_state_is_refused() -> None:
    state = make_trainer().state()
    name = next(iter(state))
    with pytest.raises(ModelError, match="does not fit"):
        make_trainer().load_state({k: v for k, v in state.items() if k != name})
    momentum = {f"momentum.{name.removeprefix('weight.')}": np.zeros(3, np.float32)}
    spoiled = np.full_like(state[name], np.nan)
    for change in ({name: np.zeros(3, np.float32)}, {name: spoiled}, momentum):
        with pytest.raises(ModelError, match="does not fit"):
            make_trainer().load_state({**state, **change})


@pytest.fixture
def model(tiny_vit: Path) -> AdapterModel:
    return build_model("hyper-attention", load_backbone(str(tiny_vit)), (3, 6), 5, rank=2)


def images() -> torch.Tensor:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_without_personal_tensors_the_pass_is_the_pretrained_one(
    model: AdapterModel, tiny_vit: Path
) -> None:
    """Zero head, zero B: the logits are those of the same heads on the frozen backbone."""
    plain = build_model("exits", load_backbone(str(tiny_vit)), (3, 6), 5)
    heads = {k: v for k, v in model.adapter_arrays().items() if k.startswith("head")}
    plain.load_adapters({key.replace("head", "block", 1): value for key, value in heads.items()})
    for exit_block, logits in plain(images()).items():
        assert torch.equal(model(images())[exit_block], logits)


def test_personal_factors_change_the_projections(model: AdapterModel) -> None:
    """W + (alpha / r) B A for q, k and v of a block, against weights put together by hand."""
    torch.manual_seed(2)
    personal = model.part(f"{PERSONAL}2", "attention")
    personal.B.data.normal_()
    tokens = torch.randn(2, 5, 24)
    attention, frozen = model.block(2).self_attention, model.backbone.blocks[1].self_attention
    for slot, name in enumerate(("q_proj", "k_proj", "v_proj")):
        linear = frozen.get_submodule(name)
        weight = linear.weight + 8 / 2 * personal.B[slot] @ personal.A[slot]
        found = attention.get_submodule(name)(tokens)
        torch.testing.assert_close(found, tokens @ weight.T + linear.bias, atol=1e-5, rtol=1e-4)


def test_fixed_factors_follow_from_the_seed_alone(tiny_vit: Path) -> None:
    """Not from the model's own seed or the exits: every node must have the same."""
    backbone = load_backbone(str(tiny_vit))

    def fixed(exits: tuple[int, ...], **options: int) -> torch.Tensor:
        built = build_model("hyper-attention", backbone, exits, 5, **options)
        factors: torch.Tensor = built.part(f"{PERSONAL}2", "attention").A
        return factors

    assert torch.equal(fixed((3, 6)), fixed((2,), seed=7))
    assert not torch.equal(fixed((3, 6)), fixed((3, 6), factor_seed=1))
    assert fixed((3,)).abs().max() <= 1 / 24**0.5


def test_whole_projections_start_as_the_backbones(tiny_vit: Path) -> None:
    backbone = load_backbone(str(tiny_vit))
    model = build_model("hyper-attention", backbone, (6,), 5, form="projections")
    plain = build_model("exits", backbone, (6,), 5)
    torch.testing.assert_close(model(images())[6], plain(images())[6])
    assert model.adapter_parameters()["personal1.attention.W"].shape == (3, 24, 24)


def test_one_client_and_one_step_give_the_end_to_end_gradient(model: AdapterModel) -> None:
    """Sent minus returned, after one SGD step of rate 0.1, is 0.1 times the gradient at g.

    So the hypernetwork's gradient is 0.1 times that of the client's loss seen through it.
    """
    shapes = {
        key.split(".")[0]: tuple(p.shape)
        for key, p in model.adapter_parameters().items()
        if key.startswith(PERSONAL)
    }
    torch.manual_seed(0)
    network = Hypernetwork(shapes, embedding=5, zero_start=False)
    trainer = HypernetworkTrainer(network, rate=1e-9)
    row = np.random.default_rng(0).standard_normal((1, 5), np.float32)
    labels = torch.tensor([0, 1, 2, 3])
    # End to end: the generated tensors stand in the model while autograd looks on.
    leaf = torch.from_numpy(row.copy()).requires_grad_()
    made = network(leaf)
    parameters = {unit: model.part(unit, "attention").B for unit in shapes}
    for unit, parameter in parameters.items():
        parameter.data.copy_(made[unit][0])
    model.loss(model(images()), labels).backward()
    through = sum((made[unit][0] * p.grad).sum() for unit, p in parameters.items())
    expected = torch.autograd.grad(through, [leaf, *network.parameters()])
    sent = trainer.generate(row)
    deltas = {}
    for unit, parameter in parameters.items():
        returned = parameter.detach() - 0.1 * parameter.grad
        deltas[unit] = sent[unit] - returned.flatten()[None].numpy()
    found = trainer.pull(row, deltas)
    torch.testing.assert_close(torch.from_numpy(found), 0.1 * expected[0], atol=1e-5, rtol=1e-3)
    for parameter, gradient in zip(network.parameters(), expected[1:], strict=True):
        torch.testing.assert_close(parameter.grad, 0.1 * gradient, atol=1e-5, rtol=1e-3)
