"""Median and trimmed mean over holders against numbers worked out by hand, numpy and scipy."""

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import scipy.stats
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from server_app.inprocess import InProcessGrid
from strategies import AdapterFedAvg, StrategyError, plain_record
from strategies.bank import Bank
from strategies.plans import Plan
from strategies.robust import BLOCK, HolderMedian, HolderTrimmedMean
from strategies.rules import Aggregation


def bank_of(tensors: dict[str, Any]) -> Bank:
    return Bank(plain_record({k: np.array(v, np.float32) for k, v in tensors.items()}), packed=True)


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_the_median_of_each_unit_is_over_its_own_holders() -> None:
    """`a` has three holders, `b` two, `c` one, `d` none; weights do not count."""
    bank = bank_of({"a.x": [0, 0], "b.x": [0], "c.x": [0], "d.x": [7]})
    median = HolderMedian(bank.layout)
    median.add({"a": floats(1, 9), "b": floats(2), "c": floats(-4)}, 1, None)
    median.add({"a": floats(5, -3)}, 1e9, None)
    median.add({"a": floats(100, 4), "b": floats(8)}, 1, None)
    result = {unit: vector.tolist() for unit, vector in median.result(bank.vectors).items()}
    assert result == {"a": [5, 4], "b": [5], "c": [-4]}


def test_the_trimmed_mean_drops_a_share_at_each_end() -> None:
    """A fifth of five: 1 and 1000 go, and 2, 3 and 7 are left; then -9 and 5 go."""
    bank = bank_of({"a.x": [0, 0]})
    trimmed = HolderTrimmedMean(bank.layout, 0.2)
    for first, second in [(3, 0), (1000, 1), (2, 5), (1, -9), (7, 2)]:
        trimmed.add({"a": floats(first, second)}, first, None)
    assert trimmed.result(bank.vectors)["a"].tolist() == [4, 1]


@pytest.mark.parametrize(
    ("share", "count", "dropped"),
    [(0.1, 9, 0), (0.1, 10, 1), (0.29, 100, 29), (0.49, 1, 0), (0.49, 2, 0), (0.49, 3, 1)],
)
def test_how_many_are_dropped(share: float, count: int, dropped: int) -> None:
    assert HolderTrimmedMean(bank_of({"a.x": [0]}).layout, share).dropped(count) == dropped


def test_too_few_holders_to_trim_give_their_mean() -> None:
    """0.2 of four is less than one; one holder gives its own value."""
    bank = bank_of({"a.x": [0], "b.x": [0]})
    trimmed = HolderTrimmedMean(bank.layout, 0.2)
    trimmed.add({"a": floats(1), "b": floats(5)}, 1, None)
    for value in (2, 3, 10):
        trimmed.add({"a": floats(value)}, 1, None)
    assert [v.tolist() for v in trimmed.result(bank.vectors).values()] == [[4], [5]]


@pytest.mark.parametrize("share", [0, 0.5, -0.1, float("nan")])
def test_a_share_that_leaves_nothing_is_refused(share: float) -> None:
    with pytest.raises(StrategyError, match=r"trim-share: .* below 0\.5"):
        Aggregation("trimmed-mean", trim_share=share)


def test_rows_are_averaged_over_the_clients_deep_enough_to_own_them() -> None:
    """Rows 0 to 3 between two other tensors; depths 1, 2 and 2; nobody owns row 3."""
    bank = bank_of({"s.x": [0], "s.rows": [[7], [7], [7], [7]], "s.y": [0]})
    replies = [
        (floats(1, 1, 10, 7, 7, 1), 1),
        (floats(2, 2, 20, 30, 7, 2), 2),
        (floats(9, 9, 90, 50, 8, 9), 2),
    ]
    medians = {}
    for masked in (True, False):
        median = HolderMedian(bank.layout, ["s.rows"] if masked else ())
        for vector, depth in replies:
            median.add({"s": vector}, 1, Plan(depth, ()))
        medians[masked] = median.result(bank.vectors)["s"].tolist()
    assert medians[True] == [2, 2, 20, 40, 7, 2]
    assert medians[False] == [2, 2, 20, 30, 7, 2]


def test_long_vectors_and_many_holders_agree_with_numpy_and_scipy() -> None:
    size = 2 * BLOCK + 37
    bank = bank_of({"a.x": np.zeros(size)})
    values = np.random.default_rng(1).normal(size=(23, size)).astype(np.float32)
    median, trimmed = HolderMedian(bank.layout), HolderTrimmedMean(bank.layout, 0.2)
    for row in values:
        row.flags.writeable = False
        median.add({"a": row}, 1, None)
        trimmed.add({"a": row}, 1, None)
    before = values.copy()
    np.testing.assert_array_equal(median.result(bank.vectors)["a"], np.median(values, axis=0))
    np.testing.assert_allclose(
        trimmed.result(bank.vectors)["a"],
        scipy.stats.trim_mean(values.astype(np.float64), 0.2, axis=0),
        atol=1e-6,
    )
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize("rule", ["median", "trimmed-mean"])
def test_the_order_of_the_replies_does_not_matter_to_a_bit(rule: str) -> None:
    bank = bank_of({"a.x": np.zeros(50)})
    replies = np.random.default_rng(2).normal(size=(6, 50)).astype(np.float32)
    seen = set()
    for order in permutations(range(6)):
        aggregator = Aggregation(rule, trim_share=0.2).begin(bank.layout, (), bank.vectors)
        for number in order:
            aggregator.add({"a": replies[number]}, 1, None)
        seen.add(aggregator.result(bank.vectors)["a"].tobytes())
    assert len(seen) == 1


def test_half_precision_is_averaged_in_single() -> None:
    """2049 is no number in fp16, so a mean of 2048 and 2050 taken there would be 2048."""
    bank = bank_of({"a.x": [0]})
    median = HolderMedian(bank.layout)
    for value in (2048, 2050):
        median.add({"a": np.array([value], np.float16)}, 1, None)
    result = median.result(bank.vectors)["a"]
    assert (result.dtype, result.tolist()) == (np.float32, [2049])


def test_whole_numbers_stay_whole() -> None:
    bank = Bank(plain_record({"steps": np.array([4])}), packed=False)
    median = HolderMedian(bank.layout)
    for value in (7, 9, 10, 12):
        median.add({"steps": np.array([value])}, 1, None)
    result = median.result(bank.vectors)["steps"]
    assert (result.dtype, result.tolist()) == (np.int64, [10])


ATTACKS = {
    "mean": Aggregation(),
    "median": Aggregation("median"),
    "trimmed-mean": Aggregation("trimmed-mean", trim_share=0.2),
    "clipped mean": Aggregation(clip=1.0),
    "clipped median": Aggregation("median", clip=1.0),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_one_of_five_clients_sends_a_thousand_times_its_update(name: str) -> None:
    """Honest updates are a step of norm 1 in one direction, with a little noise."""
    generator = np.random.default_rng(3)
    start = generator.normal(size=400).astype(np.float32)
    bank = bank_of({"a.x": start[:300], "b.x": start[300:]})
    step = np.full(400, 1 / 20)
    aggregator = ATTACKS[name].begin(bank.layout, (), bank.vectors)
    for client in range(5):
        update = step + generator.normal(scale=0.005, size=400)
        new = (start + (-1000 if client == 2 else 1) * update).astype(np.float32)
        aggregator.add({"a": new[:300], "b": new[300:]}, 1, None)
    moved = np.concatenate(list(aggregator.result(bank.vectors).values())) - start
    if name == "mean":
        assert np.linalg.norm(moved - step) > 100
    else:
        # Clipped, the attacker takes its own step back, and one of the four honest ones.
        assert np.linalg.norm(moved - step) < (0.45 if name == "clipped mean" else 0.1)


def test_the_strategy_withstands_a_client_that_claims_a_million_examples() -> None:
    """Four clients add 1, the fifth takes 1000 away; ten elements, so the honest norm is 3.16."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        liar = context.node_config["partition-id"] == 1
        arrays = {
            key: Array(array.numpy() + np.float32(-1000 if liar else 1))
            for key, array in message.content["arrays"].items()
        }
        metrics = MetricRecord({"num-examples": 1_000_000 if liar else 1})
        content = {"arrays": ArrayRecord(arrays), "metrics": metrics}
        return Message(RecordDict(content), reply_to=message)

    moved, norms = {}, []
    for name, aggregation in ATTACKS.items():
        strategy = AdapterFedAvg(fraction_evaluate=0.0, aggregation=aggregation)
        start = plain_record({"w": np.zeros(10, np.float32)})
        result = strategy.start(InProcessGrid(app, 5, {}), start, num_rounds=1)
        moved[name] = result.arrays["w"].numpy()[0]
        if aggregation.clip:
            norms = [round(row.metrics["update-norm"]) for row in strategy.report.clients]
    assert moved["mean"] < -900
    assert moved["median"] == moved["trimmed-mean"] == 1
    # A step of norm 1 on ten elements; the liar's weight turns its direction, not its length.
    assert moved["clipped median"] == pytest.approx(1 / np.sqrt(10))
    assert moved["clipped mean"] == pytest.approx(-1 / np.sqrt(10), rel=1e-4)
    assert norms == [3, 3162, 3, 3, 3]
