"""Means of LoRA's products against the dense products that they stand for."""

from typing import Any

import numpy as np
import pytest

from strategies import Aggregation, Layout, Plan, StrategyError, plain_record
from strategies.bank import Bank
from strategies.lora_product import mean_product

FACTORS = (("b.q.A", "b.q.B"),)


def random_replies(
    ranks: list[int], outputs: int, inputs: int, seed: int = 0
) -> list[tuple[float, np.ndarray, np.ndarray]]:
    generator = np.random.default_rng(seed)
    return [
        (
            number + 1.0,
            generator.normal(size=(outputs, rank)).astype(np.float32),
            generator.normal(size=(rank, inputs)).astype(np.float32),
        )
        for number, rank in enumerate(ranks)
    ]


def dense_mean(replies: list[tuple[float, np.ndarray, np.ndarray]]) -> np.ndarray:
    products = [w * b.astype(np.float64) @ a.astype(np.float64) for w, b, a in replies]
    return sum(products) / sum(w for w, _, _ in replies)


@pytest.mark.parametrize(
    ("ranks", "outputs", "inputs", "rank"),
    [
        ([4, 4], 20, 30, 8),  # the mean has no more than the bank's rank: nothing is lost
        ([1, 2, 4], 20, 30, 4),
        ([3, 3, 3, 3], 7, 5, 3),  # more ranks together than rows and columns
        ([2], 6, 6, 2),
    ],
)
def test_the_result_is_the_nearest_product_of_the_banks_rank(
    ranks: list[int], outputs: int, inputs: int, rank: int
) -> None:
    """numpy's SVD of the dense mean is the reference (Eckart and Young)."""
    replies = random_replies(ranks, outputs, inputs)
    b, a = mean_product(replies, np.zeros((rank, inputs), np.float32))
    u, values, v = np.linalg.svd(dense_mean(replies))
    nearest = u[:, :rank] * values[:rank] @ v[:rank]
    np.testing.assert_allclose(b @ a, nearest, atol=1e-6)
    for part in range(1, rank):
        cut = u[:, :part] * values[:part] @ v[:part]
        np.testing.assert_allclose(b[:, :part] @ a[:part], cut, atol=1e-6)


def test_factors_are_balanced_and_their_signs_are_fixed() -> None:
    replies = random_replies([2, 3], 9, 11)
    b, a = mean_product(replies, np.zeros((3, 11), np.float32))
    values = np.linalg.svd(dense_mean(replies), compute_uv=False)[:3]
    np.testing.assert_allclose(np.linalg.norm(b, axis=0) ** 2, values, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(a, axis=1) ** 2, values, rtol=1e-6)
    assert (b[np.abs(b).argmax(axis=0), range(3)] > 0).all()
    turned = [(weight, -b_c, -a_c) for weight, b_c, a_c in replies]
    for one, other in zip((b, a), mean_product(turned, np.zeros((3, 11))), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


def test_by_hand() -> None:
    """Weights 1 and 3 of rank 1: (1 * [[4, 0], [0, 0]] + 3 * [[0, 0], [0, 12]]) / 4."""
    replies = [
        (1.0, np.array([[4.0], [0]]), np.array([[1.0, 0]])),
        (3.0, np.array([[0], [-3.0]]), np.array([[0, -4.0]])),
    ]
    b, a = mean_product(replies, np.zeros((2, 2)))
    np.testing.assert_allclose(b, [[0, 1], [3, 0]], atol=1e-12)
    np.testing.assert_allclose(a, [[0, 3], [1, 0]], atol=1e-12)


def test_a_zero_product_keeps_the_old_rows_of_a() -> None:
    """As after a round in which B stayed zero: LoRA can go on from there."""
    old = np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32)
    replies = [(1.0, np.zeros((4, 3)), old + 1), (2.0, np.zeros((4, 2)), old[:2] - 1)]
    b, a = mean_product(replies, old)
    assert not b.any()
    np.testing.assert_array_equal(a.astype(np.float32), old)


def test_rows_beyond_the_rank_of_the_mean_keep_the_old_ones() -> None:
    old = np.random.default_rng(2).normal(size=(4, 6)).astype(np.float32)
    replies = random_replies([1, 1], 5, 6)
    b, a = mean_product(replies, old)
    np.testing.assert_allclose(b @ a, dense_mean(replies), atol=1e-6)
    assert not b[:, 2:].any()
    np.testing.assert_array_equal(a[2:].astype(np.float32), old[2:])


def bank_of(tensors: dict[str, Any]) -> Bank:
    return Bank(plain_record({k: np.array(v, np.float32) for k, v in tensors.items()}), packed=True)


def lora_bank(seed: int = 3) -> Bank:
    generator = np.random.default_rng(seed)
    a, b = generator.normal(size=(3, 4)), generator.normal(size=(5, 3))
    return bank_of({"b.q.A": a, "b.q.B": b, "b.head": [1, 2], "c.head": [3]})


def plan_of(rank: int) -> Plan:
    shapes = {"b.q.A": (rank, 4), "b.q.B": (5, rank), "b.head": (2,), "c.head": (1,)}
    return Plan(1, ("b", "c"), (), Layout(shapes))


@pytest.mark.parametrize("clip", [0.0, 1e6])
def test_clients_of_mixed_ranks_and_other_tensors_beside(clip: float) -> None:
    """Rank 1 with weight 1 and the bank's 3 with weight 3; heads are averaged as usual."""
    bank = lora_bank()
    aggregator = Aggregation(clip=clip, factors=FACTORS).begin(bank.layout, (), bank.vectors)
    generator, replies = np.random.default_rng(4), []
    for rank, weight in [(1, 1.0), (3, 3.0)]:
        plan = plan_of(rank)
        a, b = generator.normal(size=(rank, 4)), generator.normal(size=(5, rank))
        sent = np.concatenate([a.ravel(), b.ravel(), [weight, 0]]).astype(np.float32)
        aggregator.add(bank.in_place({"b": sent}, plan), weight, plan)
        replies.append((weight, b, a))
    result = aggregator.result(bank.vectors)
    assert "c" not in result
    new = bank.layout.split(result)
    assert new["b.head"].tolist() == [(1 + 9) / 4, 0]
    u, values, v = np.linalg.svd(dense_mean(replies))
    nearest = u[:, :3] * values[:3] @ v[:3]
    np.testing.assert_allclose(new["b.q.B"] @ new["b.q.A"], nearest, atol=1e-5)


def test_factors_that_nobody_changed_keep_their_bits() -> None:
    """A client of rank 1 and one of rank 3 send back what they got, and new heads."""
    bank = lora_bank()
    aggregator = Aggregation(factors=FACTORS).begin(bank.layout, (), bank.vectors)
    for rank in (1, 3):
        plan = plan_of(rank)
        own = bank.layout.cut("b", bank.vectors["b"], plan.layout)
        own[-1] += 1
        aggregator.add(bank.in_place({"b": own}, plan), 1, plan)
    result = aggregator.result(bank.vectors)["b"]
    assert result[:-1].tobytes() == bank.vectors["b"][:-1].tobytes()
    assert result[-1] == 3


def test_the_result_repeats_to_the_bit() -> None:
    replies = random_replies([2, 4, 8], 32, 24)
    first, again = (mean_product(replies, np.zeros((8, 24))) for _ in range(2))
    assert all(one.tobytes() == other.tobytes() for one, other in zip(first, again, strict=True))


@pytest.mark.parametrize(
    "options",
    [{"rule": "median"}, {"clip": 1.0, "noise_multiplier": 1.0}, {"weighted": False}],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(StrategyError, match="product is a weighted mean without noise"):
        Aggregation(factors=FACTORS, **options)
