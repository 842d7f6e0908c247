"""The ServerApp: settings to strategy, rounds, checkpoints, history, summary and report."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from logging import ERROR, WARNING
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.common import log
from flwr.serverapp import Grid, ServerApp
from safetensors.numpy import save_file

from client_app.app import EVALUATION_BATCH, USER_ERRORS
from client_app.training import batches
from data import DataError
from models import AdapterModel, evaluate_exits
from server_app.checkpoint import Checkpoints, read_checkpoint
from server_app.history import History, Row, read_rows, summarise
from server_app.progress import ProgressLine, print_summary
from server_app.report import write_report
from settings import Settings, SettingsError
from strategies import (
    WIRE_DTYPES,
    AdapterFedAvg,
    Callback,
    DepthPlanner,
    plain_record,
)
from wiring import (
    class_names,
    get_backbone,
    get_layout,
    get_source,
    get_tiers,
    get_transform,
    make_model,
)

app = ServerApp()
RESERVED_TIERS = ("mean", "worst-decile")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation that the run config describes."""
    try:
        run(grid, Settings.from_dict(context.run_config))
    except USER_ERRORS as error:
        log(ERROR, "%s", error)
        raise


def run(grid: Grid, settings: Settings, callbacks: Sequence[Callback] = ()) -> Row:
    """Run a federation; return its summary, which is also written to the output folder.

    Parameters
    ----------
    grid : Grid
        Flower's, or the in-process one.
    settings : Settings
    callbacks : Sequence[Callback]
        Further hooks, called after the app's own.
    """
    output = Path(settings.output_dir).expanduser().resolve()
    resumed = Path(settings.resume).expanduser().resolve() if settings.resume else None
    checkpoint = read_checkpoint(resumed, settings) if resumed else None
    names = class_names(settings)
    model = make_model(settings, len(names))
    strategy = make_strategy(settings, model)
    if checkpoint:
        model.load_adapters(checkpoint.bank)
        strategy.load_server_state(checkpoint.method)
        strategy.completed_rounds = checkpoint.server_round
    initial = model.adapter_arrays()
    evaluate = central_evaluation(settings, model)
    prepare_folder(output, keep=output == resumed)
    (output / "settings.toml").write_text(settings.to_toml())
    history = History(output)
    history.begin(resumed, strategy.completed_rounds)
    strategy.callbacks += [
        history,
        Checkpoints(settings, output),
        ProgressLine(),
        *callbacks,
    ]
    result = strategy.start(
        grid,
        plain_record(initial),
        num_rounds=settings.rounds,
        timeout=settings.round_timeout,
        evaluate_fn=evaluate,
    )
    export_adapters(settings, names, result.arrays, output / "adapters")
    summary = write_summary(settings, strategy, model, output)
    write_report(output)
    print_summary(summary, str(output))
    return summary


def prepare_folder(output: Path, *, keep: bool) -> None:
    """Make the output folder; an earlier run there is moved aside, unless it is continued."""
    try:
        if (output / "checkpoint").is_dir() and not keep:
            aside = next(
                path
                for number in itertools.count(1)
                if not (path := output.with_name(f"{output.name}-{number}")).exists()
            )
            output.rename(aside)
            print(f"The earlier run in {output} is now in {aside}.")
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"output-dir: {output} cannot be made ({error.strerror}); give another folder."
        ) from None


def make_strategy(settings: Settings, model: AdapterModel) -> AdapterFedAvg:
    """Build the strategy of the settings."""
    tiers = get_tiers(settings)
    for tier in tiers:
        if tier.name in RESERVED_TIERS:
            raise SettingsError(
                f"tiers: '{tier.name}' is a field of summary.json; give the tier another name."
            )
        model.reach(tier.depth)
    return AdapterFedAvg(
        min_train_nodes=1,
        min_evaluate_nodes=1,
        min_available_nodes=settings.clients_per_round,
        planner=DepthPlanner(tiers, get_layout(model).units),
        row_keys=model.row_keys if settings.row_averaging == "masked" else (),
        train_nodes=settings.clients_per_round,
        min_replies=settings.min_replies,
        evaluate_every=settings.evaluate_every,
        wire_dtype=settings.wire_dtype,
        seed=settings.seed,
    )


def central_evaluation(
    settings: Settings, model: AdapterModel
) -> Callable[[int, ArrayRecord], MetricRecord | None] | None:
    """Return Flower's evaluate_fn on the central test set; None where the server has no data."""
    try:
        source = get_source(settings, settings.data_dir)
    except DataError as error:
        if not settings.classes or settings.data_dir:
            raise
        log(WARNING, "No central evaluation, as the server has no data of its own: %s", error)
        return None
    test, transform = source.test, get_transform(settings, source, training=False)
    if test is None:
        return None

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        if server_round % settings.evaluate_every and server_round != settings.rounds:
            return None
        model.load_adapters({key: array.numpy() for key, array in arrays.items()})
        scores = evaluate_exits(model, batches(test, transform, EVALUATION_BATCH))
        return MetricRecord(
            {
                **{f"accuracy-exit-{e}": value for e, value in scores.accuracy.items()},
                **{f"loss-exit-{e}": value for e, value in scores.loss.items()},
                "accuracy-mean": scores.mean,
            }
        )

    return evaluate


def export_adapters(
    settings: Settings, names: tuple[str, ...], arrays: ArrayRecord, folder: Path
) -> None:
    """Write the final bank, with what is needed to build its model again, to `folder`."""
    folder.mkdir(exist_ok=True)
    tensors: dict[str, np.ndarray] = {key: array.numpy() for key, array in arrays.items()}
    save_file(tensors, folder / "adapters.safetensors")
    description = {
        "method": settings.method,
        "backbone": settings.backbone,
        "image-size": get_backbone(settings).image_size,
        "exits": settings.exits,
        "adapter": settings.adapter,
        "adapter-rank": settings.adapter_rank,
        "options": settings.method_options(),
        "classes": list(names),
    }
    (folder / "adapters.json").write_text(json.dumps(description, indent=1) + "\n")


def write_summary(
    settings: Settings, strategy: AdapterFedAvg, model: AdapterModel, output: Path
) -> Row:
    """Draw summary.json from the rows of the run."""
    layout = get_layout(model)
    assert strategy.planner is not None
    plans = {tier.name: strategy.planner(tier.name, 1) for tier in get_tiers(settings)}
    adapters = sum(layout.size(unit) for unit in layout.units)
    summary = summarise(
        settings,
        read_rows(output / "metrics.jsonl"),
        read_rows(output / "clients.jsonl"),
        trainable={
            name: sum(layout.size(unit) for unit in plan.trained) for name, plan in plans.items()
        },
        full_model_parameters=get_backbone(settings).num_parameters() + adapters,
        bytes_per_number=WIRE_DTYPES[settings.wire_dtype].itemsize,
    )
    (output / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    return summary
