"""TensorBoard: the scalars of a run, read back with the package's own reader."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import MetricRecord

from server_app.tensorboard import TensorBoard
from settings import SettingsError
from strategies import AdapterFedAvg, RoundReport
from strategies.callbacks import ClientRow

pytest.importorskip("tensorboard", reason="needs the extra fedgraft[tensorboard]")


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """All curves in the event files of a run, by name: step and value."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def report_of(server_round: int, accuracy: float) -> RoundReport:
    return RoundReport(
        server_round,
        clients=[
            ClientRow("a", "small", "train", bytes_down=100, bytes_up=50),
            ClientRow("b", "small", "train", bytes_down=100, refused="it did not come in time"),
            ClientRow("a", "small", "evaluate", bytes_down=30, bytes_up=5),
        ],
        train_metrics=MetricRecord({"num-examples": 7, "train-loss": 0.5}),
        client_metrics=MetricRecord({"accuracy": 0.75}),
        server_metrics=MetricRecord({"accuracy-exit-3": accuracy}),
        seconds={"train": 2.0},
    )


def start(folder: Path, completed: int) -> tuple[TensorBoard, AdapterFedAvg]:
    """Open a run's folder as the app does, after `completed` rounds."""
    strategy = AdapterFedAvg()
    strategy.completed_rounds = completed
    metrics = None if completed else MetricRecord({"accuracy-exit-3": 0.125})
    strategy.report = RoundReport(completed, server_metrics=metrics)
    board = TensorBoard(folder)
    board.on_start(strategy, 9)
    return board, strategy


def test_every_round_is_there_under_its_name(tmp_path: Path) -> None:
    board, strategy = start(tmp_path, 0)
    board.on_round_end(strategy, report_of(1, 0.25))
    board.on_round_end(strategy, report_of(2, 0.5))
    board.on_finish(strategy)
    found = scalars(tmp_path)
    assert found == {
        "central/accuracy-exit-3": [(0, 0.125), (1, 0.25), (2, 0.5)],
        "train/loss": [(1, 0.5), (2, 0.5)],
        "clients/accuracy": [(1, 0.75), (2, 0.75)],
        "bytes/down": [(1, 200), (2, 200)],
        "bytes/up": [(1, 50), (2, 50)],
        "seconds/train": [(1, 2), (2, 2)],
        "replies/refused": [(1, 1), (2, 1)],
    }


def test_a_resumed_run_drops_the_rounds_after_its_checkpoint(tmp_path: Path) -> None:
    board, strategy = start(tmp_path, 0)
    for number in (1, 2, 3):
        board.on_round_end(strategy, report_of(number, 0.25))  # not closed: it was killed
    again, strategy = start(tmp_path, 2)
    for number in (3, 4):
        again.on_round_end(strategy, report_of(number, 0.5))
    again.on_finish(strategy)
    accuracy = scalars(tmp_path)["central/accuracy-exit-3"]
    assert accuracy == [(0, 0.125), (1, 0.25), (2, 0.25), (3, 0.5), (4, 0.5)]


def test_a_new_run_in_the_folder_drops_what_was_there(tmp_path: Path) -> None:
    board, strategy = start(tmp_path, 0)
    board.on_round_end(strategy, report_of(1, 0.25))
    start(tmp_path, 0)[0].on_finish(strategy)
    assert scalars(tmp_path)["central/accuracy-exit-3"] == [(0, 0.125)]


def test_a_round_is_on_disk_when_it_ends(tmp_path: Path) -> None:
    board, strategy = start(tmp_path, 0)
    board.on_round_end(strategy, report_of(1, 0.25))
    assert scalars(tmp_path)["train/loss"] == [(1, 0.5)]


def test_the_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(SettingsError, match=r"pip install fedgraft\[tensorboard\]"):
        TensorBoard(tmp_path)


def test_the_setting_writes_the_curves_of_metrics_jsonl(run_app: Callable[..., Any]) -> None:
    run = run_app(method="exits", rounds=2, evaluate_every=1, tensorboard=True)
    found = scalars(run.output)
    for key in ("accuracy-exit-2", "accuracy-mean"):
        expected = [(row["round"], pytest.approx(row[key])) for row in run.metrics]
        assert found[f"central/{key}"] == expected
    sent = [(row["round"], row["bytes-up"]) for row in run.metrics[1:]]
    assert found["bytes/up"] == sent
