"""The ServerApp: settings to strategy, rounds, checkpoints, history, summary and report."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from logging import ERROR, WARNING
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.common import log
from flwr.serverapp import Grid, ServerApp

from client_app.app import USER_ERRORS
from client_app.node import simulated_nodes
from client_app.training import make_predictor
from data import DataError, Part, Source
from models import AdapterModel, anytime_profile, write_exported
from server_app.checkpoint import Checkpoints, read_checkpoint, resumable
from server_app.history import History, Row, privacy_cost, read_rows
from server_app.progress import ProgressLine, print_summary
from server_app.report import write_report
from server_app.strategy import make_strategy
from server_app.summary import summarise
from server_app.tensorboard import TensorBoard
from settings import Settings, SettingsError, read_path
from strategies import BYTES_PER_NUMBER, AdapterFedAvg, Callback, plain_record
from wiring import (
    class_names,
    describe_adapters,
    get_backbone,
    get_layout,
    get_source,
    get_tiers,
    get_transform,
    make_model,
)

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation that the run config describes."""
    try:
        run(grid, Settings.from_dict(context.run_config))
    except USER_ERRORS as error:
        log(ERROR, "%s", error)
        raise


def run(
    grid: Grid,
    settings: Settings,
    callbacks: Sequence[Callback] = (),
    *,
    simulated: bool = False,
) -> Row:
    """Run a federation; return its summary, which is also written to the output folder.

    Parameters
    ----------
    grid : Grid
        Flower's, or the in-process one.
    settings : Settings
    callbacks : Sequence[Callback]
        Further hooks, called after the app's own.
    simulated : bool
        Whether the clients are partitions of the server's own data, which the report may show.
    """
    if settings.noise_multiplier:
        privacy_cost(settings, settings.rounds)  # fails before the run where it cannot be told
    output = read_path("output-dir", settings.output_dir).resolve()
    resumed = read_path("resume", settings.resume).resolve() if settings.resume else None
    checkpoint = read_checkpoint(resumed, settings) if resumed else None
    names = class_names(settings)
    model = make_model(settings, len(names))
    strategy = make_strategy(settings, model)
    if simulated:
        simulated_nodes(settings)  # what cannot be divided among them is told before the start
        if settings.state_dir:
            check_state_dir(read_path("state-dir", settings.state_dir))
    if checkpoint:
        checkpoint.check(model.adapter_arrays())
        model.load_adapters(checkpoint.bank)
        strategy.load_server_state(checkpoint.method)
        strategy.completed_rounds = checkpoint.server_round
    initial = model.adapter_arrays()
    source = central_source(settings)
    description = describe_adapters(settings, source, names, model.exits, model)
    evaluate = central_evaluation(settings, model, source)
    prepare_folder(output, settings, keep=output == resumed)
    run_id = checkpoint.run_id if checkpoint else uuid4().hex
    config: dict[str, Any] = {"backbone": model.backbone.fingerprint, "run": run_id}
    history, progress = History(output, settings), ProgressLine()
    history.begin(resumed, strategy.completed_rounds)
    strategy.callbacks += [history, Checkpoints(settings, output, run_id), progress]
    if settings.tensorboard:
        strategy.callbacks.append(TensorBoard(output))
    strategy.callbacks += callbacks
    with resumable(output):
        with contextlib.closing(progress):
            result = strategy.start(
                grid,
                plain_record(initial),
                num_rounds=settings.rounds,
                timeout=settings.round_timeout,
                train_config=ConfigRecord({**config}),
                evaluate_config=ConfigRecord({**config}),
                evaluate_fn=evaluate,
            )
        write_json(output / "anytime.json", anytime_profile(model))
        if simulated:
            write_json(output / "partition.json", partition_table(settings, names))
        summary = write_summary(settings, strategy, model, output)
        tensors = {key: array.numpy() for key, array in result.arrays.items()}
        scores = {e: summary["accuracy"][str(e)] for e in model.exits if summary["accuracy"]}
        write_exported(output / "adapters", tensors, description, scores)
        if settings.report:
            write_report(output)
    print_summary(summary, output)
    return summary


def prepare_folder(output: Path, settings: Settings, *, keep: bool) -> None:
    """Make the output folder; an earlier run there is moved aside, unless it is continued.

    Raises
    ------
    SettingsError
        When it cannot be written to, or holds checkpoints of something else.
    """
    try:
        earlier = (output / "settings.toml").exists()
        if (output / "checkpoint").exists() and not (earlier or keep):
            raise SettingsError(
                f"output-dir: {output} holds a folder checkpoint that is not of a run; give "
                "another folder."
            )
        has_results = any((output / name).is_dir() for name in ("checkpoint", "adapters"))
        if earlier and has_results and not keep:
            aside = next(
                path
                for number in itertools.count(1)
                if not (path := output.with_name(f"{output.name}-{number}")).exists()
            )
            output.rename(aside)
            print(f"The earlier run in {output} is now in {aside}.")
        output.mkdir(parents=True, exist_ok=True)
        (output / "settings.toml").write_text(settings.to_toml())
    except OSError as error:
        raise SettingsError(
            f"output-dir: {output} cannot be written to ({error.strerror}); give another folder."
        ) from None


def check_state_dir(folder: Path) -> None:
    """Make the folder of the clients' own tensors: one that cannot be had is told at the start.

    Raises
    ------
    SettingsError
        When it cannot be written to.
    """
    reason = "Permission denied"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        is_writable = os.access(folder, os.W_OK)
    except OSError as error:
        reason, is_writable = str(error.strerror), False
    if not is_writable:
        raise SettingsError(
            f"state-dir: {folder} cannot be written to ({reason}); give another folder."
        )


def central_source(settings: Settings) -> Source | None:
    """Return the server's own data; None where it has none, as in a deployment."""
    try:
        return get_source(settings, settings.data_dir)
    except DataError as error:
        if not settings.classes or settings.data_dir:
            raise
        log(WARNING, "No central evaluation, as the server has no data of its own: %s", error)
        return None


def central_evaluation(
    settings: Settings, model: AdapterModel, source: Source | None
) -> Callable[[int, ArrayRecord], MetricRecord | None] | None:
    """Return Flower's evaluate_fn on the central test set; None where there is no such set."""
    if source is None or source.test is None:
        return None
    test, transform = Part.whole(source.test), get_transform(settings, source, training=False)
    predictor = make_predictor(model, settings)

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        if server_round % settings.evaluate_every and server_round != settings.rounds:
            return None
        model.load_adapters({key: array.numpy() for key, array in arrays.items()})
        scores = predictor.score(test, transform)
        return MetricRecord(
            {
                **{f"accuracy-exit-{e}": value for e, value in scores.accuracy.items()},
                **{f"loss-exit-{e}": value for e, value in scores.loss.items()},
                "accuracy-mean": scores.mean,
            }
        )

    return evaluate


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a file that people read, too."""
    file.write_text(json.dumps(content, indent=1) + "\n")


def partition_table(settings: Settings, names: tuple[str, ...]) -> dict[str, Any]:
    """Count the training examples of each class at every simulated client."""
    return {
        "classes": list(names),
        "clients": {
            node.client_key: np.bincount(node.train.labels, minlength=len(names)).tolist()
            for node in simulated_nodes(settings)
        },
    }


def write_summary(
    settings: Settings, strategy: AdapterFedAvg, model: AdapterModel, output: Path
) -> Row:
    """Draw summary.json from the rows of the run."""
    layout, planner = get_layout(model), strategy.planner
    assert planner is not None

    def trained(tier: str, server_round: int, client: str = "") -> int:
        plan = planner(tier, server_round, client)
        return sum((plan.layout or layout).size(unit) for unit in plan.trained if plan.drawn)

    clients = read_rows(output / "clients.jsonl")
    sent = [row for row in clients if row["phase"] == "train" and not row["refused"]]
    rounds = {1, *(row["round"] for row in sent)}
    adapters = sum(layout.size(unit) for unit in layout.units)
    summary = summarise(
        settings,
        read_rows(output / "metrics.jsonl"),
        clients,
        trainable={
            tier.name: max(trained(tier.name, number) for number in rounds)
            for tier in get_tiers(settings)
        },
        sent=sum(trained(row["tier"], row["round"], row["client"]) for row in sent),
        full_model_parameters=get_backbone(settings).num_parameters() + adapters,
        bytes_per_number=BYTES_PER_NUMBER[settings.wire_dtype],
    )
    write_json(output / "summary.json", summary)
    return summary
