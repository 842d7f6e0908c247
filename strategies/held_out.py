"""Clients that take no part in the training: what the result is worth to them.

After the last round they are scored with what anybody gets; where a method can learn about a client
without training anything else (`HyperAttention`: its row), it does so for some rounds, and they are
scored again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from logging import WARNING
from typing import TYPE_CHECKING

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType
from flwr.common import log
from flwr.serverapp import Grid

from .callbacks import ClientRow, RoundReport
from .errors import StrategyError
from .exchange import receive
from .replies import TrainReply, read_train_reply

if TYPE_CHECKING:
    from .adapter_fedavg import AdapterFedAvg

HELD_OUT = "held-out"


def score_held_out(
    strategy: AdapterFedAvg,
    grid: Grid,
    arrays: ArrayRecord,
    train_config: ConfigRecord,
    evaluate_config: ConfigRecord,
) -> None:
    """Score the clients that were held out, in phases ``held-out-<rounds learnt>``."""
    last = strategy.completed_rounds
    rows: list[ClientRow] = []
    clock, report = time.perf_counter(), RoundReport(last)
    bank = strategy.take_bank(arrays)
    nodes = strategy.registry.wait_for(grid, strategy.min_available_nodes, strategy.timeout)
    nodes = [profile for profile in nodes if profile.client_key in strategy.held_out]
    for key in sorted(strategy.held_out - {profile.client_key for profile in nodes}):
        log(WARNING, "held-out-clients: no node holds client '%s', so it is not scored.", key)
    if not nodes:
        return
    for number in range(max(strategy.held_out_rounds) + 1):
        # Rounds of their own, so that clients draw numbers that no round has drawn.
        strategy.report = RoundReport(last + number)
        if number in strategy.held_out_rounds:
            phase = f"{HELD_OUT}-{number}"
            messages = strategy.ask(bank, nodes, evaluate_config, MessageType.EVALUATE, phase)
            strategy.aggregate_evaluate(last, receive(grid, messages, strategy.timeout))
            rows += strategy.report.clients
        if number < max(strategy.held_out_rounds):
            strategy.report = RoundReport(last + number + 1)
            messages = strategy.ask(bank, nodes, train_config, MessageType.TRAIN, HELD_OUT)
            strategy.learn_held_out(_replies(strategy, receive(grid, messages, strategy.timeout)))
            rows += strategy.report.clients
    strategy.report = report
    report.clients = rows
    report.lap(HELD_OUT, clock)
    for callback in strategy.callbacks:
        callback.on_personalised(strategy, report)


def _replies(
    strategy: AdapterFedAvg, replies: Iterable[Message]
) -> Iterator[tuple[ClientRow, TrainReply]]:
    """Yield the sound replies; refuse the others by name."""
    assert strategy.exchange is not None
    assert strategy.bank is not None
    for row, message, plan in strategy.exchange.answers(replies):
        try:
            key = strategy.weighted_by_key
            yield row, read_train_reply(row, message, plan, strategy.bank, key)
        except StrategyError as error:
            strategy.exchange.refuse(row, str(error))
