"""Replies and nodes that do not count: refused by name, and the round goes on."""

import logging
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from adding_app import BANK, adding_app, federate, own_profile, partition_of, planner
from flwr.app import Array, ConfigRecord, Context

from server_app.inprocess import InProcessGrid
from strategies import AdapterFedAvg, Profile, StrategyError, plain_record

TORN = b"\x93NUMPY\x01\x00\x30\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1,"
BAD_REPLIES = {
    "foreign unit": (lambda a, m: ({**a, "block7": a["shared"]}, m), "which is no unit"),
    "missing unit": (lambda a, m: ({"shared": a["shared"]}, m), "expected \\['shared', 'block2'"),
    "wrong order": (lambda a, m: (dict(reversed(a.items())), m), "expected \\['shared', 'block2'"),
    "wrong shape": (
        lambda a, m: ({**a, "block2": Array(np.zeros(2, np.float32))}, m),
        "has shape",
    ),
    "wrong dtype": (lambda a, m: ({**a, "block2": Array(np.zeros(1))}, m), "is float64"),
    "NaN": (
        lambda a, m: ({**a, "block2": Array(np.array([np.nan], np.float32))}, m),
        "not finite",
    ),
    "infinity": (
        lambda a, m: ({**a, "block2": Array(np.array([np.inf], np.float32))}, m),
        "not finite",
    ),
    "huge": (
        lambda a, m: (
            {**a, "block2": Array(np.array([3e38], np.float32))},
            {**m, "num-examples": 9},
        ),
        "too large to be summed",
    ),
    "huge weight": (lambda a, m: (a, {**m, "num-examples": 1e300}), "up to 1e\\+12"),
    "tiny weight": (lambda a, m: (a, {**m, "num-examples": 1e-320}), "above 0"),
    "list weight": (lambda a, m: (a, {**m, "num-examples": [1, 2]}), "is nan"),
    "broken header": (
        lambda a, m: ({**a, "block2": Array("float32", (1,), "numpy.ndarray", TORN)}, m),
        "cannot be read",
    ),
    "no weight": (lambda a, m: (a, {"train-loss": 1.0}), "weight 'num-examples' is nan"),
    "zero weight": (lambda a, m: (a, {**m, "num-examples": 0}), "weight 'num-examples' is 0"),
    "negative weight": (lambda a, m: (a, {**m, "num-examples": -1}), "above 0"),
    "NaN weight": (lambda a, m: (a, {**m, "num-examples": float("nan")}), "is nan"),
    "garbage": (
        lambda a, m: ({**a, "block2": Array("float32", (1,), "numpy.ndarray", b"abc")}, m),
        "cannot be read",
    ),
}


@pytest.mark.parametrize("case", BAD_REPLIES)
def test_a_bad_reply_is_refused_by_name_and_the_round_goes_on(case: str) -> None:
    spoil, sentence = BAD_REPLIES[case]
    bank, recorder = federate(adding_app(lambda n, a, m: spoil(a, m) if n == 1 else (a, m)))
    (refused,) = [row for row in recorder.reports[0].clients if row.refused]
    assert refused.client_key == "1"
    assert re.search(sentence, refused.refused)
    assert bank["shared.token"].tolist() == [2, 3]
    assert bank["block2.w"].tobytes() == BANK["block2.w"].tobytes()


def test_a_crash_on_a_node_is_refused_with_its_reason() -> None:
    def crash(number: int, arrays: Any, metrics: Any) -> Any:
        if number == 1:
            raise RuntimeError("disk full")
        return arrays, metrics

    bank, recorder = federate(adding_app(crash))
    reasons = [row.refused for row in recorder.reports[0].clients if row.refused]
    assert reasons == ["RuntimeError: disk full"]
    assert bank["shared.token"].tolist() == [2, 3]


def test_too_few_valid_replies_leave_the_bank_bit_identical(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logging.getLogger("flwr").propagate = True
    spoiled = adding_app(lambda n, a, m: (a, {**m, "num-examples": -1}) if n else (a, m))
    bank, recorder = federate(spoiled, min_replies=2)
    for key, value in BANK.items():
        assert bank[key].tobytes() == value.tobytes()
    assert recorder.reports[0].coverage == {}
    assert "1 valid replies, 2 are needed" in caplog.text


def test_a_node_of_an_unknown_tier_is_refused() -> None:
    """Client 1 is "large", which these tiers do not have."""
    bank, recorder = federate(adding_app(), planner=planner("small depth=1 share=1"))
    refused = {row.client_key: row.refused for row in recorder.reports[0].clients if row.refused}
    assert list(refused) == ["1"]
    assert "'large', which is no tier; the tiers are small" in refused["1"]
    assert bank["shared.token"].tolist() == [2, 3]


def asked(tell: Callable[[Context], ConfigRecord], nodes: int, **options: Any) -> list[int]:
    """The ids of the nodes that get a training message, from 1."""
    strategy = AdapterFedAvg(min_available_nodes=1, planner=planner(), **options)
    grid = InProcessGrid(adding_app(tell=tell), nodes, {})
    messages = strategy.configure_train(1, plain_record(BANK), ConfigRecord(), grid)
    return [message.metadata.dst_node_id for message in messages]


def test_a_node_that_does_not_know_the_wire_dtype_is_left_out() -> None:
    """Node 2 of three knows fp16."""

    def tell(context: Context) -> ConfigRecord:
        dtypes = ("fp32", "fp16") if context.node_id == 2 else ("fp32",)
        return Profile(context.node_id, str(context.node_id), "small", 1, dtypes).to_record()

    assert asked(tell, nodes=3, wire_dtype="fp16") == [2]


def test_a_profile_that_cannot_be_read_leaves_the_node_out() -> None:
    def tell(context: Context) -> ConfigRecord:
        return ConfigRecord({"name": 3}) if partition_of(context) else own_profile(context)

    assert asked(tell, nodes=2) == [1]


def test_two_nodes_with_one_client_key_count_once() -> None:
    assert asked(lambda c: Profile(c.node_id, "same", "small", 1).to_record(), nodes=2) == [1]


def test_a_query_that_fails_everywhere_ends_in_the_nodes_sentence() -> None:
    def tell(context: Context) -> ConfigRecord:
        raise ValueError("no data here")

    with pytest.raises(StrategyError, match="no data here"):
        federate(adding_app(tell=tell))
