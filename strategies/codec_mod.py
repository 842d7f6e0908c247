"""Messages in a wire dtype: what the server encodes, and the mod that does the client's part.

The server encodes what it sends. The mod decodes it for the app and sends back, in the same form,
the *difference* between the app's answer and what came; the server adds it to its own values in
full precision. So an update smaller than a step of the weights' form is not lost.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MessageType,
    RecordDict,
)
from flwr.common.constant import ErrorCode

from .bank import FROZEN
from .codec import (
    check_wire_dtype,
    decode,
    decode_bytes,
    decode_values,
    encode,
    encode_bytes,
    encode_values,
    form,
    read_segments,
)
from .errors import StrategyError
from .wire import read_array, write_array

# Begins the names of the records in a client's state that hold what int8 replies left out.
RESIDUAL = "fedgraft.residual"


class Encoder:
    """Encodes the contents of messages; what several of them share is encoded once.

    Make a new one for every exchange: it keeps all it has encoded.

    Parameters
    ----------
    wire_dtype : str
        A name in `WIRE_DTYPES`.
    """

    def __init__(self, wire_dtype: str) -> None:
        self.wire_dtype = check_wire_dtype(wire_dtype)
        # By key and identity; the original is kept beside, or its identity could be given anew.
        self._encoded: dict[tuple[str, int], tuple[Any, Any]] = {}

    def encode_content(
        self, content: RecordDict, sizes: Callable[[str], Sequence[int]] | None = None
    ) -> RecordDict:
        """Encode the Arrays and the frozen units of a content; `content` stays as it is.

        Parameters
        ----------
        content : RecordDict
        sizes : Callable[[str], Sequence[int]], optional
            Tells for the key of an Array the sizes of the tensors packed in it; without, every
            Array is one tensor.
        """
        if self.wire_dtype == "fp32":
            return content
        return _convert(
            content,
            lambda key, array: self._once(encode, key, array, sizes),
            lambda key, data: self._once(encode_bytes, key, data, sizes),
        )

    def _once(
        self,
        encode_any: Callable[..., Any],
        key: str,
        value: Any,
        sizes: Callable[[str], Sequence[int]] | None,
    ) -> Any:
        """Encode an Array or bytes, unless that was done."""
        place = key, id(value)
        if place not in self._encoded:
            segments = None if sizes is None else sizes(key)
            encoded = encode_any(value, self.wire_dtype, segments, f"'{key}'")
            self._encoded[place] = value, encoded
        return self._encoded[place][1]


def decode_reply(content: RecordDict, sent: RecordDict) -> RecordDict:
    """Turn the differences in a reply into ordinary Arrays: what was sent plus the difference.

    Parameters
    ----------
    content : RecordDict
        Of the reply; stays as it is. Arrays in it that are no differences do, too.
    sent : RecordDict
        What it answers, before it was encoded.

    Raises
    ------
    StrategyError
        For an Array that does not decode, or a difference from what was not sent.
    """
    result, requests = RecordDict(), _pair(content, sent)
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            bases = sent.array_records[requests[name]] if name in requests else ArrayRecord()
            record = _map_arrays(record, functools.partial(_add, bases))
        result[name] = record
    return result


def _add(bases: Mapping[str, Array], key: str, array: Array) -> Array:
    """Add a difference to the Array it was taken from; an ordinary Array is none."""
    base = bases.get(key)
    if form(array) == "fp32":
        return array
    if base is None or base.dtype != "float32":
        raise StrategyError(f"'{key}' is a difference from an array that was not sent")
    if array.shape != base.shape:
        raise StrategyError(f"'{key}' has shape {array.shape}, expected {base.shape}")
    values = decode_values(array, f"'{key}'")
    with np.errstate(over="ignore", invalid="ignore"):  # the strategy looks for such values
        values += read_array(base)
    return write_array(values)


def wire_codec(
    message: Message, context: Context, call_next: Callable[[Message, Context], Message]
) -> Message:
    """Flower client mod: the app sees and answers float32, whatever is on the wire.

    Put it first in the list of mods, so that the others see decoded values. It needs no setting:
    in the reply to a training message each Array takes the form in which it came. What int8
    leaves out of a reply is kept in the context's state for the next one (error feedback).
    """
    try:
        decoded = _convert(
            message.content,
            lambda key, array: decode(array, f"'{key}'"),
            lambda key, data: decode_bytes(data, f"'{key}'"),
        )
    except StrategyError as error:
        return _error_reply(message, error)
    # Kept apart from the records, which the app may change.
    bases = {name: dict(record.items()) for name, record in decoded.array_records.items()}
    reply = call_next(with_content(message, decoded), context)
    category = message.metadata.message_type.split(".")[0]
    if reply.has_error() or category != MessageType.TRAIN:
        return reply
    try:
        reply.content = _encode_reply(reply.content, message, bases, context.state)
    except StrategyError as error:
        return _error_reply(message, error)
    return reply


def _encode_reply(
    content: RecordDict,
    message: Message,
    bases: Mapping[str, Mapping[str, Array]],
    state: RecordDict,
) -> RecordDict:
    """Replace Arrays that came encoded by their differences from `bases`, what they decoded to."""
    result, requests = RecordDict(), _pair(content, message.content)
    for name, record in content.items():
        if isinstance(record, ArrayRecord) and name in requests:
            request = requests[name]
            # Each stream of updates has its own residual: an action may train something else.
            place = f"{RESIDUAL}.{message.metadata.message_type}.{request}"
            residuals = ArrayRecord(dict(state.array_records.get(place, {}).items()))
            received = message.content.array_records[request]
            record = _differences(record, received, bases[request], residuals)
            if residuals:
                state[place] = residuals
        result[name] = record
    return result


def _differences(
    record: ArrayRecord,
    received: Mapping[str, Array],
    bases: Mapping[str, Array],
    residuals: ArrayRecord,
) -> ArrayRecord:
    """Encode differences; those of int8 take up the residuals and leave new ones."""

    def encode_difference(key: str, array: Array) -> Array:
        came = received.get(key)
        if came is None or form(came) == "fp32" or array.stype != "numpy.ndarray":
            return array
        if (array.dtype, array.shape) != (came.dtype, came.shape):
            return array
        wire_dtype, segments, name = form(came), read_segments(came), f"'{key}'"
        with np.errstate(over="ignore", invalid="ignore"):  # int8 refuses, the server looks
            values = read_array(array) - read_array(bases[key])
        if wire_dtype != "int8":
            return encode_values(values, wire_dtype, segments, name)
        residual = residuals.get(key)
        if residual is not None and residual.shape == array.shape:
            values += decode_values(residual)
        sent = encode_values(values, wire_dtype, segments, name)
        values -= decode_values(sent)
        # A residual is at most half a step, so it has no outliers: int8 keeps the state small.
        residuals[key] = encode_values(values, "int8", segments, name)
        return sent

    return _map_arrays(record, encode_difference)


def _error_reply(message: Message, error: StrategyError) -> Message:
    return Message(Error(ErrorCode.MOD_FAILED_PRECONDITION, str(error)), reply_to=message)


def with_content(message: Message, content: RecordDict) -> Message:
    """Return a twin of a message with another content and the same metadata."""
    twin = copy.copy(message)
    twin.content = content
    return twin


def _map_arrays(record: ArrayRecord, convert: Callable[[str, Array], Array]) -> ArrayRecord:
    """Make a record of converted Arrays; one given a dictionary would copy each Array."""
    result = ArrayRecord()
    for key, array in record.items():
        result[key] = convert(key, array)
    return result


def _convert(
    content: RecordDict,
    convert_array: Callable[[str, Array], Array],
    convert_frozen: Callable[[str, bytes], bytes],
) -> RecordDict:
    """Make a content with the Arrays and the frozen units converted."""
    result = RecordDict()
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            record = _map_arrays(record, convert_array)
        elif isinstance(record, ConfigRecord):
            record = ConfigRecord(
                {
                    key: convert_frozen(key.removeprefix(FROZEN), value)
                    if key.startswith(FROZEN) and isinstance(value, bytes)
                    else value
                    for key, value in record.items()
                }
            )
        result[name] = record
    return result


def _pair(reply: RecordDict, request: RecordDict) -> dict[str, str]:
    """Tell for the ArrayRecords of a reply which of the request's each answers, by name.

    A record answers the one of its own name; the only record answers the only one.
    """
    answers, questions = list(reply.array_records), list(request.array_records)
    if len(answers) == len(questions) == 1:
        return {answers[0]: questions[0]}
    return {name: name for name in answers if name in questions}
