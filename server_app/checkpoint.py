"""Checkpoints: the bank, the strategy's own state and the round, as safetensors and JSON.

A checkpoint is written beside its final place and renamed, so a kill at any moment leaves the one
before it whole. The sampler needs no state: its draws are a function of seed and round.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from settings import Settings, SettingsError
from strategies import AdapterFedAvg, Callback, RoundReport

FORMAT = 1
KEPT = 2
# What may differ between a run and its continuation.
FREE = ("output-dir", "resume", "report", "tensorboard")


@dataclass(frozen=True)
class Checkpoint:
    """A run's state after a round; tensors by key.

    `run_id` is a run's own mark, which its continuation takes over.
    """

    server_round: int
    bank: dict[str, np.ndarray]
    method: dict[str, np.ndarray]
    run_id: str

    def check(self, initial: Mapping[str, np.ndarray]) -> None:
        """Hold the bank against a model's initial adapters.

        Raises
        ------
        SettingsError
            For a tensor that is missing or foreign, of another shape or dtype, or not finite.
        """
        for key in sorted(self.bank.keys() | initial.keys()):
            found, expected = self.bank.get(key), initial.get(key)
            if found is None:
                wrong = "is missing"
            elif expected is None:
                wrong = "is no tensor of this model"
            elif found.shape != expected.shape or found.dtype != expected.dtype:
                wrong = (
                    f"is {found.dtype} of shape {found.shape}, not {expected.dtype} of shape "
                    f"{expected.shape}"
                )
            elif not np.isfinite(found).all():
                wrong = "holds values that are not finite"
            else:
                continue
            raise SettingsError(
                f"resume: in the checkpoint of round {self.server_round}, '{key}' {wrong}; it was "
                "changed after it was written, so resume from another copy."
            )


class Checkpoints(Callback):
    """Writes ``checkpoint/round-NNNNN`` in the output folder and keeps the last two."""

    def __init__(self, settings: Settings, output: Path, run_id: str = "") -> None:
        self.settings = settings
        self.run_id = run_id
        self.folder = output / "checkpoint"

    def on_round_end(self, strategy: AdapterFedAvg, report: RoundReport) -> None:
        """Write a checkpoint where one is due."""
        due = report.server_round % self.settings.checkpoint_every == 0
        if due or report.server_round == self.settings.rounds:
            self.write(strategy, report.server_round)

    def write(self, strategy: AdapterFedAvg, server_round: int) -> None:
        """Write beside and rename; then drop the oldest."""
        assert strategy.bank is not None
        final = self.folder / f"round-{server_round:05d}"
        beside = self.folder / f".{final.name}"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        save_file(strategy.bank.tensors(), beside / "bank.safetensors")
        save_file(strategy.server_state(), beside / "method.safetensors")
        state = {
            "format": FORMAT,
            "round": server_round,
            "run": self.run_id,
            "settings": self.settings.to_dict(),
        }
        (beside / "state.json").write_text(json.dumps(state, indent=1))
        _flush(beside)
        shutil.rmtree(final, ignore_errors=True)
        os.rename(beside, final)
        oldest = server_round - (KEPT - 1) * self.settings.checkpoint_every
        for number, other in written_rounds(self.folder.parent).items():
            if number < oldest:
                shutil.rmtree(other)


def _flush(folder: Path) -> None:
    """Force a folder's files to the disk, so that the rename cannot overtake them."""
    for path in [*folder.iterdir(), folder]:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def written_rounds(run: Path) -> dict[int, Path]:
    """Return the folders of a run's checkpoints by their round, in order."""
    found = ((path.name.removeprefix("round-"), path) for path in run.glob("checkpoint/round-*"))
    return dict(sorted((int(number), path) for number, path in found if number.isdecimal()))


@contextmanager
def resumable(output: Path) -> Iterator[None]:
    """Add to whatever ends a run, Ctrl-C included, how it goes on from its last checkpoint."""
    try:
        yield
    except BaseException as error:
        if rounds := written_rounds(output):
            error.add_note(
                f"The run is kept up to round {max(rounds)}; to go on, repeat the command with "
                f"resume={output}"
            )
        raise


def read_checkpoint(run: Path, settings: Settings) -> Checkpoint:
    """Read the last checkpoint of a run's output folder.

    Raises
    ------
    SettingsError
        When there is none, it is not ours, or it was written with other settings.
    """
    folders = list(written_rounds(run).values())
    if not folders:
        raise SettingsError(
            f"resume: there is no checkpoint in {run}; give the output-dir of a run that has "
            "finished at least one round."
        )
    folder = folders[-1]
    try:
        state = json.loads((folder / "state.json").read_text())
        if state["format"] != FORMAT:
            raise SettingsError(
                f"resume: {folder} has format {state['format']}, this version reads {FORMAT}; "
                "resume with the version that wrote it."
            )
        server_round, then = state["round"], dict(state["settings"])
        run_id = str(state.get("run", ""))
        if type(server_round) is not int or not 1 <= server_round <= then["rounds"]:
            raise ValueError(f"there is no round {server_round}")
        bank = load_file(folder / "bank.safetensors")
        method = load_file(folder / "method.safetensors")
    except SettingsError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        before = f"remove it to resume from {folders[-2].name}" if folders[1:] else ""
        raise SettingsError(
            f"resume: {folder} is no checkpoint of fedgraft ({type(error).__name__}: {error}); "
            f"{before or 'give another run'}."
        ) from None
    now = settings.to_dict()
    differing = [k for k in sorted({*now, *then} - {*FREE}) if now.get(k) != then.get(k)]
    if differing:
        changes = ", ".join(f"{k} was {then.get(k)!r} and is {now.get(k)!r}" for k in differing)
        raise SettingsError(
            f"resume: {run} was run with other settings: {changes}; add --config "
            f"{run}/settings.toml to repeat them."
        )
    return Checkpoint(server_round, bank, method, run_id)
