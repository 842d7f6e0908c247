"""The wire format against hand-laid bytes."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_to_proto

from strategies import Layout, StrategyError, plain_record, read_array, record_bytes
from strategies.bank import Bank
from strategies.wire import write_array

TENSORS = {
    "shared.token": np.array([[1, 2]], np.float32),
    "block1.head.weight": np.array([[3, 4], [5, 6]], np.float32),
    "block1.head.bias": np.array([7, 8], np.float32),
}


def make_bank(packed: bool = True) -> Bank:
    return Bank(plain_record(TENSORS), packed=packed)


def test_a_pack_is_its_tensors_end_to_end() -> None:
    record = make_bank().arrays(["shared", "block1"])
    assert list(record) == ["shared", "block1"]
    assert record["block1"].numpy().tolist() == [3, 4, 5, 6, 7, 8]
    assert record["shared"].numpy().tolist() == [1, 2]


def test_split_undoes_flatten_and_shares_memory() -> None:
    layout = make_bank().layout
    vectors = layout.flatten(TENSORS, layout.units)
    tensors = layout.split(vectors)
    assert list(tensors) == list(TENSORS)
    for key, value in TENSORS.items():
        np.testing.assert_array_equal(tensors[key], value)
        assert np.shares_memory(tensors[key], vectors[key.split(".")[0]])


def test_plain_layout_keeps_every_tensor_and_its_shape() -> None:
    record = make_bank(packed=False).arrays(TENSORS)
    assert {key: array.shape for key, array in record.items()} == {
        key: value.shape for key, value in TENSORS.items()
    }


def test_reading_is_a_view_of_the_buffer() -> None:
    array = Array(np.arange(6, dtype=np.float32).reshape(2, 3))
    values = read_array(array)
    np.testing.assert_array_equal(values, [[0, 1, 2], [3, 4, 5]])
    assert not values.flags.writeable
    assert np.shares_memory(values, np.frombuffer(array.data, np.uint8))


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 4)])
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int64", "uint8"])
def test_writing_gives_flowers_own_bytes(shape: tuple[int, ...], dtype: str) -> None:
    values = np.arange(np.prod(shape), dtype=dtype).reshape(shape)
    mine, flowers = write_array(values), Array(values)
    assert (mine.dtype, mine.shape, mine.stype) == (flowers.dtype, flowers.shape, flowers.stype)
    assert mine.data == flowers.data


def test_reading_follows_fortran_order() -> None:
    values = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    np.testing.assert_array_equal(read_array(Array(values)), values)


def test_a_pickle_is_not_read() -> None:
    import io
    import pickle

    stream = io.BytesIO()
    np.save(stream, np.array([pickle], dtype=object)[:0], allow_pickle=True)
    array = Array("object", (0,), "numpy.ndarray", stream.getvalue())
    with pytest.raises(StrategyError, match="cannot be read"):
        read_array(array)


@pytest.mark.parametrize(
    ("unit", "values", "sentence"),
    [
        ("block9", np.zeros(6, np.float32), "which is no unit"),
        ("block1", np.zeros(5, np.float32), "expected \\(6,\\)"),
        ("block1", np.zeros((6, 1), np.float32), "expected \\(6,\\)"),
        ("block1", np.zeros(6, np.float64), "expected float32"),
    ],
)
def test_foreign_packs_are_refused(unit: str, values: np.ndarray, sentence: str) -> None:
    bank = make_bank()
    with pytest.raises(StrategyError, match=sentence):
        bank.layout.read(ArrayRecord({unit: Array(values)}), bank.dtype)


def test_fingerprint_tells_keys_and_shapes_apart() -> None:
    base = Layout({"a.x": (2, 3)}).fingerprint()
    assert base == Layout({"a.x": (2, 3)}).fingerprint()
    assert base != Layout({"a.x": (3, 2)}).fingerprint()
    assert base != Layout({"a.y": (2, 3)}).fingerprint()


def test_counted_bytes_match_what_flower_sends() -> None:
    """The accumulator of a ViT-Tiny: 135,575 numbers in one pack, with config and metrics."""
    bank = Bank(plain_record({"shared.x": np.ones(135_575, np.float32)}), packed=True)
    content = RecordDict(
        {
            "arrays": bank.arrays(["shared"]),
            "config": ConfigRecord({"server-round": 3, "depth": 12, "layout": 12345678}),
            "metrics": MetricRecord({"num-examples": 10, "train-loss": 0.5}),
        }
    )
    own, sent = 4 * 135_575, recorddict_to_proto(content).ByteSize()
    assert record_bytes(content) == pytest.approx(sent, rel=0.001)
    assert sent <= 1.03 * own


def test_tiers_share_the_array_of_a_shared_unit() -> None:
    bank = make_bank()
    first, second = bank.arrays(["shared"]), bank.arrays(["shared", "block1"])
    assert first["shared"] is second["shared"]
    bank.update({"shared": np.zeros(2, np.float32)})
    assert bank.arrays(["shared"])["shared"].numpy().tolist() == [0, 0]
