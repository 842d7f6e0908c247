"""The rounds of a run as scalars for TensorBoard; the package is an optional extra."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from settings import SettingsError
from strategies import AdapterFedAvg, Callback, RoundReport

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard(Callback):
    """Writes losses, accuracies, bytes and seconds of each round to ``tensorboard/``.

    A resumed run goes on in the folder at its round; points that an earlier process wrote beyond
    its last checkpoint are dropped when the folder is read.

    Raises
    ------
    SettingsError
        When the package is not installed.
    """

    def __init__(self, output: Path) -> None:
        try:
            import torch.utils.tensorboard  # noqa: F401, only looked for: a run starts later
        except ImportError:
            raise SettingsError(
                "tensorboard: the package is not installed; pip install fedgraft[tensorboard], or "
                "set tensorboard=false."
            ) from None
        self.folder = output / "tensorboard"
        self.writer: SummaryWriter | None = None

    def on_start(self, strategy: AdapterFedAvg, num_rounds: int) -> None:
        """Open the folder at the next round, and enter the central evaluation before the first."""
        from torch.utils.tensorboard import SummaryWriter

        del num_rounds
        done = strategy.completed_rounds
        self.writer = SummaryWriter(str(self.folder), purge_step=done + 1 if done else 0)
        if not done:
            self._write("central", strategy.report.server_metrics or {}, 0)
            self.writer.flush()

    def on_round_end(self, strategy: AdapterFedAvg, report: RoundReport) -> None:
        """Write a round, and flush it, so that a killed run loses none."""
        del strategy
        assert self.writer is not None
        train = dict(report.train_metrics or {})
        own = {k.removeprefix("train-"): v for k, v in train.items() if k.startswith("train-")}
        down, up = report.bytes("train")
        refused = sum(bool(client.refused) for client in report.clients)
        for group, values in (
            ("train", own),
            ("central", report.server_metrics or {}),
            ("clients", report.client_metrics or {}),
            ("bytes", {"down": down, "up": up}),
            ("seconds", report.seconds),
            ("replies", {"refused": refused}),
        ):
            self._write(group, values, report.server_round)
        self.writer.flush()

    def on_finish(self, strategy: AdapterFedAvg) -> None:
        """Close the folder."""
        del strategy
        assert self.writer is not None
        self.writer.close()

    def _write(self, group: str, values: Mapping[str, Any], step: int) -> None:
        assert self.writer is not None
        for name, value in values.items():
            self.writer.add_scalar(f"{group}/{name}", value, step)
