"""The wire format: which tensors travel together, packed and read back without a copy.

A *unit* (``block3``, ``shared``) travels as one pack: its tensors laid end to end, in the order of
the bank, in a single one-dimensional `Array` under the unit's name. Few, large arrays are what
Flower is fast at: every Array costs at least two objects on a SuperLink. A layout without packs
keeps Flower's own form, one Array per tensor, for other people's apps.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict

from .errors import StrategyError

Vectors = dict[str, np.ndarray]


@dataclass(frozen=True)
class Slot:
    """Where a tensor lies in the flat vector of its unit: ``vector[start:stop]``."""

    key: str
    shape: tuple[int, ...]
    start: int
    stop: int


def leading(vector: np.ndarray, slot: Slot, shape: Sequence[int]) -> np.ndarray:
    """View the leading part of a tensor, of `shape`, in the flat vector of its unit."""
    # The dots keep a tensor without axes a view.
    part: tuple[Any, ...] = (*map(slice, shape), ...)
    return vector[slot.start : slot.stop].reshape(slot.shape)[part]


def first_part(key: str) -> str:
    """Return the unit of an adapter tensor: what stands before the first dot of its key."""
    return key.split(".", 1)[0]


class Layout:
    """The order and place of every tensor of a bank, unit by unit.

    Parameters
    ----------
    shapes : Mapping[str, tuple[int, ...]]
        Shape by key, in the order of the bank.
    packed : bool (default: True)
        One Array per unit (the first part of the key); otherwise one per tensor, in its shape.

    Attributes
    ----------
    units : dict[str, tuple[Slot, ...]]
        The tensors of each unit, in order.
    shapes : dict[str, tuple[tuple[int, ...], ...]]
        Their shapes.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], *, packed: bool = True) -> None:
        self.packed = packed
        slots: dict[str, list[Slot]] = {}
        for key, shape in shapes.items():
            unit = slots.setdefault(first_part(key) if packed else key, [])
            start = unit[-1].stop if unit else 0
            unit.append(Slot(key, tuple(shape), start, start + math.prod(shape)))
        self.units = {unit: tuple(parts) for unit, parts in slots.items()}
        self.shapes = {unit: tuple(s.shape for s in parts) for unit, parts in self.units.items()}

    def size(self, unit: str) -> int:
        """Count the elements of a unit."""
        return self.units[unit][-1].stop

    def array_shape(self, unit: str) -> tuple[int, ...]:
        """Return the shape of the unit's Array on the wire."""
        return (self.size(unit),) if self.packed else self.units[unit][0].shape

    def keys(self, units: Iterable[str]) -> list[str]:
        """List the keys of some units, in order."""
        return [slot.key for unit in units for slot in self.units[unit]]

    def fingerprint(self) -> int:
        """Hash keys and shapes, so that two ends can tell that they mean the same tensors."""
        text = repr([(slot.key, slot.shape) for unit in self.units.values() for slot in unit])
        return zlib.crc32(text.encode())

    def flatten(self, tensors: Mapping[str, np.ndarray], units: Iterable[str]) -> Vectors:
        """Lay the tensors of some units end to end."""
        return {
            unit: np.concatenate([np.ravel(tensors[slot.key]) for slot in self.units[unit]])
            for unit in units
        }

    def split(self, vectors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the tensors of the given units as views into their vectors."""
        return {
            slot.key: vector[slot.start : slot.stop].reshape(slot.shape)
            for unit, vector in vectors.items()
            for slot in self.units[unit]
        }

    def cut(self, unit: str, vector: np.ndarray, own: Layout) -> np.ndarray:
        """Cut a unit's vector down to the leading part of each tensor that `own` has.

        Raises
        ------
        StrategyError
            When `own` has other tensors, or larger ones.
        """
        pairs = list(zip(self.units[unit], own.units[unit], strict=False))
        if [slot.key for slot in self.units[unit]] != [slot.key for slot in own.units[unit]] or any(
            len(part.shape) != len(slot.shape)
            or any(size > most for size, most in zip(part.shape, slot.shape, strict=True))
            for slot, part in pairs
        ):
            raise StrategyError(
                f"'{unit}' of a tier has shapes {own.shapes[unit]}, which are no leading parts of "
                f"the bank's {self.shapes[unit]}; build both models from the same settings."
            )
        return np.concatenate([leading(vector, slot, part.shape).ravel() for slot, part in pairs])

    def put(self, unit: str, own: Layout, vector: np.ndarray, rest: np.ndarray) -> np.ndarray:
        """Put what `cut` took back to its places, between the values of `rest`."""
        whole = rest.copy()
        for slot, part in zip(self.units[unit], own.units[unit], strict=True):
            values = vector[part.start : part.stop].reshape(part.shape)
            leading(whole, slot, part.shape)[...] = values
        return whole

    def sizes(self, unit: str) -> list[int]:
        """List the elements of each tensor of a unit."""
        return [slot.stop - slot.start for slot in self.units[unit]]

    def to_array(self, unit: str, vector: np.ndarray) -> Array:
        """Make the Array of a unit."""
        return write_array(vector.reshape(self.array_shape(unit)))

    def read(
        self, record: Mapping[str, Array | bytes], dtype: Callable[[str], np.dtype]
    ) -> Vectors:
        """Read packs back as flat vectors, without a copy; `dtype` tells a unit's.

        Raises
        ------
        StrategyError
            For a unit the layout does not have, another size, or another dtype.
        """
        vectors = {}
        for unit, array in record.items():
            if unit not in self.units:
                raise StrategyError(f"it holds '{unit}', which is no unit of this method")
            values = read_array(array)
            if values.shape != self.array_shape(unit):
                raise StrategyError(
                    f"'{unit}' has shape {values.shape}, expected {self.array_shape(unit)}"
                )
            if values.dtype != dtype(unit):
                raise StrategyError(f"'{unit}' is {values.dtype}, expected {dtype(unit)}")
            vectors[unit] = values.reshape(-1)
        return vectors


@lru_cache(maxsize=4096)
def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Write the npy header of an array in C order."""
    stream = io.BytesIO()
    description = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, description)
    return stream.getvalue()


def write_array(values: np.ndarray) -> Array:
    """Make the same Array as ``Array(values)``, several times faster for small tensors."""
    return Array(
        dtype=str(values.dtype),
        shape=values.shape,
        stype="numpy.ndarray",
        data=_header(values.dtype.str, values.shape) + values.tobytes(),
    )


@lru_cache(maxsize=4096)
def _parse_header(header: bytes) -> tuple[np.dtype, tuple[int, ...]] | None:
    """Read dtype and shape from an npy header; None for what a plain view cannot show."""
    stream = io.BytesIO(header)
    if np.lib.format.read_magic(stream) != (1, 0):
        return None
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
    return None if fortran_order or dtype.hasobject else (dtype, shape)


def read_array(array: Array | bytes) -> np.ndarray:
    """View the values of an Array, or of its bytes, in place and read-only; never a pickle.

    Flower's `Array.numpy` copies and parses the header every time; the same few headers come with
    every reply, so they are remembered.

    Raises
    ------
    StrategyError
        When the buffer is no npy data.
    """
    data = array if isinstance(array, bytes) else array.data
    try:
        end = 10 + int.from_bytes(data[8:10], "little")
        parsed = _parse_header(data[:end])
        if parsed is None:
            return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))
        dtype, shape = parsed
        return np.frombuffer(data, dtype, math.prod(shape), offset=end).reshape(shape)
    except Exception as error:  # foreign bytes: whatever their parser stumbles over
        raise StrategyError(f"an array cannot be read ({error})") from error


def record_bytes(content: RecordDict) -> int:
    """Count the bytes of a message's content: values, names, headers and metadata.

    Names count one byte per character, numbers eight. Flower's own encodings differ by a few
    bytes per value (``benchmarks/wire.py`` compares).
    """
    total = 0
    for name, record in content.items():
        total += len(name)
        for key, value in record.items():
            if isinstance(value, Array):
                own = len(value.data) + len(value.dtype) + len(value.stype) + 8 * len(value.shape)
            elif isinstance(value, str | bytes):
                own = len(value)
            elif isinstance(value, list):
                own = sum(len(item) if isinstance(item, str | bytes) else 8 for item in value)
            else:
                own = 8
            total += len(key) + own
    return total


def plain_record(tensors: Mapping[str, np.ndarray]) -> ArrayRecord:
    """Make Flower's ordinary record of tensors: one Array per key."""
    record = ArrayRecord()
    for key, value in tensors.items():
        record[key] = write_array(value)
    return record
