"""The loop of rounds: what happens in which order, and who hears of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result

from .callbacks import RoundReport
from .exchange import receive
from .held_out import score_held_out

if TYPE_CHECKING:
    from .adapter_fedavg import AdapterFedAvg

PERSONALISE, PERSONALISE_PHASE = "evaluate.personalise", "personalise"


def run_rounds(
    strategy: AdapterFedAvg,
    grid: Grid,
    initial_arrays: ArrayRecord,
    train_config: ConfigRecord,
    evaluate_config: ConfigRecord,
    evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None,
) -> Result:
    """Run the rounds that are left, and call the strategy's callbacks around them.

    Flower's own loop has no hooks, cannot begin in the middle, and hands over the replies when all
    are there; here they are aggregated as they come.
    """
    result = Result()
    strategy.report = RoundReport(strategy.completed_rounds)
    arrays = strategy.take_bank(initial_arrays).record()
    if evaluate_fn and not strategy.completed_rounds:
        strategy.report.server_metrics = evaluate_fn(0, arrays)
        _note(strategy.report, result)
    for callback in strategy.callbacks:
        callback.on_start(strategy, strategy.last_round)
    for server_round in range(strategy.completed_rounds + 1, strategy.last_round + 1):
        clock = time.perf_counter()
        messages = strategy.configure_train(server_round, arrays, train_config, grid)
        new_arrays, train_metrics = strategy.aggregate_train(
            server_round, receive(grid, messages, strategy.timeout)
        )
        arrays, report = new_arrays or arrays, strategy.report
        report.train_metrics = train_metrics
        clock = report.lap("train", clock)
        messages = strategy.configure_evaluate(server_round, arrays, evaluate_config, grid)
        report.client_metrics = strategy.aggregate_evaluate(
            server_round, receive(grid, messages, strategy.timeout)
        )
        clock = report.lap("client-evaluate", clock)
        if evaluate_fn:
            report.server_metrics = evaluate_fn(server_round, arrays)
        report.lap("server-evaluate", clock)
        strategy.completed_rounds = server_round
        _note(report, result)
        for callback in strategy.callbacks:
            callback.on_round_end(strategy, report)
    result.arrays = arrays
    if strategy.personalise:
        _personalise(strategy, grid, arrays, train_config)
    if strategy.held_out:
        score_held_out(strategy, grid, arrays, train_config, evaluate_config)
    for callback in strategy.callbacks:
        callback.on_finish(strategy)
    return result


def _personalise(
    strategy: AdapterFedAvg, grid: Grid, arrays: ArrayRecord, config: ConfigRecord
) -> None:
    """Let every node train the final bank for itself, and note its scores."""
    strategy.report = report = RoundReport(strategy.completed_rounds)
    clock = time.perf_counter()
    messages = strategy.configure_personalise(arrays, config, grid)
    report.client_metrics = strategy.aggregate_evaluate(
        strategy.completed_rounds, receive(grid, messages, strategy.timeout)
    )
    report.lap(PERSONALISE_PHASE, clock)
    for callback in strategy.callbacks:
        callback.on_personalised(strategy, report)


def _note(report: RoundReport, result: Result) -> None:
    """Enter a round's metrics in Flower's result."""
    for metrics, history in (
        (report.train_metrics, result.train_metrics_clientapp),
        (report.client_metrics, result.evaluate_metrics_clientapp),
        (report.server_metrics, result.evaluate_metrics_serverapp),
    ):
        if metrics is not None:
            history[report.server_round] = metrics
