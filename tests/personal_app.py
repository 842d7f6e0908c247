"""A ClientApp and a strategy for personal tensors: two units of a hypernetwork, and a head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from models import PERSONAL, Hypernetwork, HypernetworkTrainer
from server_app.inprocess import InProcessGrid
from strategies import (
    PROFILE,
    WIRE_DTYPES,
    Callback,
    HyperAttention,
    Plan,
    Profile,
    plain_record,
    wire_codec,
)

UNITS = (f"{PERSONAL}1", f"{PERSONAL}2")
BANK = {
    "head2.w": np.arange(4, dtype=np.float32),
    **{f"{unit}.B": np.zeros((3, 4, 2), np.float32) for unit in UNITS},
}
Change = Callable[[str, str, np.ndarray], np.ndarray]


def plan(tier: str, server_round: int, client: str = "") -> Plan:
    """A small client trains the first block and only reads the second."""
    del server_round, client
    trained = ("head2", *UNITS) if tier == "large" else ("head2", UNITS[0])
    return Plan(2, trained, () if tier == "large" else UNITS[1:])


def moved(key: str, unit: str, values: np.ndarray) -> np.ndarray:
    """What clients make of what they get: a step of their own, the same in every round."""
    step = np.cos(np.arange(values.size, dtype=np.float32) * (1 + len(unit)) + ord(key[0]))
    return values + np.float32(0.1) * step


def client_app(
    change: Change = moved,
    seen: list[tuple[str, Message]] | None = None,
    mods: Sequence[Any] = (),
) -> ClientApp:
    """A node's key and tier stand in its config; what comes is kept in `seen`."""
    app = ClientApp(mods=[wire_codec, *mods])

    @app.query()
    def profile(message: Message, context: Context) -> Message:
        key, tier = str(context.node_config["key"]), str(context.node_config["tier"])
        record = Profile(context.node_id, key, tier, 8, WIRE_DTYPES).to_record()
        return Message(RecordDict({PROFILE: record}), reply_to=message)

    def answer(message: Message, context: Context) -> Message:
        key = str(context.node_config["key"])
        if seen is not None:
            seen.append((key, message))
        arrays = {
            unit: Array(change(key, unit, array.numpy()))
            for unit, array in message.content["arrays"].items()
        }
        metrics = MetricRecord({"num-examples": 1 + ord(key[0]) % 3, "accuracy": 0.5})
        content = {"arrays": ArrayRecord(arrays), "metrics": metrics}
        if message.metadata.message_type != "train":
            del content["arrays"]
        return Message(RecordDict(content), reply_to=message)

    app.train()(answer)
    app.evaluate()(answer)
    return app


def federation(app: ClientApp, nodes: dict[int, str], tier: str = "large") -> InProcessGrid:
    """A grid of nodes: client keys by Flower's ids."""
    grid = InProcessGrid(app, 0, {})
    for node_id, key in nodes.items():
        config: dict[str, Any] = {"key": key, "tier": tier}
        grid.contexts[node_id] = Context(1, node_id, config, RecordDict(), {})
    return grid


def make(*callbacks: Callback, zero_start: bool = False, **options: Any) -> HyperAttention:
    torch.manual_seed(0)
    shapes = dict.fromkeys(UNITS, (3, 4, 2))
    network = Hypernetwork(shapes, embedding=5, hidden=7, zero_start=zero_start)
    return HyperAttention(
        planner=plan,
        generator=HypernetworkTrainer(network, rate=0.5),
        row_rate=0.5,
        callbacks=callbacks,
        **{"min_available_nodes": 3, "min_train_nodes": 1, "min_evaluate_nodes": 1, **options},
    )


def run(strategy: HyperAttention, grid: InProcessGrid, rounds: int = 2) -> HyperAttention:
    strategy.start(grid, plain_record(BANK), num_rounds=rounds)
    return strategy


def state_of(strategy: HyperAttention) -> dict[str, bytes]:
    """All that a round may change, as bits; rows by client key."""
    assert strategy.bank is not None
    state = {f"generator.{k}": v for k, v in strategy.generator.state().items()}
    rows = {f"row.{key}": strategy.rows.get([key]) for key in "abcd"}
    return {k: v.tobytes() for k, v in (strategy.bank.vectors | state | rows).items()}


NODES = {11: "a", 22: "b", 33: "c"}
