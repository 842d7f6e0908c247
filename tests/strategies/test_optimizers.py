"""Server optimisers against steps worked out by hand, and what they must leave alone."""

from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
import pytest
from adding_app import BANK, adding_app, federate

from strategies import (
    AdapterFedAvg,
    Aggregation,
    ServerAdam,
    ServerDyn,
    ServerMomentum,
    ServerOptimizer,
    ServerSgd,
    ServerYogi,
    StrategyError,
    plain_record,
)
from strategies.aggregation import Holders
from strategies.bank import Bank
from strategies.plans import Plan

Make = Callable[[], ServerOptimizer]
ALL: dict[str, Make] = {
    "sgd": ServerSgd,
    "slow sgd": lambda: ServerSgd(0.5),
    "momentum": ServerMomentum,
    "adam": ServerAdam,
    "yogi": ServerYogi,
    "dyn": ServerDyn,
}
ALL_SHARE = {"a": np.ones(1)}


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


# Two rounds from 10 and 20: gradients (4, 4), then (2, -6). With b1 = 1/2, b2 = 3/4 and tau = 1:
# m is (2, 2), then (2, -2); v of Adam is 4, then 3 + (1, 9), v of Yogi 4, then 4 + (0, 9).
STEPS = {
    "sgd": (ServerSgd(0.5), [(2, 2), (1, -3)]),
    "momentum": (ServerMomentum(0.5, 0.5), [(2, 2), (2, -2)]),
    "adam": (
        ServerAdam(3, 0.5, 0.75, 1),
        [(2, 2), (3 * 2 / (sqrt(4) + 1), -3 * 2 / (sqrt(12) + 1))],
    ),
    "yogi": (
        ServerYogi(3, 0.5, 0.75, 1),
        [(2, 2), (3 * 2 / (sqrt(4) + 1), -3 * 2 / (sqrt(13) + 1))],
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_two_steps_by_hand(name: str) -> None:
    optimizer, (first, second) = STEPS[name]
    start = floats(10, 20)
    after = optimizer.step({"a": start}, {"a": start - floats(4, 4)}, ALL_SHARE)["a"]
    np.testing.assert_allclose(after, start - first, rtol=1e-6)
    last = optimizer.step({"a": after}, {"a": after - floats(2, -6)}, ALL_SHARE)["a"]
    np.testing.assert_allclose(last, after - second, rtol=1e-6)
    assert start.tolist() == [10, 20]


def test_yogi_forgets_no_faster_than_the_gradient_says() -> None:
    """From v = 4 a gradient of 1: Yogi takes a quarter of 1 off, Adam a quarter of 3."""
    for optimizer, expected in ((ServerAdam(1, 0, 0.75), 3.25), (ServerYogi(1, 0, 0.75), 3.75)):
        optimizer.load_state({"variance.a": floats(4), "momentum.a": floats(0)})
        optimizer.step({"a": floats(0)}, {"a": floats(1)}, ALL_SHARE)
        assert optimizer.state()["variance.a"].tolist() == [expected]


def test_the_usual_rates_are_those_of_the_papers() -> None:
    """A first step of 1: plain averaging, and 0.001 * 0.1 g / sqrt(0.001 g^2) for the others."""
    for make, expected in ((ServerSgd, 1), (ServerMomentum, 1), (ServerAdam, 0.0031622)):
        moved = make().step({"a": floats(0)}, {"a": floats(1)}, ALL_SHARE)["a"]
        np.testing.assert_allclose(moved, expected, rtol=1e-4)


def test_plain_averaging_is_the_mean_to_the_bit() -> None:
    """Going there by a step of the whole difference would round some of these."""
    generator = np.random.default_rng(0)
    old, mean = (generator.normal(size=1000).astype(np.float32) for _ in range(2))
    assert (old - np.float32(1) * (old - mean) != mean).any()
    assert ServerSgd().step({"a": old}, {"a": mean}, ALL_SHARE)["a"].tobytes() == mean.tobytes()


@pytest.mark.parametrize("name", ALL)
def test_what_nobody_owned_keeps_its_bits_and_its_memory(name: str) -> None:
    """Rows 2 and 3 belong to deep clients, who are absent from round 2.

    Rows 2 and 3 then go on as in a run of the rounds 1 and 3 alone, rows 0 and 1 do not.
    """
    aggregation = Aggregation(weighted=name != "dyn")

    def run(rounds: list[tuple[int, float]]) -> list[np.ndarray]:
        tensors = {"a.rows": floats(1, 2, 3, 4).reshape(4, 1), "b.x": floats(5)}
        bank, optimizer = Bank(plain_record(tensors), packed=True), ALL[name]()
        seen = []
        for depth, change in rounds:
            aggregator: Any = aggregation.begin(bank.layout, ["a.rows"], bank.vectors)
            sent = bank.vectors["a"] + np.float32(change) * (np.arange(4) <= depth)
            aggregator.add({"a": sent.astype(np.float32)}, 3, Plan(depth, ()))
            holders = Holders(bank.layout, ["a.rows"])
            holders.add(["a"], Plan(depth, ()))
            means = aggregator.result(bank.vectors)
            bank.update(optimizer.step(bank.vectors, means, holders.shares(4)))
            seen.append(bank.vectors["a"].copy())
            assert bank.vectors["b"].tobytes() == floats(5).tobytes()
        return seen

    three, two = run([(3, 0.5), (1, 0.25), (3, 0.75)]), run([(3, 0.5), (3, 0.75)])
    assert three[1][2:].tobytes() == three[0][2:].tobytes()
    assert (three[1][:2] != three[0][:2]).all()
    assert three[2][2:].tobytes() == two[1][2:].tobytes()
    assert (three[2][:2] != two[1][:2]).all()
    assert (two[1] != two[0]).all()


@pytest.mark.parametrize("name", ["momentum", "adam", "yogi"])
def test_what_somebody_owned_goes_on_also_where_nobody_moved_it(name: str) -> None:
    """Ten clients of random weights move rows 0 to 1 by 1 in round 1, and send them back after it.

    The weighted mean of ten equal values is the value for some elements, and rounds for others.
    """
    generator = np.random.default_rng(3)
    rows = generator.normal(size=(3, 500)).astype(np.float32)
    bank = Bank(plain_record({"a.rows": rows}), packed=True)
    optimizer = {
        "momentum": ServerMomentum(0.5, 0.5),
        "adam": ServerAdam(0.1, 0.5, 0.75, 1e-3),
        "yogi": ServerYogi(0.1, 0.5, 0.75, 1e-3),
    }[name]
    m, v, expected = 0.0, 0.0, rows[:2].astype(np.float64)
    equal = set()
    for change in (1, 0, 0):
        aggregator = Aggregation().begin(bank.layout, ["a.rows"], bank.vectors)
        holders, plan = Holders(bank.layout, ["a.rows"]), Plan(1, ())
        sent = bank.vectors["a"] + np.float32(change) * (np.arange(1500) < 1000)
        for weight in generator.uniform(1, 100, 10):
            aggregator.add({"a": sent.astype(np.float32)}, weight, plan)
            holders.add(["a"], plan)
        means = aggregator.result(bank.vectors)
        if not change:
            equal |= set((means["a"] == bank.vectors["a"])[:1000].tolist())
        bank.update(optimizer.step(bank.vectors, means, holders.shares(10)))
        if name == "momentum":
            m = 0.5 * m - change
            expected -= 0.5 * m
        else:
            m = 0.5 * m - 0.5 * change
            shrunk = v - 0.25 * change * np.sign(v - change)
            v = shrunk if name == "yogi" else 0.75 * v + 0.25 * change
            expected -= 0.1 * m / (sqrt(v) + 1e-3)
    found = bank.vectors["a"].reshape(3, 500)
    assert equal == {True, False}
    np.testing.assert_allclose(found[:2], expected, atol=2e-5)
    assert found[2].tobytes() == rows[2].tobytes()


def test_the_strategy_steps_with_any_rule_and_leaves_what_was_not_sent() -> None:
    """Clients 0 and 1 add 1 and 2, weighing 1 and 2, to what they train; see `adding_app`.

    With b = 1/2 the second step is 3/2 of the first. Median and trimmed mean of two are 1.5.
    """
    for rule, shared in (("mean", 5 / 3), ("median", 1.5), ("trimmed-mean", 1.5)):
        bank, _ = federate(
            adding_app(),
            rounds=2,
            aggregation=Aggregation(rule),
            server_optimizer=ServerMomentum(momentum=0.5),
        )
        np.testing.assert_allclose(bank["shared.token"], [1 + 2.5 * shared, 2 + 2.5 * shared])
        assert bank["block1.w"].tolist() == [10 + 2.5]
        assert bank["block2.w"].tolist() == [20 + 5]
        assert bank["block3.w"].tobytes() == BANK["block3.w"].tobytes()


@pytest.mark.parametrize("name", ["momentum", "adam", "yogi"])
def test_a_loaded_state_gives_the_next_steps_bits(name: str) -> None:
    generator = np.random.default_rng(1)
    means = [{"a": generator.normal(size=9).astype(np.float32)} for _ in range(3)]
    whole, first, second = ALL[name](), ALL[name](), ALL[name]()
    bank = {"a": np.zeros(9, np.float32)}
    for number, mean in enumerate(means):
        if number == 2:
            second.load_state({key: value.copy() for key, value in first.state().items()})
            new = second.step(bank, mean, ALL_SHARE)
        else:
            new = first.step(bank, mean, ALL_SHARE)
        expected = whole.step(bank, mean, ALL_SHARE)
        assert new["a"].tobytes() == expected["a"].tobytes()
        bank = expected
    fresh = ALL[name]().step(bank, means[0], ALL_SHARE)["a"]
    assert fresh.tobytes() != second.step(bank, means[0], ALL_SHARE)["a"].tobytes()


def test_the_strategys_state_holds_the_optimisers() -> None:
    """What `AdapterFedAvg` hands to a checkpoint brings its next round to the same bits."""
    make = ALL["adam"]
    one, two = AdapterFedAvg(server_optimizer=make()), AdapterFedAvg(server_optimizer=make())
    for strategy in (one, two):
        strategy.bank = Bank(plain_record({"a.x": floats(0, 1)}), packed=True)
    one.update_bank({"a": floats(2, -1)}, ALL_SHARE)
    assert list(one.server_state()) == ["momentum.a", "variance.a"]
    two.update_bank({"a": floats(0, 1)}, ALL_SHARE)
    two.load_server_state(one.server_state())
    assert one.bank is not None
    assert two.bank is not None
    two.bank.update({"a": one.bank.vectors["a"].copy()})
    for strategy in (one, two):
        strategy.update_bank({"a": floats(3, 3)}, ALL_SHARE)
    assert one.bank.vectors["a"].tobytes() == two.bank.vectors["a"].tobytes()


@pytest.mark.parametrize("state", [{"variance.a": floats(1)}, {"momentum.a": floats(np.nan)}])
def test_a_foreign_state_is_refused(state: dict[str, np.ndarray]) -> None:
    optimizer = ServerMomentum()
    with pytest.raises(StrategyError, match="is nothing this server-optimizer keeps") as caught:
        optimizer.load_state(state)
    assert next(iter(state)) in str(caught.value)


@pytest.mark.parametrize("wrong", [floats(1, 2), np.zeros(1), np.zeros((1, 1), np.float32)])
def test_a_state_of_another_form_is_refused(wrong: np.ndarray) -> None:
    optimizer = ServerMomentum()
    optimizer.load_state({"momentum.a": wrong})
    with pytest.raises(StrategyError, match="momentum of 'a' does not fit its 1 values"):
        optimizer.step({"a": floats(0)}, {"a": floats(1)}, ALL_SHARE)


@pytest.mark.parametrize("name", ALL)
def test_whole_numbers_become_their_mean_and_halves_stay_halves(name: str) -> None:
    bank = {"steps": np.array([3]), "a": np.array([1, 2], np.float16)}
    means = {"steps": np.array([5]), "a": np.array([2, 2], np.float16)}
    new = ALL[name]().step(bank, means, {**ALL_SHARE, "steps": np.ones(1)})
    assert (new["steps"].dtype, new["steps"].tolist()) == (np.int64, [5])
    assert new["a"].dtype == np.float16


def test_without_weights_the_mean_is_over_clients() -> None:
    bank = Bank(plain_record({"a.x": floats(0)}), packed=True)
    for weighted, expected in ((True, 7.0), (False, 5.0)):
        aggregator = Aggregation(weighted=weighted).begin(bank.layout, (), bank.vectors)
        for value, weight in ((1, 1), (9, 3)):
            aggregator.add({"a": floats(value)}, weight, None)
        assert aggregator.result(bank.vectors)["a"].tolist() == [expected]
