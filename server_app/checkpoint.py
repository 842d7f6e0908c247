"""Checkpoints: the bank, the strategy's own state and the round, as safetensors and JSON.

A checkpoint is written beside its final place and renamed, so a kill at any moment leaves the one
before it whole. The sampler needs no state: its draws are a function of seed and round.
"""

from __future__ import annotations

import json
import os
import shutil
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
    """A run's state after a round; tensors by key."""

    server_round: int
    bank: dict[str, np.ndarray]
    method: dict[str, np.ndarray]


class Checkpoints(Callback):
    """Writes ``checkpoint/round-NNNNN`` in the output folder and keeps the last two."""

    def __init__(self, settings: Settings, output: Path) -> None:
        self.settings = settings
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
            "settings": self.settings.to_dict(),
        }
        (beside / "state.json").write_text(json.dumps(state, indent=1))
        _flush(beside)
        shutil.rmtree(final, ignore_errors=True)
        os.rename(beside, final)
        oldest = server_round - (KEPT - 1) * self.settings.checkpoint_every
        for other in self.folder.glob("round-*"):
            if int(other.name.removeprefix("round-")) < oldest:
                shutil.rmtree(other)


def _flush(folder: Path) -> None:
    """Force a folder's files to the disk, so that the rename cannot overtake them."""
    for path in [*folder.iterdir(), folder]:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def read_checkpoint(run: Path, settings: Settings) -> Checkpoint:
    """Read the last checkpoint of a run's output folder.

    Raises
    ------
    SettingsError
        When there is none, it is not ours, or it was written with other settings.
    """
    folders = sorted((run / "checkpoint").glob("round-*"))
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
        server_round, then = int(state["round"]), dict(state["settings"])
        bank = load_file(folder / "bank.safetensors")
        method = load_file(folder / "method.safetensors")
    except SettingsError:
        raise
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise SettingsError(
            f"resume: {folder} is no checkpoint of fedgraft ({error}); give another run."
        ) from None
    now = settings.to_dict()
    differing = [k for k in sorted({*now, *then} - {*FREE}) if now.get(k) != then.get(k)]
    if differing:
        changes = ", ".join(f"{k} was {then.get(k)!r} and is {now.get(k)!r}" for k in differing)
        raise SettingsError(f"resume: {run} was run with other settings: {changes}.")
    return Checkpoint(server_round, bank, method)
