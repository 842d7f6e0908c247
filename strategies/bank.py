"""The bank: the server's full, ordered set of adapter tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from .holdings import LASTING
from .plans import Plan, travelling
from .wire import Layout, Vectors, plain_record

# Prefix of the config keys under which units travel that go to the client only.
FROZEN = "frozen."
# Config key of the units that a client trains and keeps.
KEPT = "kept"
# Config key of the blocks that a training leaves out.
SKIPPED = "skipped"
NOTHING: Mapping[str, np.ndarray] = MappingProxyType({})
NOTHING_HELD: Mapping[str, str] = MappingProxyType({})


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
        # By unit and the shapes of its tensors: tiers may hold their leading parts alone.
        self._arrays: dict[tuple[str, tuple[tuple[int, ...], ...]], Array] = {}
        self._versions: dict[tuple[str, tuple[tuple[int, ...], ...]], str] = {}

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

    def arrays(
        self,
        units: Iterable[str],
        plan: Plan | None = None,
        own: Mapping[str, np.ndarray] = NOTHING,
    ) -> ArrayRecord:
        """Return some units as they travel, in the layout of the plan.

        Tiers that share a unit share its Array object, so Flower hashes and stores it once.
        Vectors in `own` are one client's, and take the place of the bank's.
        """
        record, layout = ArrayRecord(), travelling(plan, self.layout)
        for unit in units:
            place = unit, layout.shapes[unit]
            if unit in own:
                record[unit] = self._array(unit, own[unit], layout)
                continue
            if place not in self._arrays:
                self._arrays[place] = self._array(unit, self.vectors[unit], layout)
            record[unit] = self._arrays[place]
        return record

    def _array(self, unit: str, vector: np.ndarray, layout: Layout) -> Array:
        if layout.shapes[unit] != self.layout.shapes[unit]:
            vector = self.layout.cut(unit, vector, layout)
        return layout.to_array(unit, vector)

    def in_place(self, vectors: Vectors, plan: Plan | None) -> Vectors:
        """Return what came in the layout of a plan as vectors of the bank.

        Elements that the plan's tier does not hold have the bank's values.
        """
        layout = travelling(plan, self.layout)
        return {
            unit: vector
            if layout.shapes[unit] == self.layout.shapes[unit]
            else self.layout.put(unit, layout, vector, self.vectors[unit])
            for unit, vector in vectors.items()
        }

    def update(self, vectors: Mapping[str, np.ndarray]) -> None:
        """Replace some units."""
        self.vectors.update(vectors)
        self._record = None
        self._arrays = {place: a for place, a in self._arrays.items() if place[0] not in vectors}
        self._versions = {p: v for p, v in self._versions.items() if p[0] not in vectors}

    def version(self, unit: str, plan: Plan) -> str:
        """Return a mark of a unit's values, as the plan's tier holds them."""
        place = unit, travelling(plan, self.layout).shapes[unit]
        if place not in self._versions:
            data = self.arrays([unit], plan)[unit].data
            self._versions[place] = hashlib.sha256(data).hexdigest()[:16]
        return self._versions[place]

    def content(
        self,
        plan: Plan | None,
        config: ConfigRecord,
        own: Mapping[str, np.ndarray] = NOTHING,
        held: Mapping[str, str] = NOTHING_HELD,
        *,
        training: bool,
        array_key: str,
        config_key: str,
    ) -> RecordDict:
        """Make the content of a message: the units of the plan (None: all), and the config.

        Trained units are the Arrays of the record `array_key`; in an evaluation all units are.
        Frozen ones travel as bytes in the config, since Flower's client mods want exactly one
        ArrayRecord, with the keys of the reply. Vectors in `own` take the place of the bank's.
        Lasting units are left out whose version the node holds, by `held`.
        """
        if plan is None:
            return RecordDict({array_key: self.arrays(self.layout.units), config_key: config})
        config.update({"depth": plan.depth, "layout": travelling(plan, self.layout).fingerprint()})
        config.update({KEPT: list(plan.kept)} if plan.kept else {})
        config.update({SKIPPED: list(plan.skipped)} if plan.skipped and training else {})
        versions = {unit: self.version(unit, plan) for unit in plan.lasting}
        config.update({f"{LASTING}{unit}": version for unit, version in versions.items()})
        units, frozen = list(plan.trained), list(plan.frozen)
        if not training:
            units += [unit for unit in frozen if unit not in versions]
            frozen = list(versions)
        missing = [unit for unit in frozen if unit not in held or held[unit] != versions.get(unit)]
        for unit, array in self.arrays(missing, plan, own).items():
            config[f"{FROZEN}{unit}"] = array.data
        return RecordDict({array_key: self.arrays(units, plan, own), config_key: config})
