"""The bank: the server's full, ordered set of adapter tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from .plans import Plan
from .wire import Layout, Vectors, plain_record

# Prefix of the config keys under which units travel that go to the client only.
FROZEN = "frozen."


class Bank:
    """Named tensors, kept as one flat vector per unit; keys, shapes and dtypes never change.

    Parameters
    ----------
    arrays : ArrayRecord
        One Array per tensor, in the order of the bank.
    packed : bool
        Whether units travel as packs (see `Layout`).
    """

    def __init__(self, arrays: ArrayRecord, *, packed: bool) -> None:
        tensors = {key: array.numpy() for key, array in arrays.items()}
        self.layout = Layout({key: value.shape for key, value in tensors.items()}, packed=packed)
        self.vectors: Vectors = self.layout.flatten(tensors, self.layout.units)
        self._record: ArrayRecord | None = arrays
        self._arrays: dict[str, Array] = {}

    def dtype(self, unit: str) -> np.dtype:
        """Return the dtype of a unit."""
        return self.vectors[unit].dtype

    def tensors(self) -> dict[str, np.ndarray]:
        """Return every tensor by key, as views."""
        return self.layout.split(self.vectors)

    def record(self) -> ArrayRecord:
        """Return the whole bank in Flower's ordinary form, one Array per tensor."""
        if self._record is None:
            self._record = plain_record(self.tensors())
        return self._record

    def is_record(self, arrays: ArrayRecord) -> bool:
        """Tell whether `arrays` is what `record` returned last."""
        return arrays is self._record

    def arrays(self, units: Iterable[str]) -> ArrayRecord:
        """Return some units as they travel.

        Tiers that share a unit share its Array object, so Flower hashes and stores it once.
        """
        record = ArrayRecord()
        for unit in units:
            if unit not in self._arrays:
                self._arrays[unit] = self.layout.to_array(unit, self.vectors[unit])
            record[unit] = self._arrays[unit]
        return record

    def update(self, vectors: Mapping[str, np.ndarray]) -> None:
        """Replace some units."""
        self.vectors.update(vectors)
        self._record = None
        for unit in vectors:
            self._arrays.pop(unit, None)

    def content(
        self,
        plan: Plan | None,
        config: ConfigRecord,
        *,
        training: bool,
        array_key: str,
        config_key: str,
    ) -> RecordDict:
        """Make the content of a message: the units of the plan (None: all), and the config.

        Trained units are the Arrays of the record `array_key`; in an evaluation all units are.
        Frozen ones travel as bytes in the config, since Flower's client mods want exactly one
        ArrayRecord, with the keys of the reply.
        """
        units = self.layout.units if plan is None else plan.trained if training else plan.units
        if plan is not None:
            config.update({"depth": plan.depth, "layout": self.layout.fingerprint()})
        if plan is not None and training:
            frozen = self.arrays(plan.frozen)
            config.update({f"{FROZEN}{unit}": array.data for unit, array in frozen.items()})
        return RecordDict({array_key: self.arrays(units), config_key: config})
