"""The trainer: what it draws, optimisers that are kept, precision and device."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import Run

from client_app.node import LocalNode, simulated_nodes
from client_app.optimizer import learning_rate, restart
from client_app.training import Trainer, client_seed
from data import epoch_order
from settings import Settings, SettingsError
from wiring import get_backbone, get_device, make_model

UNITS = ["block2", "block4", "block6"]


def trainer_of(tiny_vit: Path, **values: Any) -> tuple[Trainer, list[LocalNode]]:
    """A trainer of its own, and three clients."""
    settings = Settings(
        backbone=str(tiny_vit),
        method="exits",
        exits="3",
        num_clients=3,
        clients_per_round=1,
        **values,
    )
    return Trainer(make_model(settings, 10), settings), simulated_nodes(settings)


def train(trainer: Trainer, node: LocalNode, units: list[str], server_round: int = 1) -> Any:
    return trainer.train(
        units,
        6,
        node.train,
        node.train_transform,
        server_round=server_round,
        client_key=node.client_key,
        epochs=2,
    )


def test_classes_are_drawn_as_the_sampling_says(tiny_vit: Path) -> None:
    """The labels of every step are those of the orders that seed, round and client give."""
    trainer, nodes = trainer_of(tiny_vit, sampling="class-balanced", alpha=0.1, batch_size=50)
    seen: list[int] = []
    loss = trainer.model.loss

    def note(logits: Any, labels: torch.Tensor) -> torch.Tensor:
        seen.extend(labels.tolist())
        return loss(logits, labels)

    trainer.model.loss = note  # type: ignore[method-assign]
    train(trainer, nodes[0], UNITS, server_round=4)
    generator = np.random.default_rng(client_seed(trainer.settings, 4, "0"))
    labels = nodes[0].train.labels
    orders = [epoch_order(labels, "class-balanced", generator) for _ in range(2)]
    assert seen == labels[np.concatenate(orders)].tolist()
    # And so the rarest class is far from rare.
    shares = np.bincount(labels)[np.unique(labels)] / len(labels)
    drawn = np.bincount(seen)[np.unique(labels)] / len(seen)
    assert shares.min() < 0.02 < 0.5 / len(shares) < drawn.min()


def one_step(tiny_vit: Path, **values: Any) -> dict[str, np.ndarray]:
    """How far a step of plain SGD at rate 1 moves each tensor: the gradient, as it was clipped."""
    fixed = {"optimizer": "sgd", "learning_rate": 1.0, "head_rate": 1.0, "batch_size": 2000}
    trainer, nodes = trainer_of(tiny_vit, **fixed, **values)
    start = trainer.model.adapter_arrays()
    node = nodes[0]
    trainer.train(
        UNITS, 6, node.train, node.train_transform, server_round=1, client_key="0", epochs=1
    )
    return {key: start[key] - value for key, value in trainer.model.adapter_arrays().items()}


def test_gradients_are_cut_by_value_and_then_scaled_by_norm(tiny_vit: Path) -> None:
    free = one_step(tiny_vit, clip_norm=0.0)
    largest = max(np.abs(value).max() for value in free.values())
    limit = float(largest) / 4
    cut = {key: value.clip(-limit, limit) for key, value in free.items()}
    norm = float(np.sqrt(sum((value**2).sum() for value in cut.values())))
    found = one_step(tiny_vit, clip_norm=0.0, clip_value=limit)
    both = one_step(tiny_vit, clip_norm=norm / 2, clip_value=limit)
    for key, value in cut.items():
        np.testing.assert_allclose(found[key], value, atol=1e-6)
        np.testing.assert_allclose(both[key], value / 2, atol=1e-6)


def test_the_schedule_falls_to_the_minimum() -> None:
    """Half a cosine over four rounds: 1, 0.85, 0.5, 0.15 of the rate."""
    values: dict[str, Any] = {"learning_rate": 0.1, "rounds": 4}
    free, floored = Settings(**values), Settings(**values, minimum_rate=0.03)
    rates = [0.1, 0.05 * (1 + 0.5**0.5), 0.05, 0.05 * (1 - 0.5**0.5)]
    assert [learning_rate(free, r) for r in range(1, 5)] == pytest.approx(rates)
    assert [learning_rate(floored, r) for r in range(1, 5)] == pytest.approx([*rates[:3], 0.03])
    constant = Settings(**values, schedule="constant", minimum_rate=0.03)
    assert learning_rate(constant, 4) == 0.1


def test_the_published_schedule_is_ours_one_round_later() -> None:
    """max(1e-3, 0.05 / 2 (1 + cos(pi r / 1000))) with r from 1."""
    settings = Settings(learning_rate=0.05, minimum_rate=1e-3, rounds=1000)
    for published in (1, 250, 500, 900, 950, 999):
        cosine = 0.5 * 0.05 * (1 + np.cos(np.pi * published / 1000))
        assert learning_rate(settings, published + 1) == pytest.approx(max(1e-3, cosine))


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_scores_between_epochs_leave_the_training_alone(tiny_vit: Path, optimizer: str) -> None:
    """The optimiser and the random numbers go on: the same bits as without a look."""
    results = []
    for looked in (False, True):
        trainer, nodes = trainer_of(tiny_vit, optimizer=optimizer, augment="crop")
        node, seen = nodes[0], []

        def look(trainer: Trainer = trainer, node: LocalNode = node, seen: Any = seen) -> None:
            seen.append(trainer.predictor.score(node.test, node.test_transform, 6).last)
            assert not trainer.model.training

        result = trainer.train(
            UNITS,
            6,
            node.train,
            node.train_transform,
            server_round=1,
            client_key="0",
            epochs=3,
            after_epoch=look if looked else None,
        )
        assert len(seen) == 3 * looked
        assert trainer.model.training
        results.append((trainer.model.adapter_arrays(), result.metrics["train-loss"]))
    (plain, loss), (watched, same_loss) = results
    assert loss == same_loss
    for key, value in plain.items():
        assert watched[key].tobytes() == value.tobytes()


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adamw"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_kept_optimiser_gives_the_bits_of_a_new_one(
    tiny_vit: Path, optimizer: str, weight_decay: float
) -> None:
    """Other clients before, with the same units, others, and the same again."""
    values: dict[str, Any] = {"optimizer": optimizer, "weight_decay": weight_decay}
    used, nodes = trainer_of(tiny_vit, **values)
    start = used.model.adapter_arrays()
    train(used, nodes[0], UNITS, server_round=1)
    train(used, nodes[2], UNITS[1:], server_round=1)
    used.model.load_adapters(start)
    train(used, nodes[1], UNITS, server_round=2)
    fresh, _ = trainer_of(tiny_vit, **values)
    train(fresh, nodes[1], UNITS, server_round=2)
    expected = fresh.model.adapter_arrays()
    for key, value in used.model.adapter_arrays().items():
        assert value.tobytes() == expected[key].tobytes()
        assert value.tobytes() != start[key].tobytes()


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_restart_leaves_no_trace(tiny_vit: Path, optimizer: str) -> None:
    trainer, nodes = trainer_of(tiny_vit, optimizer=optimizer)
    train(trainer, nodes[0], UNITS)
    keys = tuple(trainer.model.adapter_parameters())
    kept = trainer._optimizer(keys)
    assert trainer._optimizer.cache_info().hits == 1
    tensors = [t for state in kept.state.values() for t in state.values() if t is not None]
    assert len(tensors) == {"momentum": 1, "adamw": 3}[optimizer] * len(keys)
    assert all(t.any() for t in tensors)
    restart(kept, 0.5)
    assert not any(t.any() for t in tensors)
    # All of these are heads, which learn ten times as fast.
    assert [group["lr"] for group in kept.param_groups] == [5.0]


def test_bf16_trains_fp32_adapters_to_the_same_accuracy(
    run_app: Callable[..., Run], tiny_vit: Path
) -> None:
    """Products of 8 bits: within 0.1 of an accuracy of about 0.5."""
    values = {"method": "accumulator", "learning_rate": 0.01}
    types = set()
    block = get_backbone(Settings(backbone=str(tiny_vit))).blocks[3]
    handle = block.feed_forward.register_forward_hook(lambda _, __, out: types.add(out.dtype))
    full = run_app("full", **values)
    assert types == {torch.float32}
    types.clear()
    half = run_app("half", **values, precision="bf16")
    handle.remove()
    assert torch.bfloat16 in types
    found, expected = half.summary["accuracy"]["mean"], full.summary["accuracy"]["mean"]
    assert expected > 0.3
    assert found == pytest.approx(expected, abs=0.1)
    assert {value.dtype for value in half.bank().values()} == {np.dtype(np.float32)}
    assert all(np.isfinite(value).all() for value in half.bank().values())
    # More than 8 bits of them are used.
    weight = half.bank()["shared.head.1.weight"]
    assert (weight.view(np.uint32) & 0xFFFF).any()


def test_the_cpu_can_be_named(tiny_vit: Path) -> None:
    settings = Settings(device="cpu", backbone=str(tiny_vit), exits="3")
    assert get_device(settings) == make_model(settings, 10).device == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cuda:99", "meta", "hpu", "vulkan"])
def test_a_device_that_is_not_there_gets_a_sentence(name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        get_device(Settings(device=name))
    sentence = str(caught.value)
    assert sentence.startswith(f"device: '{name}' cannot be used here (")
    count = torch.cuda.device_count()
    assert sentence.endswith(f"); set auto, cpu, or a GPU that this machine has ({count} of CUDA).")
    assert "\n" not in sentence
    assert len(sentence) < 400
