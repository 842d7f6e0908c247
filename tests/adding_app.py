"""A ClientApp of a few lines for a bank of four numbers, and a federation of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from server_app.inprocess import InProcessGrid
from strategies import (
    PROFILE,
    AdapterFedAvg,
    Callback,
    DepthPlanner,
    Profile,
    RoundReport,
    parse_tiers,
    plain_record,
)

BANK = {
    "shared.token": np.array([1, 2], np.float32),
    "block1.w": np.array([10], np.float32),
    "block2.w": np.array([20], np.float32),
    "block3.w": np.array([30], np.float32),
}
UNITS = ("shared", "block1", "block2", "block3")
TIERS = "small depth=1 clients=0; large depth=2 trained=1 clients=1-3"


def planner(tiers: str = TIERS) -> DepthPlanner:
    return DepthPlanner(parse_tiers(tiers, 3), UNITS)


def partition_of(context: Context) -> int:
    return int(context.node_config["partition-id"])


def own_profile(context: Context) -> ConfigRecord:
    """Client 0 is small, all others are large."""
    key = partition_of(context)
    tier = "large" if key else "small"
    return Profile(context.node_id, str(key), tier, key + 1).to_record()


def adding_app(
    answer: Any = None,
    *,
    tell: Callable[[Context], ConfigRecord] = own_profile,
    mods: Sequence[Any] = (),
) -> ClientApp:
    """A ClientApp that adds its partition id + 1 to all it got, with as many examples.

    `answer` may change its reply to a training message, `tell` gives its profile, and `mods` are
    those around training.
    """
    app = ClientApp()

    @app.query()
    def profile(message: Message, context: Context) -> Message:
        return Message(RecordDict({PROFILE: tell(context)}), reply_to=message)

    @app.train(mods=list(mods))
    def train(message: Message, context: Context) -> Message:
        number = partition_of(context)
        arrays = {
            key: Array(array.numpy() + np.float32(number + 1))
            for key, array in message.content["arrays"].items()
        }
        metrics: dict[str, Any] = {"num-examples": number + 1, "train-loss": 0.5}
        if answer is not None:
            arrays, metrics = answer(number, arrays, metrics)
        content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": MetricRecord(metrics)})
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        del context
        metrics = MetricRecord({"num-examples": 1, "units": len(message.content["arrays"])})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


class Recorder(Callback):
    """Keeps the report of every round."""

    def __init__(self) -> None:
        self.reports: list[RoundReport] = []

    def on_round_end(self, strategy: AdapterFedAvg, report: RoundReport) -> None:
        self.reports.append(report)

    def clients(self, phase: str = "train") -> list[list[str]]:
        """The keys of the clients that were asked, round by round."""
        return [
            [row.client_key for row in report.clients if row.phase == phase]
            for report in self.reports
        ]


def federate(
    app: ClientApp,
    nodes: int = 2,
    rounds: int = 1,
    *,
    config: ConfigRecord | None = None,
    **options: Any,
) -> tuple[dict[str, np.ndarray], Recorder]:
    """Run rounds in-process, with all nodes there; return the bank and what was reported."""
    recorder = Recorder()
    given = {"planner": planner(), "min_available_nodes": nodes, "callbacks": [recorder], **options}
    result = AdapterFedAvg(**given).start(
        InProcessGrid(app, nodes, {}), plain_record(BANK), num_rounds=rounds, train_config=config
    )
    return {key: array.numpy() for key, array in result.arrays.items()}, recorder
