"""Wire dtypes: float32 Arrays in fewer bits, and back.

An encoded Array keeps the dtype and shape of what it decodes to; its `stype`, Flower's field for
the serialisation, names the form. So it describes itself, and ``Array.numpy()`` refuses what it
would misread. docs/wire-format.md gives every form byte by byte.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import numpy as np
from flwr.app import Array

from .errors import StrategyError
from .wire import read_array, write_array

BYTES_PER_NUMBER = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
WIRE_DTYPES = tuple(BYTES_PER_NUMBER)

STYPE = "fedgraft."
# First bytes of an encoded Array that travels as bytes; npy data begins with another byte.
MAGIC = b"fedgraft"
MOST_HALF = np.float16(65504)  # the largest finite fp16
MOST_INT8 = 127


def check_wire_dtype(name: str) -> str:
    """Return the name of a wire dtype; raises StrategyError for an unknown one."""
    if name not in WIRE_DTYPES:
        raise StrategyError(
            f"wire-dtype: '{name}' is unknown; choose one of {', '.join(WIRE_DTYPES)}."
        )
    return name


def form(array: Array) -> str:
    """Return the wire dtype an Array is encoded in; an ordinary one is ``fp32``."""
    return array.stype.removeprefix(STYPE) if array.stype.startswith(STYPE) else "fp32"


def encode(
    array: Array,
    wire_dtype: str,
    segments: Sequence[int] | None = None,
    name: str = "an array",
) -> Array:
    """Encode a float32 Array; one of another dtype or serialisation is returned as it is.

    Parameters
    ----------
    array : Array
    wire_dtype : str
        A name in `WIRE_DTYPES`.
    segments : Sequence[int], optional
        Sizes of the tensors that lie end to end in the array; each gets an int8 scale of its
        own. Without, the array is one tensor.
    name : str
        What begins the sentence of an error.

    Raises
    ------
    StrategyError
        For values that are not finite (int8), or segments that do not add up to the array.
    """
    if wire_dtype == "fp32" or array.stype != "numpy.ndarray":
        return array
    values = read_array(array)
    if values.dtype != np.float32:
        return array
    return encode_values(values, wire_dtype, segments, name)


def decode(array: Array, name: str = "an array") -> Array:
    """Decode to an ordinary float32 Array; one that is not encoded is returned as it is.

    Raises
    ------
    StrategyError
        When the bytes do not fit the form; `name` begins the sentence.
    """
    return array if form(array) == "fp32" else write_array(decode_values(array, name))


def encode_values(
    values: np.ndarray,
    wire_dtype: str,
    segments: Sequence[int] | None = None,
    name: str = "an array",
) -> Array:
    """Encode float32 values in a form other than fp32; see `encode`."""
    flat = np.ascontiguousarray(values).reshape(-1)
    if wire_dtype == "int8":
        data = _to_int8(flat, [flat.size] if segments is None else segments, name)
    else:
        data = (_to_fp16(flat) if wire_dtype == "fp16" else _to_bf16(flat)).tobytes()
    return Array(dtype="float32", shape=values.shape, stype=f"{STYPE}{wire_dtype}", data=data)


def decode_values(array: Array, name: str = "an array") -> np.ndarray:
    """Decode an encoded Array to new float32 values; see `decode`."""
    wire_dtype, data = form(array), array.data
    if wire_dtype not in WIRE_DTYPES[1:]:
        raise StrategyError(f"{name} is in the unknown form '{array.stype}'")
    if array.dtype != "float32" or min(array.shape, default=0) < 0:
        raise StrategyError(
            f"{name} decodes to {array.dtype} {array.shape}, expected a float32 tensor"
        )
    size = math.prod(array.shape)
    if wire_dtype == "int8":
        values = _from_int8(data, size, name)
    elif len(data) != 2 * size:
        raise StrategyError(f"{name} has {len(data)} bytes of {wire_dtype}, expected {2 * size}")
    elif wire_dtype == "fp16":
        values = np.frombuffer(data, "<f2").astype(np.float32)
    else:
        words = np.frombuffer(data, "<u2").astype(np.uint32)
        words <<= 16
        values = words.view(np.float32)
    try:
        return values.reshape(array.shape)
    except ValueError as error:  # of more dimensions than numpy has, or beside a 0 too large
        raise StrategyError(f"{name} has a shape that no array can have") from error


def encode_bytes(
    data: bytes,
    wire_dtype: str,
    segments: Sequence[int] | None = None,
    name: str = "an array",
) -> bytes:
    """Encode float32 npy data, as it stands in a config, to bytes that describe themselves.

    Other bytes are returned as they are; see `encode`.
    """
    if wire_dtype == "fp32" or not data.startswith(np.lib.format.MAGIC_PREFIX):
        return data
    values = read_array(data)
    if values.dtype != np.float32:
        return data
    array = encode_values(values, wire_dtype, segments, name)
    number = WIRE_DTYPES.index(wire_dtype)
    return (
        MAGIC + struct.pack(f"<BB{values.ndim}I", number, values.ndim, *values.shape) + array.data
    )


def decode_bytes(data: bytes, name: str = "an array") -> bytes:
    """Decode what `encode_bytes` made to npy data; other bytes are returned as they are.

    Raises
    ------
    StrategyError
        When the bytes do not fit the form; `name` begins the sentence.
    """
    if not data.startswith(MAGIC):
        return data
    try:
        number, dimensions = struct.unpack_from("<BB", data, len(MAGIC))
        shape = struct.unpack_from(f"<{dimensions}I", data, len(MAGIC) + 2)
    except struct.error as error:
        raise StrategyError(f"{name} ends within its header") from error
    wire_dtype = WIRE_DTYPES[number] if 0 < number < len(WIRE_DTYPES) else str(number)
    payload = data[len(MAGIC) + 2 + 4 * dimensions :]
    return decode(Array("float32", shape, f"{STYPE}{wire_dtype}", payload), name).data


def read_segments(array: Array) -> list[int] | None:
    """Return the sizes of the tensors in an int8 Array that decodes; None for other forms."""
    if form(array) != "int8":
        return None
    (count,) = struct.unpack_from("<I", array.data, len(array.data) - 4)
    return np.frombuffer(array.data, "<u4", count, len(array.data) - 4 - 4 * count).tolist()


def _to_fp16(values: np.ndarray) -> np.ndarray:
    """Round to fp16; finite values beyond its range become its largest, infinity stays."""
    with np.errstate(over="ignore"):
        halves = values.astype("<f2")
    beyond = np.isinf(halves)
    beyond &= np.isfinite(values)
    halves[beyond] = np.copysign(MOST_HALF, halves[beyond])
    return halves


def _to_bf16(values: np.ndarray) -> np.ndarray:
    """Round to the upper 16 bits of float32, ties to even; NaN stays NaN."""
    words = values.view(np.uint32)
    rounded = words >> 16
    rounded &= 1
    rounded += 0x7FFF  # just below a tie; the lowest bit that stays tips a tie towards even
    rounded += words
    rounded >>= 16
    nan = np.isnan(values)
    rounded[nan] = words[nan] >> 16 | 0x40  # the quiet bit: the payload may lie in the lower half
    return rounded.astype("<u2")


def _to_int8(values: np.ndarray, segments: Sequence[int], name: str) -> bytes:
    """Write int8 values, a scale and a size per segment, and the number of segments."""
    sizes = np.array([size for size in segments if size], np.int64)
    if sizes.sum() != values.size or (sizes < 0).any():
        raise StrategyError(f"{name} has {values.size} numbers, its tensors {sizes.sum()}")
    scaled = np.abs(values)
    peaks = np.maximum.reduceat(scaled, sizes.cumsum() - sizes) if sizes.size else scaled
    if not np.isfinite(peaks).all():
        raise StrategyError(f"{name} holds values that are not finite, which int8 cannot carry")
    scales = (peaks / np.float32(MOST_INT8)).astype("<f4")
    # A scale of 0 stands for zeros, also where the quotient is too small for float32.
    np.divide(values, np.repeat(np.where(scales > 0, scales, np.float32(np.inf)), sizes), scaled)
    np.rint(scaled, scaled)
    np.clip(scaled, -MOST_INT8, MOST_INT8, scaled)  # the scale of tiny values is rounded itself
    return b"".join(
        [
            scaled.astype(np.int8).tobytes(),
            scales.tobytes(),
            sizes.astype("<u4").tobytes(),
            struct.pack("<I", sizes.size),
        ]
    )


def _from_int8(data: bytes, size: int, name: str) -> np.ndarray:
    """Read what `_to_int8` wrote."""
    count = int.from_bytes(data[-4:], "little")
    if len(data) != size + 8 * count + 4:
        raise StrategyError(
            f"{name} has {len(data)} bytes of int8, expected {size + 8 * count + 4} for "
            f"{size} numbers in {count} tensors"
        )
    scales = np.frombuffer(data, "<f4", count, size)
    sizes = np.frombuffer(data, "<u4", count, size + 4 * count).astype(np.int64)
    if sizes.sum() != size or not sizes.all():
        raise StrategyError(f"{name} has tensors that are empty or not together {size} numbers")
    if not (np.isfinite(scales) & (scales >= 0)).all():
        raise StrategyError(f"{name} has a scale that is negative or not finite")
    values = np.frombuffer(data, np.int8, size).astype(np.float32)
    with np.errstate(over="ignore"):  # infinity is looked for in the mean
        values *= np.repeat(scales, sizes)
    return values
