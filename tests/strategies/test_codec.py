"""The forms of the wire against hand-laid bytes."""

import struct

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.common.serde import array_from_proto, array_to_proto

from strategies import StrategyError, read_array, record_bytes
from strategies.codec import (
    BYTES_PER_NUMBER,
    WIRE_DTYPES,
    check_wire_dtype,
    decode,
    decode_bytes,
    encode,
    encode_bytes,
    form,
    read_segments,
)
from strategies.wire import write_array

LOSSY = ["fp16", "bf16", "int8"]


def floats(*bits: int) -> np.ndarray:
    """float32 numbers by their bits."""
    return np.array(bits, np.uint32).view(np.float32)


def back(values: np.ndarray, wire_dtype: str, segments: list[int] | None = None) -> np.ndarray:
    """What arrives of some values."""
    return read_array(decode(encode(write_array(values), wire_dtype, segments)))


def test_fp16_is_ieee_halves() -> None:
    values = np.array([1, -2, 0.1, 1 + 2**-11, 6e-8], np.float32)
    encoded = encode(write_array(values), "fp16")
    # 0.1 is 0x2E66; 1 + 2**-11 is a tie between 0x3C00 and 0x3C01; 6e-8 is the smallest subnormal.
    assert encoded.data == struct.pack("<5H", 0x3C00, 0xC000, 0x2E66, 0x3C00, 0x0001)
    assert (encoded.dtype, encoded.shape, encoded.stype) == ("float32", (5,), "fedgraft.fp16")
    assert back(values, "fp16").tolist() == [1, -2, 0.0999755859375, 1, 2**-24]


def test_fp16_keeps_large_numbers_finite_and_infinity_infinite() -> None:
    """Else a sound tensor would arrive infinite, or a diverged one sound."""
    got = back(np.array([65519, 65520, -1e30, np.inf, -np.inf, np.nan], np.float32), "fp16")
    np.testing.assert_array_equal(got, [65504, 65504, -65504, np.inf, -np.inf, np.nan])


@pytest.mark.parametrize(
    ("bits", "word"),
    [
        (0x3F800000, 0x3F80),  # 1
        (0x3F807FFF, 0x3F80),  # below half a step
        (0x3F808000, 0x3F80),  # a tie, to the even neighbour below
        (0x3F818000, 0x3F82),  # a tie, to the even neighbour above
        (0x3F808001, 0x3F81),  # above half a step
        (0xBF818000, 0xBF82),  # negative
        (0x3FFFC000, 0x4000),  # up into the next power of two
        (0x00000001, 0x0000),  # the smallest subnormal
        (0x00018000, 0x0002),  # a subnormal tie
        (0x80000000, 0x8000),  # minus zero
        (0x7F7FFFFF, 0x7F80),  # the largest number is nearer to what would follow: infinity
        (0x7F800000, 0x7F80),
        (0xFF800000, 0xFF80),
        (0x7F800001, 0x7FC0),  # a NaN whose payload lies in the lower half stays one
        (0xFFFFFFFF, 0xFFFF),  # a NaN whose sum with the rounding would wrap around
        (0x7FC00000, 0x7FC0),
    ],
)
def test_bf16_rounds_to_the_upper_word(bits: int, word: int) -> None:
    encoded = encode(write_array(floats(bits)), "bf16")
    assert encoded.data == struct.pack("<H", word)
    assert read_array(decode(encoded)).view(np.uint32).tolist() == [word << 16]


def test_int8_has_a_scale_per_tensor() -> None:
    """Peaks 127 and 0.254: steps of 1 and 0.002; all zeros have the scale 0."""
    values = np.array([127, -3.4, 2.5, -0.254, 0.001, 0.003, 0, 0], np.float32)
    encoded = encode(write_array(values), "int8", [3, 0, 3, 2])
    scales = np.array([1, np.float32(0.254) / np.float32(127), 0], np.float32)
    assert encoded.data == (
        struct.pack("<8b", 127, -3, 2, -127, 0, 2, 0, 0)  # 2.5 and 0.5 to even; 1.5 as well
        + scales.tobytes()
        + struct.pack("<4I", 3, 3, 2, 3)
    )
    assert read_segments(encoded) == [3, 3, 2]
    got = read_array(decode(encoded))
    np.testing.assert_allclose(got, [127, -3, 2, -0.254, 0, 0.004, 0, 0], rtol=1e-6)
    # With one scale for all, the second tensor would be lost.
    assert not back(values, "int8")[3:].any()


def test_int8_of_numbers_near_the_end_of_the_range() -> None:
    """Scales that are subnormal, or too small for one, must not leave -127 to 127."""
    for peak in (floats(1)[0], floats(180)[0], np.float32(1e-38), np.float32(3e38)):
        got = back(np.array([peak, -peak, 0], np.float32), "int8")
        assert np.isfinite(got).all()
        assert abs(got[0] - peak) <= max(peak / 127, 127 * 2**-150)
        assert got[1] == -got[0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_int8_cannot_carry_what_is_not_finite(value: float) -> None:
    values = np.array([1, value], np.float32)
    with pytest.raises(StrategyError, match=r"'block3' holds values that are not finite"):
        encode(write_array(values), "int8", None, "'block3'")


def test_errors_are_at_most_half_a_step() -> None:
    generator = np.random.default_rng(0)
    values = (generator.normal(size=5000) * np.repeat([1, 1e-3], 2500)).astype(np.float32)
    exact = values.astype(np.float64)
    assert (abs(back(values, "fp16") - exact) <= abs(exact) * 2**-11 + 2**-25).all()
    assert (abs(back(values, "bf16") - exact) <= abs(exact) * 2**-8).all()
    steps = np.repeat([abs(part).max() / 127 for part in np.split(exact, 2)], 2500)
    assert (abs(back(values, "int8", [2500, 2500]) - exact) <= 0.501 * steps).all()


@pytest.mark.parametrize("wire_dtype", LOSSY)
@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (2, 3)])
def test_shapes_come_back(wire_dtype: str, shape: tuple[int, ...]) -> None:
    values = np.ones(shape, np.float32)
    encoded = encode(write_array(values), wire_dtype)
    assert encoded.shape == shape
    got = decode(encoded)
    assert (got.dtype, got.shape, got.stype) == ("float32", shape, "numpy.ndarray")
    np.testing.assert_array_equal(got.numpy(), values)
    in_config = encode_bytes(write_array(values).data, wire_dtype)
    assert decode_bytes(in_config) == write_array(values).data


def test_fortran_order_is_laid_out_in_c_order() -> None:
    values = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    encoded = encode(Array(values), "bf16")
    np.testing.assert_array_equal(read_array(decode(encoded)), values)


@pytest.mark.parametrize("wire_dtype", WIRE_DTYPES)
def test_only_float32_is_encoded(wire_dtype: str) -> None:
    others = [Array(np.array([1, 2], dtype)) for dtype in ("int64", "float64", "float16", "uint8")]
    others.append(Array("float32", (1,), "somebodys.form", b"1234"))
    for array in others:
        assert encode(array, wire_dtype) is array
        assert decode(array) is array
    assert encode_bytes(others[0].data, wire_dtype) is others[0].data
    assert encode_bytes(b"no array", wire_dtype) == decode_bytes(b"no array") == b"no array"


def test_fp32_is_flowers_own_form() -> None:
    array = Array(np.ones(3, np.float32))
    assert encode(array, "fp32") is array
    assert encode_bytes(array.data, "fp32") is array.data


@pytest.mark.parametrize("wire_dtype", LOSSY)
def test_bytes_by_formula(wire_dtype: str) -> None:
    """Numbers; for int8 8 per tensor and 4; then dtype, stype, 8 for the shape, and both names."""
    values = np.ones(1000, np.float32)
    record = ArrayRecord()
    record["block3"] = encode(write_array(values), wire_dtype, [600, 400])
    data = 1000 * BYTES_PER_NUMBER[wire_dtype] + (8 * 2 + 4 if wire_dtype == "int8" else 0)
    metadata = len("float32") + len(f"fedgraft.{wire_dtype}") + 8 + len("block3")
    assert record_bytes(RecordDict({"arrays": record})) == data + metadata + len("arrays")
    assert data + metadata == {"fp16": 2034, "bf16": 2034, "int8": 1054}[wire_dtype]
    # In a config: magic, form, dimensions and one length before the same data.
    in_config = encode_bytes(write_array(values).data, wire_dtype, [600, 400])
    assert len(in_config) == 8 + 1 + 1 + 4 + data


@pytest.mark.parametrize("wire_dtype", LOSSY)
def test_flower_carries_the_form_and_refuses_to_misread_it(wire_dtype: str) -> None:
    encoded = encode(write_array(np.ones((2, 3), np.float32)), wire_dtype)
    with pytest.raises(TypeError, match="Unsupported serialization"):
        encoded.numpy()
    through_proto = array_from_proto(array_to_proto(encoded))
    inflated = Array.inflate(encoded.deflate(), encoded.children)
    for array in (through_proto, inflated):
        assert (array.dtype, array.shape, array.stype) == (encoded.dtype, (2, 3), encoded.stype)
        assert array.data == encoded.data
        assert form(array) == wire_dtype


def int8_data(values: bytes, scales: list[float], sizes: list[int], count: int) -> bytes:
    return values + struct.pack(f"<{len(scales)}f{len(sizes)}II", *scales, *sizes, count)


MALFORMED = {
    "short fp16": (("fp16", (3,), b"12345"), "5 bytes of fp16, expected 6"),
    "long bf16": (("bf16", (1,), b"1234"), "4 bytes of bf16, expected 2"),
    "a shape of billions": (("bf16", (2**40, 2**40), b"12"), f"expected {2**81}"),
    "a negative shape": (("bf16", (-1, -1), b"12"), "expected a float32 tensor"),
    "too many dimensions": (("bf16", (1,) * 200, b"12"), "a shape that no array can have"),
    "a huge empty shape": (("bf16", (0, 2**62, 2**62), b""), "a shape that no array can have"),
    "an unknown form": (("int4", (1,), b"1"), "in the unknown form 'fedgraft.int4'"),
    "fp32 as a form": (("", (1,), b"1"), "in the unknown form 'fedgraft.'"),
    "int8 of nothing": (("int8", (2,), b""), "0 bytes of int8"),
    "int8 cut": (("int8", (2,), int8_data(b"12", [1], [2], 1)[:-1]), "bytes of int8"),
    "int8 of billions": (("int8", (2,), int8_data(b"12", [1], [2], 2**32 - 1)), "bytes of int8"),
    "sizes too small": (("int8", (2,), int8_data(b"12", [1], [1], 1)), "not together 2 numbers"),
    "sizes too large": (
        ("int8", (2,), int8_data(b"12", [1, 1], [2**32 - 1, 2**32 - 1], 2)),
        "not together 2 numbers",
    ),
    "an empty tensor": (("int8", (2,), int8_data(b"12", [1, 1], [2, 0], 2)), "that are empty"),
    "no tensor": (("int8", (2,), int8_data(b"12", [], [], 0)), "not together 2 numbers"),
    "a negative scale": (("int8", (2,), int8_data(b"12", [-1], [2], 1)), "a scale that is"),
    "NaN": (("int8", (2,), int8_data(b"12", [np.nan], [2], 1)), "a scale that is"),
    "infinity": (("int8", (2,), int8_data(b"12", [np.inf], [2], 1)), "a scale that is"),
}


@pytest.mark.parametrize(("parts", "clause"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_arrays_are_refused(
    parts: tuple[str, tuple[int, ...], bytes], clause: str
) -> None:
    name, shape, data = parts
    with pytest.raises(StrategyError, match=rf"^'block3' .*{clause}"):
        decode(Array("float32", shape, f"fedgraft.{name}", data), "'block3'")


def test_another_dtype_is_refused() -> None:
    with pytest.raises(StrategyError, match=r"^'block3' decodes to int64"):
        decode(Array("int64", (1,), "fedgraft.bf16", b"12"), "'block3'")


@pytest.mark.parametrize(
    ("data", "clause"),
    [
        (b"fedgraft", "ends within its header"),
        (b"fedgraft\x02\x02\x01\0\0\0", "ends within its header"),
        (b"fedgraft\x00\x00", "in the unknown form"),
        (b"fedgraft\x09\x00", "in the unknown form"),
        (b"fedgraft\x02\x01\x02\0\0\0abc", "3 bytes of bf16, expected 4"),
    ],
)
def test_malformed_bytes_are_refused(data: bytes, clause: str) -> None:
    with pytest.raises(StrategyError, match=rf"^'block3' .*{clause}"):
        decode_bytes(data, "'block3'")


def test_names_are_checked() -> None:
    assert [check_wire_dtype(name) for name in WIRE_DTYPES] == ["fp32", "fp16", "bf16", "int8"]
    with pytest.raises(StrategyError, match="choose one of fp32, fp16, bf16, int8"):
        check_wire_dtype("int4")


def test_segments_must_add_up() -> None:
    with pytest.raises(StrategyError, match=r"'block3' has 3 numbers, its tensors 4"):
        encode(write_array(np.ones(3, np.float32)), "int8", [2, 2], "'block3'")
