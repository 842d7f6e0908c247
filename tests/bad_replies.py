"""Replies of a node that are wrong in one way each, and the sentence that refuses them."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Error, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode

Reply = RecordDict | Error


def with_array(content: RecordDict, unit: str, array: Array) -> RecordDict:
    content.array_records["arrays"][unit] = array
    return content


def with_weight(content: RecordDict, weight: Any) -> RecordDict:
    content.metric_records["metrics"]["num-examples"] = weight
    return content


def with_arrays(content: RecordDict, record: ArrayRecord) -> RecordDict:
    content["arrays"] = record
    return content


def without(content: RecordDict, name: str) -> RecordDict:
    del content[name]
    return content


def numbers(*values: float, dtype: Any = np.float32) -> Array:
    return Array(np.array(values, dtype=dtype))


def pickled() -> Array:
    """An object array, which numpy would unpickle."""
    stream = io.BytesIO()
    np.save(stream, np.array([{"any": "object"}], dtype=object), allow_pickle=True)
    return Array("float32", (298,), "numpy.ndarray", stream.getvalue())


FAILED = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "the disk is full.")
# The model is `exits` on 6 blocks with 3 exits: a unit of 298 numbers at blocks 2, 4 and 6.
UNITS = "['block2', 'block4', 'block6']"
REPLIES: dict[str, tuple[Callable[[RecordDict], Reply], str]] = {
    "NaN": (
        lambda c: with_array(c, "block2", numbers(*[np.nan] * 298)),
        "it holds values that are not finite, or too large to be summed",
    ),
    "infinity": (
        lambda c: with_array(c, "block6", numbers(*[np.inf] * 298)),
        "it holds values that are not finite, or too large to be summed",
    ),
    "shape": (
        lambda c: with_array(c, "block2", numbers(1, 2, 3)),
        "'block2' has shape (3,), expected (298,)",
    ),
    "dtype": (
        lambda c: with_array(c, "block2", numbers(*range(298), dtype=np.float64)),
        "'block2' is float64, expected float32",
    ),
    "foreign unit": (
        lambda c: with_array(c, "block7", numbers(1)),
        "it holds 'block7', which is no unit of this method",
    ),
    "missing units": (
        lambda c: with_arrays(c, ArrayRecord({"block2": c.array_records["arrays"]["block2"]})),
        f"it holds the units ['block2'], expected {UNITS}",
    ),
    "no arrays": (lambda c: without(c, "arrays"), "it holds 0 ArrayRecords, expected one"),
    "no metrics": (lambda c: without(c, "metrics"), "it holds 0 MetricRecords, expected one"),
    "no weight": (
        lambda c: RecordDict({**c, "metrics": MetricRecord({"train-loss": 1.0})}),
        "its weight 'num-examples' is nan, expected a number above 0 and up to 1e+12",
    ),
    "negative weight": (
        lambda c: with_weight(c, -3),
        "its weight 'num-examples' is -3, expected a number above 0 and up to 1e+12",
    ),
    "huge weight": (
        lambda c: with_weight(c, 1e300),
        "its weight 'num-examples' is 1e+300, expected a number above 0 and up to 1e+12",
    ),
    "pickle": (
        lambda c: with_array(c, "block2", pickled()),
        "an array cannot be read (Object arrays cannot be loaded when allow_pickle=False)",
    ),
    "error": (lambda _: FAILED, "the disk is full."),
}
