"""Where a client keeps tensors between messages: Flower's state, or files that outlive it."""

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

STATE = "fedgraft.kept."  # begins the names of the records in Flower's state


class ClientStore:
    """Tensors by key, under names.

    Parameters
    ----------
    state : RecordDict
        Of the client's context; used without a folder.
    folder : str
        The client's ``state-dir``; files in it survive a restart.
    run_id : str
        Mark of the run: what other runs keep is left alone.
    client_key : str
    """

    def __init__(self, state: RecordDict, folder: str, run_id: str, client_key: str) -> None:
        self.state = state
        self.folder: Path | None = None
        if folder:
            # A server's mark and a client key may be any text; what is kept stays in the folder.
            run, name = (quote(t, safe="").replace(".", "%2E") for t in (run_id, client_key))
            self.folder = Path(folder).expanduser() / run / name

    def names(self) -> list[str]:
        """List what there is."""
        if self.folder is None:
            return [name.removeprefix(STATE) for name in self.state if name.startswith(STATE)]
        return [path.stem for path in self.folder.glob("[!.]*.safetensors")]

    def read(self, name: str) -> dict[str, np.ndarray]:
        """Return the tensors under a name; none where there is nothing.

        Raises
        ------
        SettingsError
            When a file cannot be read.
        """
        if name not in self.names():
            return {}
        if self.folder is None:
            record = self.state.array_records[STATE + name]
            return {key: array.numpy() for key, array in record.items()}
        file = self._file(name)
        try:
            return load_file(file)
        except (OSError, SafetensorError) as error:
            raise SettingsError(
                f"state-dir: {file} cannot be read ({error}); remove it, and the client goes on "
                "with what it had before."
            ) from None

    def write(self, name: str, tensors: Mapping[str, np.ndarray]) -> None:
        """Keep tensors under a name, in place of what was there.

        Raises
        ------
        SettingsError
            When the folder cannot be written to.
        """
        if self.folder is None:
            self.state[STATE + name] = ArrayRecord(dict(plain_record(tensors).items()))
            return
        file = self._file(name)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            beside = file.with_name(f".{file.name}")
            beside.write_bytes(save(dict(tensors)))
            os.replace(beside, file)
        except OSError as error:
            raise SettingsError(
                f"state-dir: {self.folder} cannot be written to ({error.strerror}); give another "
                "folder."
            ) from None

    def remove(self, name: str) -> None:
        """Let go of what is under a name."""
        if self.folder is None:
            del self.state[STATE + name]
        else:
            self._file(name).unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{name}.safetensors"
