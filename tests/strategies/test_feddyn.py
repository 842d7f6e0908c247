"""FedDyn's server against numbers worked out by hand, and what the method is for."""

from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from server_app.inprocess import InProcessGrid
from strategies import (
    AdapterFedAvg,
    Aggregation,
    Layout,
    ServerDyn,
    ServerSgd,
    StrategyError,
    plain_record,
)
from strategies.aggregation import Holders
from strategies.bank import Bank
from strategies.plans import Plan


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_feddyns_server_by_hand() -> None:
    """Two of four clients, at 1 and 3, then one of four, at 3; alpha cancels.

    Round 1: mean 2, drift 2/4 * 2 = 1, theta 3. Round 2: mean 3 and nothing moved, theta 3 + 1.
    Round 3: mean 8, drift 1 + 1/4 * 4 = 2, theta 10. `b` nobody sends.
    """
    bank = Bank(plain_record({"a.x": floats(0), "b.x": floats(7)}), packed=True)
    dyn, seen = ServerDyn(), []
    for sent in ([1, 3], [3], [8]):
        aggregator: Any = Aggregation(weighted=False).begin(bank.layout, (), bank.vectors)
        for weight, value in enumerate(sent, 1):
            aggregator.add({"a": floats(value)}, weight, None)
        shares = {"a": np.array([len(sent) / 4])}
        bank.update(dyn.step(bank.vectors, aggregator.result(bank.vectors), shares))
        seen.append(bank.vectors["a"].item())
    assert seen == [3, 4, 10]
    assert bank.vectors["b"].item() == 7
    assert dyn.state() == {}


def test_feddyns_server_where_tiers_hold_parts() -> None:
    """Two of five clients hold the first of three numbers, one holds all; weights do not count.

    Round 1 at 2, 4 and 6. The first: mean 4, drift 3/5 * 4 = 2.4, theta 6.4. The others: mean 6,
    drift 1/5 * 6 = 1.2, theta 7.2. Round 2, the first alone and by one client at 1.4: drift
    2.4 + 1/5 * (1.4 - 6.4) = 1.4, theta 2.8.
    """
    bank = Bank(plain_record({"a.w": floats(0, 0, 0)}), packed=True)
    part, whole = Plan(1, (), (), Layout({"a.w": (1,)})), Plan(1, ())
    dyn, seen = ServerDyn(), []
    for sent in ([(2, part), (4, part), (6, whole)], [(1.4, part)]):
        aggregator = Aggregation(weighted=False).begin(bank.layout, (), bank.vectors)
        holders = Holders(bank.layout)
        for weight, (value, plan) in enumerate(sent, 1):
            own = floats(*[value] * (3 if plan is whole else 1))
            aggregator.add(bank.in_place({"a": own}, plan), weight, plan)
            holders.add(["a"], plan)
        means = aggregator.result(bank.vectors)
        bank.update(dyn.step(bank.vectors, means, holders.shares(5)))
        seen.append(bank.vectors["a"].tolist())
    np.testing.assert_allclose(seen, [[6.4, 7.2, 7.2], [2.8, 7.2, 7.2]], rtol=1e-6)


CURVATURES, TARGETS, ALPHA = (0.5, 1.0, 2.0), (floats(0, 4), floats(2, -2), floats(4, 4)), 1.0


def quadratic_app() -> ClientApp:
    """Clients that go down ``c |theta - target|^2 / 2`` with FedDyn's term, in plain numpy."""
    app = ClientApp()
    multipliers = [np.zeros(2) for _ in TARGETS]

    @app.train()
    def train(message: Message, context: Context) -> Message:
        number = context.node_id - 1
        start = message.content["arrays"]["w"].numpy().astype(np.float64)
        theta = start.copy()
        for _ in range(20):
            slope = CURVATURES[number] * (theta - TARGETS[number])
            theta -= 0.1 * (slope - multipliers[number] + ALPHA * (theta - start))
        multipliers[number] -= ALPHA * (theta - start)
        arrays = ArrayRecord({"w": Array(theta.astype(np.float32))})
        content = {"arrays": arrays, "metrics": MetricRecord({"num-examples": 10**number})}
        return Message(RecordDict(content), reply_to=message)

    return app


@pytest.mark.parametrize("train_nodes", [3, 2])
def test_feddyn_finds_the_least_sum_of_the_losses(train_nodes: int) -> None:
    """Whoever is drawn, and whatever the numbers of examples; half a FedDyn does not find it."""
    least = sum(c * t for c, t in zip(CURVATURES, TARGETS, strict=True)) / sum(CURVATURES)
    distance = {}
    for optimizer in (ServerDyn(), ServerSgd()):
        strategy = AdapterFedAvg(
            train_nodes=train_nodes,
            min_available_nodes=3,
            fraction_evaluate=0.0,
            server_optimizer=optimizer,
            aggregation=Aggregation(weighted=False),
        )
        grid = InProcessGrid(quadratic_app(), 3, {})
        start = plain_record({"w": floats(9, 9)})
        found = strategy.start(grid, start, num_rounds=100).arrays["w"].numpy()
        distance[type(optimizer)] = np.abs(found - least).max()
    assert distance[ServerDyn] < 1e-4
    assert distance[ServerSgd] > 1e-2


@pytest.mark.parametrize(
    "aggregation",
    [
        None,
        Aggregation("median", weighted=False),
        Aggregation(weighted=False, clip=1.0),
        Aggregation(weighted=False, clip=1.0, noise_multiplier=1.0),
    ],
)
def test_feddyn_goes_with_the_unweighted_mean_alone(aggregation: Aggregation | None) -> None:
    with pytest.raises(StrategyError, match=r"server-optimizer: dyn .* unweighted"):
        AdapterFedAvg(server_optimizer=ServerDyn(), aggregation=aggregation)
