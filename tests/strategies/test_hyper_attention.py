"""HyperAttention's server side, with a generator simple enough to follow by hand."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from strategies import HyperAttention, Plan, StrategyError, plain_record
from strategies.callbacks import ClientRow, RoundReport
from strategies.client_rows import ClientRows
from strategies.hyper_attention import capped_shares, spread
from strategies.nodes import Profile
from strategies.replies import TrainReply


class Linear:
    """g = z W, W of shape (E, size), and plain gradient descent on W at rate 1."""

    embedding = 2

    def __init__(self) -> None:
        self.weight = np.array([[1, 0, 2], [0, 1, 1]], np.float32)

    def generate(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        return {"personal1": rows @ self.weight}

    def pull(self, rows: np.ndarray, cotangents: Mapping[str, np.ndarray]) -> np.ndarray:
        self.gradient = rows.T @ cotangents["personal1"]
        return cotangents["personal1"] @ self.weight.T

    def step(self) -> None:
        self.weight = self.weight - self.gradient

    def state(self) -> dict[str, np.ndarray]:
        return {"weight": self.weight}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        self.weight = state["weight"]


def make(**options: Any) -> HyperAttention:
    """A strategy with a bank of one head number and three personal ones, and three rows."""
    strategy = HyperAttention(
        planner=lambda tier, server_round, client: Plan(1, ("block1", "personal1")),
        generator=Linear(),
        row_rate=0.5,
        **options,
    )
    bank = {"block1.w": np.zeros(1, np.float32), "personal1.w": np.zeros(3, np.float32)}
    strategy.take_bank(plain_record(bank))
    for key, row in {"a": [1, 0], "b": [0, 2], "c": [5, 5]}.items():
        strategy.rows.put(key, np.array(row, np.float32))
    return strategy


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def run_round(strategy: HyperAttention, replies: dict[str, tuple[float, np.ndarray]]) -> None:
    """Send to the clients, and take what they return: a weight, and personal numbers."""
    strategy.report = RoundReport(1)
    strategy.personal_vectors([Profile(n, key) for n, key in enumerate(replies)])
    aggregator = strategy.begin_aggregation()
    plan = Plan(1, ("block1", "personal1"))
    for key, (weight, returned) in replies.items():
        reply = TrainReply({"block1": floats(weight), "personal1": returned}, weight, plan, ())
        strategy.take_reply(aggregator, ClientRow(key, "", "train"), reply)
    assert strategy.bank is not None
    strategy.update_bank(aggregator.result(strategy.bank.vectors), {})


def test_a_round_by_hand() -> None:
    """a (weight 1) was sent [1 0 2] and returns [0 0 2]; b (weight 3) [0 2 2] and [0 2 0].

    deltas: a [1 0 0], b [0 0 2]; with shares 1/4 and 3/4 the cotangents are [.25 0 0], [0 0 1.5].
    """
    strategy = make()
    run_round(strategy, {"a": (1, floats(0, 0, 2)), "b": (3, floats(0, 2, 0))})
    generator: Any = strategy.generator
    # W - z_a^T [.25 0 0] - z_b^T [0 0 1.5], with z_a = [1 0] and z_b = [0 2].
    np.testing.assert_allclose(generator.weight, [[0.75, 0, 2], [0, 1, 1 - 3]])
    # Rows step by 0.5 of their own delta W^T: a by [1 0], b by [4 2].
    np.testing.assert_allclose(strategy.rows.get(["a", "b"]), [[0.5, 0], [-2, 1]])
    np.testing.assert_array_equal(strategy.rows.get(["c"]), [[5, 5]])
    assert strategy.bank is not None
    np.testing.assert_allclose(strategy.bank.vectors["block1"], [(1 + 9) / 4])
    mean = np.array([(0.5 - 2 + 5) / 3, (0 + 1 + 5) / 3])
    np.testing.assert_allclose(
        strategy.bank.vectors["personal1"], mean @ generator.weight, rtol=1e-6
    )


def test_who_does_not_answer_leaves_the_shares_of_the_others() -> None:
    """b was asked, too: a alone has share 1, and neither b's nor c's row moves."""
    strategy = make()
    strategy.report = RoundReport(1)
    strategy.personal_vectors([Profile(0, "a"), Profile(1, "b")])
    aggregator = strategy.begin_aggregation()
    reply = TrainReply(
        {"block1": floats(1), "personal1": floats(0, 0, 2)}, 7, Plan(1, ("block1",)), ()
    )
    strategy.take_reply(aggregator, ClientRow("a", "", "train"), reply)
    assert strategy.bank is not None
    strategy.update_bank(aggregator.result(strategy.bank.vectors), {})
    generator: Any = strategy.generator
    np.testing.assert_allclose(generator.weight, [[0, 0, 2], [0, 1, 1]])
    np.testing.assert_array_equal(strategy.rows.get(["b", "c"]), [[0, 2], [5, 5]])


def test_changes_are_clipped() -> None:
    """b's change has norm 2; with a limit of 1 it counts half."""
    strategy = make(clip_delta=1.0)
    run_round(strategy, {"a": (1, floats(0, 0, 2)), "b": (3, floats(0, 2, 0))})
    generator: Any = strategy.generator
    np.testing.assert_allclose(generator.weight, [[0.75, 0, 2], [0, 1, 1 - 1.5]])


@pytest.mark.parametrize(
    ("weights", "cap", "shares"),
    [
        ([1, 3], 1.0, [0.25, 0.75]),
        ([1, 3], 0.6, [0.4, 0.6]),
        ([1, 3], 0.3, [0.5, 0.5]),
        ([1, 1, 8], 0.5, [0.25, 0.25, 0.5]),
        ([1, 5, 14], 0.45, [0.1, 0.45, 0.45]),
    ],
)
def test_capped_shares(weights: list[float], cap: float, shares: list[float]) -> None:
    np.testing.assert_allclose(capped_shares(weights, cap), shares)


def test_the_spread_is_the_variance_over_clients() -> None:
    """[1 3] has variance 1, [0 4] 4, [2 2] 0."""
    assert spread({"u": np.array([[1, 0], [3, 4]]), "v": np.array([[2], [2]])}) == pytest.approx(
        5 / 3
    )


def test_rows_follow_from_seed_and_key_alone() -> None:
    first, second = ClientRows(4, 7), ClientRows(4, 7)
    first.get(["x", "y"])
    np.testing.assert_array_equal(first.get(["y", "x"]), second.get(["y", "x"]))
    assert not np.array_equal(first.get(["x"]), first.get(["y"]))
    assert not np.array_equal(first.get(["x"]), ClientRows(4, 8).get(["x"]))
    # A standard normal distribution.
    many = ClientRows(64, 0).get([str(client) for client in range(500)])
    assert abs(many.mean()) < 0.02
    assert abs(many.std() - 1) < 0.02


def test_a_state_brings_everything_back() -> None:
    strategy, other = make(), make()
    run_round(strategy, {"a": (1, floats(0, 0, 2)), "ü": (3, floats(0, 2, 0))})
    other.load_server_state(strategy.server_state())
    keys = ["a", "b", "c", "ü", "new"]
    np.testing.assert_array_equal(other.rows.get(keys), strategy.rows.get(keys))
    mine: Any = strategy.generator
    its: Any = other.generator
    np.testing.assert_array_equal(mine.weight, its.weight)


@pytest.mark.parametrize(
    "change",
    [
        {"else.weight": np.zeros(1)},
        {"rows.keys": np.zeros(3, np.uint8)},
        {"rows.values": np.zeros((3, 9), np.float32)},
        {"rows.values": np.full((3, 2), np.nan, np.float32)},
    ],
)
def test_a_foreign_state_is_refused(change: dict[str, np.ndarray]) -> None:
    state = make().server_state()
    with pytest.raises(StrategyError, match=r"^resume: "):
        make().load_server_state(state | change)
