"""What a client trains and keeps between rounds: units that never travel."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import numpy as np
from flwr.app import ArrayRecord, RecordDict
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from settings import SettingsError
from strategies import plain_record

STATE = "fedgraft.own."


class OwnTensors:
    """A client's tensors after each of the latest rounds that it trained in.

    Several rounds are kept, since a run that is resumed goes back to its last checkpoint, and the
    client must go back with it.

    Parameters
    ----------
    state : RecordDict
        Of the client's context; used without a folder.
    folder : str
        The client's ``state-dir``; files in it survive a restart.
    run_id : str
        Mark of the run: tensors of other runs are left alone.
    client_key : str
    rounds : int
        How many rounds to keep.
    """

    def __init__(
        self, state: RecordDict, folder: str, run_id: str, client_key: str, rounds: int
    ) -> None:
        self.state = state
        self.rounds = rounds
        self.folder: Path | None = None
        if folder:
            # A client key may be any text; its folder stays in the folder.
            name = quote(client_key, safe="").replace(".", "%2E")
            self.folder = Path(folder).expanduser() / run_id / name

    def before(self, server_round: int) -> dict[str, np.ndarray]:
        """Return the tensors by key as they were before a round; none if it is the first.

        Raises
        ------
        SettingsError
            When a file cannot be read.
        """
        latest = max((number for number in self._known() if number < server_round), default=0)
        if not latest:
            return {}
        if self.folder is None:
            record = self.state.array_records[f"{STATE}{latest}"]
            return {key: array.numpy() for key, array in record.items()}
        file = self._file(latest)
        try:
            return load_file(file)
        except (OSError, SafetensorError) as error:
            raise SettingsError(
                f"state-dir: {file} cannot be read ({error}); remove it to go on from the round "
                "before."
            ) from None

    def save(self, server_round: int, tensors: Mapping[str, np.ndarray]) -> None:
        """Keep the tensors as they are after a round, and drop what is too old or overtaken.

        Raises
        ------
        SettingsError
            When the folder cannot be written to.
        """
        # What a killed run trained after its last checkpoint is trained again.
        kept = sorted(number for number in self._known() if number < server_round)
        dropped = [n for n in self._known() if n > server_round] + kept[: -self.rounds]
        if self.folder is None:
            self.state[f"{STATE}{server_round}"] = ArrayRecord(dict(plain_record(tensors).items()))
            for number in dropped:
                del self.state[f"{STATE}{number}"]
            return
        file = self._file(server_round)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            beside = file.with_name(f".{file.name}")
            beside.write_bytes(save(dict(tensors)))
            os.replace(beside, file)
            for number in dropped:
                self._file(number).unlink()
        except OSError as error:
            raise SettingsError(
                f"state-dir: {self.folder} cannot be written to ({error.strerror}); give another "
                "folder."
            ) from None

    def _known(self) -> list[int]:
        """List the rounds after which there are tensors."""
        if self.folder is None:
            names = [name.removeprefix(STATE) for name in self.state if name.startswith(STATE)]
        else:
            names = [path.stem.removeprefix("round-") for path in self.folder.glob("round-*")]
        return [int(name) for name in names if name.isdecimal()]

    def _file(self, server_round: int) -> Path:
        assert self.folder is not None
        return self.folder / f"round-{server_round}.safetensors"
