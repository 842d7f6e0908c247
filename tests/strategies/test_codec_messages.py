"""Messages in a wire dtype: what the server encodes, the mod, and differences added again."""

from typing import Any

import numpy as np
import pytest
from codec_apps import add_one, app_of, encoded, message_of
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from strategies import FROZEN, StrategyError, plain_record, read_array
from strategies.codec import WIRE_DTYPES, decode, encode, form
from strategies.codec_mod import RESIDUAL, Encoder, decode_reply, wire_codec
from strategies.wire import write_array


def play(
    updates: list[np.ndarray], *, keep_state: bool = True, wire_dtype: str = "int8"
) -> tuple[np.ndarray, Context]:
    """Let a client answer with one update after another; return the sum of what arrives."""
    context = Context(1, 1, {"partition-id": 0}, RecordDict(), {})
    total = np.zeros_like(updates[0], np.float64)
    for update in updates:
        sent = message_of({"w": np.zeros_like(update)})
        app = app_of(lambda _, tensors, update=update: {"w": tensors["w"] + update})
        reply = app(encoded(sent, wire_dtype), context)
        total += read_array(decode_reply(reply.content, sent.content)["arrays"]["w"])
        if not keep_state:
            context.state = RecordDict()
    return total, context


def test_error_feedback_keeps_the_sum() -> None:
    """Beside a peak of 1, a constant 0.003 is below half a step (1/254) and always rounds to 0."""
    update = np.array([1, 0.003, -0.003], np.float32)
    with_feedback, context = play([update] * 100)
    step = 1 / 127
    np.testing.assert_allclose(with_feedback, [100, 0.3, -0.3], atol=step)
    without, _ = play([update] * 100, keep_state=False)
    assert without[1:].tolist() == [0, 0]
    # A byte per number.
    assert list(context.state) == [f"{RESIDUAL}.train.arrays"]
    assert len(context.state[f"{RESIDUAL}.train.arrays"]["w"].data) == 3 + 12


def test_error_feedback_keeps_the_sum_of_changing_updates() -> None:
    generator = np.random.default_rng(3)
    updates = [generator.normal(0, 1e-4, 500).astype(np.float32) for _ in range(60)]
    true = np.sum(updates, axis=0, dtype=np.float64)
    step = max(abs(update).max() for update in updates) / 127
    assert abs(play(updates)[0] - true).max() <= step
    assert abs(play(updates, keep_state=False)[0] - true).max() > step


@pytest.mark.parametrize("wire_dtype", ["fp16", "bf16"])
def test_sixteen_bits_leave_no_state(wire_dtype: str) -> None:
    _, context = play([np.ones(3, np.float32)], wire_dtype=wire_dtype)
    assert not context.state


def test_a_residual_of_another_shape_is_dropped() -> None:
    _, context = play([np.array([1, 0.003], np.float32)])
    sent = message_of({"w": np.zeros(3, np.float32)})
    app = app_of(lambda _, tensors: {"w": tensors["w"] + np.float32(1)})
    reply = app(encoded(sent, "int8"), context)
    got = read_array(decode_reply(reply.content, sent.content)["arrays"]["w"])
    assert got.tolist() == [1, 1, 1]
    assert context.state[f"{RESIDUAL}.train.arrays"]["w"].shape == (3,)


def test_actions_have_residuals_of_their_own() -> None:
    """What training left out must not enter another action's answers."""
    _, context = play([np.array([1, 0.003], np.float32)])
    app = ClientApp(mods=[wire_codec])

    @app.train("personalise")
    def personalise(message: Message, context: Context) -> Message:
        del context
        return Message(RecordDict({"mine": message.content["arrays"]}), reply_to=message)

    sent = message_of({"w": np.array([1, 1], np.float32)}, "train.personalise")
    reply = app(encoded(sent, "int8"), context)
    assert form(reply.content["mine"]["w"]) == "int8"
    got = read_array(decode_reply(reply.content, sent.content)["mine"]["w"])
    assert got.tolist() == [1, 1]


def test_shared_arrays_are_encoded_once_and_stay_as_they_are() -> None:
    array, frozen = write_array(np.ones(4, np.float32)), write_array(np.ones(5, np.float32)).data
    contents = []
    for _ in range(3):
        record = ArrayRecord()
        record["block1"] = array
        config = ConfigRecord({f"{FROZEN}block2": frozen, "depth": 3})
        contents.append(RecordDict({"arrays": record, "config": config}))
    sizes = {"block1": [1, 3], "block2": [5]}
    encoder = Encoder("int8")
    sent = [encoder.encode_content(content, sizes.__getitem__) for content in contents]
    assert len({id(content["arrays"]["block1"]) for content in sent}) == 1
    assert len({id(content["config"][f"{FROZEN}block2"]) for content in sent}) == 1
    assert contents[0]["arrays"]["block1"] is array
    assert array.stype == "numpy.ndarray"
    assert contents[0]["config"][f"{FROZEN}block2"] is frozen
    assert sent[0]["config"]["depth"] == 3
    assert len(sent[0]["arrays"]["block1"].data) == 4 + 8 * 2 + 4
    assert Encoder("fp32").encode_content(contents[0]) is contents[0]


def test_an_array_at_the_place_of_a_former_one_is_encoded_anew() -> None:
    encoder = Encoder("bf16")
    for value in range(50):
        content = message_of({"w": np.array([value], np.float32)}).content
        got = encoder.encode_content(content)["arrays"]["w"]
        assert read_array(decode(got)).tolist() == [value]


def test_a_reply_has_a_scale_per_tensor_as_the_request() -> None:
    """Two tensors in a pack: 127 beside 0.254 would leave nothing of the second."""
    update = np.array([127, 1, 0.254, -0.1], np.float32)
    sent = message_of({"w": np.zeros(4, np.float32)})
    content = Encoder("int8").encode_content(sent.content, lambda _: [2, 2])
    app = app_of(lambda _, tensors: {"w": tensors["w"] + update})
    reply = app(Message(content, 1, "train"), Context(1, 1, {"partition-id": 0}, RecordDict(), {}))
    got = read_array(decode_reply(reply.content, sent.content)["arrays"]["w"])
    np.testing.assert_allclose(got, [127, 1, 0.254, -0.1], rtol=1e-6)


def test_replies_to_other_messages_than_training_pass() -> None:
    app = ClientApp(mods=[wire_codec])

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        del context
        return Message(RecordDict({"arrays": message.content["arrays"]}), reply_to=message)

    sent = message_of({"w": np.array([1, 0.5], np.float32)}, "evaluate")
    context = Context(1, 1, {}, RecordDict(), {})
    reply = app(encoded(sent, "int8"), context)
    np.testing.assert_allclose(reply.content["arrays"]["w"].numpy(), [1, 0.5], rtol=0.01)
    assert not context.state


@pytest.mark.parametrize("wire_dtype", WIRE_DTYPES)
def test_frozen_units_come_as_npy_bytes(wire_dtype: str) -> None:
    frozen = write_array(np.array([[1, -2], [0.5, 0]], np.float32)).data
    config = ConfigRecord({f"{FROZEN}block1": frozen, f"{FROZEN}note": b"text", "depth": 2})
    seen: list[dict[str, Any]] = []
    app = ClientApp(mods=[wire_codec])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        del context
        seen.append(dict(message.content["config"].items()))
        return Message(RecordDict({"arrays": message.content["arrays"]}), reply_to=message)

    sent = message_of({"w": np.ones(2, np.float32)}, config=config)
    message = encoded(sent, wire_dtype)
    assert (message.content["config"][f"{FROZEN}block1"] == frozen) == (wire_dtype == "fp32")
    app(message, Context(1, 1, {}, RecordDict(), {}))
    assert (seen[0]["depth"], seen[0][f"{FROZEN}note"]) == (2, b"text")
    got = read_array(seen[0][f"{FROZEN}block1"])
    np.testing.assert_allclose(got, [[1, -2], [0.5, 0]], atol=0.01)


def test_what_was_not_asked_for_travels_as_it_is() -> None:
    """A new key, another shape, another dtype; the message and its Arrays stay encoded."""
    answer = {
        "w": np.array([2, 3], np.float32),
        "short": np.array([4], np.float32),
        "wide": np.array([5], np.float64),
        "new": np.array([6], np.float32),
    }
    given = {"w": [1, 1], "short": [1, 1], "wide": [1]}
    sent = message_of({key: np.array(value, np.float32) for key, value in given.items()})
    message = encoded(sent, "int8")
    reply = app_of(lambda *_: answer)(message, Context(1, 1, {"partition-id": 0}, RecordDict(), {}))
    assert [form(array) for array in message.content["arrays"].values()] == ["int8"] * 3
    record = reply.content["arrays"]
    assert {key: form(array) for key, array in record.items()} == {
        "w": "int8",
        "short": "fp32",
        "wide": "fp32",
        "new": "fp32",
    }
    got = decode_reply(reply.content, sent.content)["arrays"]
    for key, value in answer.items():
        np.testing.assert_allclose(got[key].numpy(), value, rtol=0.01)
        assert got[key].numpy().dtype == value.dtype


def test_records_are_paired_by_name_where_there_are_several() -> None:
    """`control` answers `control`; a record of a new name is no difference."""
    app = ClientApp(mods=[wire_codec])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        del context
        content = {
            "control": plain_record({"w": np.array([12], np.float32)}),
            "other": plain_record({"w": np.array([5], np.float32)}),
        }
        return Message(RecordDict(content), reply_to=message)

    sent = message_of(
        {"w": np.array([1], np.float32)},
        control=plain_record({"w": np.array([10], np.float32)}),
    )
    reply = app(encoded(sent, "bf16"), Context(1, 1, {}, RecordDict(), {}))
    assert form(reply.content["other"]["w"]) == "fp32"
    got = decode_reply(reply.content, sent.content)
    assert [got[name]["w"].numpy().tolist() for name in ("control", "other")] == [[12], [5]]


def test_error_replies_pass() -> None:
    def failing(message: Message, context: Context, call_next: Any) -> Message:
        del context, call_next
        return Message(Error(7, "no data"), reply_to=message)

    context = Context(1, 1, {"partition-id": 0}, RecordDict(), {})
    app = app_of(add_one, (wire_codec, failing))
    reply = app(encoded(message_of({"w": np.ones(2, np.float32)}), "int8"), context)
    assert (reply.error.code, reply.error.reason) == (7, "no data")
    assert not context.state


def test_a_client_answers_what_it_cannot_carry_in_a_sentence() -> None:
    """The values of a diverged client; and a message that is torn."""
    context = Context(1, 1, {"partition-id": 0}, RecordDict(), {})
    app = app_of(lambda *_: {"w": np.array([1, np.nan], np.float32)})
    message = encoded(message_of({"w": np.ones(2, np.float32)}), "int8")
    assert "'w' holds values that are not finite" in app(message, context).error.reason
    assert not context.state
    message.content["arrays"]["w"] = Array("float32", (2,), "fedgraft.int8", b"1")
    assert "'w' has 1 bytes of int8" in app(message, context).error.reason


@pytest.mark.parametrize(
    ("array", "clause"),
    [
        (encode(write_array(np.ones(3, np.float32)), "bf16"), r"'w' has shape \(3,\), expected"),
        (Array("float32", (2,), "fedgraft.bf16", b"1"), "'w' has 1 bytes"),
    ],
)
def test_bad_differences_are_refused(array: Array, clause: str) -> None:
    sent = message_of({"w": np.ones(2, np.float32)}).content
    record = ArrayRecord()
    record["w"] = array
    with pytest.raises(StrategyError, match=clause):
        decode_reply(RecordDict({"arrays": record}), sent)
    record = ArrayRecord()
    record["foreign"] = array
    with pytest.raises(StrategyError, match="'foreign' is a difference from an array that was not"):
        decode_reply(RecordDict({"arrays": record}), sent)
