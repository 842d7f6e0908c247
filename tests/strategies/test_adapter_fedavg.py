"""The strategy with ClientApps of a few lines, through the in-process grid."""

import logging
import re
from typing import Any

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import fixedclipping_mod

from server_app.inprocess import InProcessGrid
from strategies import (
    FROZEN,
    PROFILE,
    AdapterFedAvg,
    Callback,
    DepthPlanner,
    Profile,
    RoundReport,
    StrategyError,
    parse_tiers,
    plain_record,
    read_array,
)

BANK = {
    "shared.token": np.array([1, 2], np.float32),
    "block1.w": np.array([10], np.float32),
    "block2.w": np.array([20], np.float32),
    "block3.w": np.array([30], np.float32),
}
TIERS = "small depth=1 clients=0; large depth=2 trained=1 clients=1-3"


def adding_app(answer: Any = None) -> ClientApp:
    """A ClientApp that adds its partition id + 1 to all it got; `answer` may change its reply."""
    app = ClientApp()

    def number(context: Context) -> int:
        return int(context.node_config["partition-id"])

    @app.query()
    def profile(message: Message, context: Context) -> Message:
        key = number(context)
        tier = "small" if key == 0 else "large"
        record = Profile(context.node_id, str(key), tier, key + 1).to_record()
        return Message(RecordDict({PROFILE: record}), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays = {
            key: Array(array.numpy() + np.float32(number(context) + 1))
            for key, array in message.content["arrays"].items()
        }
        metrics: dict[str, Any] = {"num-examples": number(context) + 1, "train-loss": 0.5}
        if answer is not None:
            arrays, metrics = answer(number(context), arrays, metrics)
        content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": MetricRecord(metrics)})
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        del context
        metrics = MetricRecord({"num-examples": 1, "units": len(message.content["arrays"])})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


class Recorder(Callback):
    def __init__(self) -> None:
        self.reports: list[RoundReport] = []

    def on_round_end(self, strategy: AdapterFedAvg, report: RoundReport) -> None:
        self.reports.append(report)


def run(
    app: ClientApp, nodes: int = 2, rounds: int = 1, **options: Any
) -> tuple[dict[str, np.ndarray], list[RoundReport]]:
    recorder = Recorder()
    tiers = parse_tiers(TIERS, 3)
    options = {"planner": DepthPlanner(tiers, ("shared", "block1", "block2", "block3"))} | options
    strategy = AdapterFedAvg(min_available_nodes=nodes, callbacks=[recorder], **options)
    result = strategy.start(InProcessGrid(app, nodes, {}), plain_record(BANK), num_rounds=rounds)
    return {key: array.numpy() for key, array in result.arrays.items()}, recorder.reports


def test_units_are_averaged_over_holders_and_the_rest_stays() -> None:
    """Client 0 (depth 1, weight 1) adds 1; client 1 (block 2 of two, weight 2) adds 2."""
    bank, reports = run(adding_app())
    np.testing.assert_allclose(bank["shared.token"], [1 + 5 / 3, 2 + 5 / 3], rtol=1e-6)
    assert bank["block1.w"].tolist() == [11]
    assert bank["block2.w"].tolist() == [22]
    assert bank["block3.w"].tobytes() == BANK["block3.w"].tobytes()
    assert reports[0].coverage == {"shared": 2, "block1": 1, "block2": 1}


def test_frozen_units_travel_down_only_and_apart() -> None:
    """In the config: Flower's client mods want one ArrayRecord with the reply's keys."""
    seen: dict[int, RecordDict] = {}

    def spy(message: Message, context: Context, call_next: Any) -> Message:
        seen[int(context.node_config["partition-id"])] = message.content
        return call_next(message, context)

    app = adding_app()
    spied = ClientApp()
    spied.query()(lambda m, c: app(m, c))
    spied.train(mods=[spy])(lambda m, c: app(m, c))
    spied.evaluate()(lambda m, c: app(m, c))
    run(spied)
    assert list(seen[1].array_records) == ["arrays"]
    assert list(seen[1]["arrays"]) == ["shared", "block2"]
    frozen = {k: v for k, v in seen[1]["config"].items() if k.startswith(FROZEN)}
    assert list(frozen) == [f"{FROZEN}block1"]
    assert read_array(frozen[f"{FROZEN}block1"]).tolist() == [10]
    assert not any(key.startswith(FROZEN) for key in seen[0]["config"])


def test_an_evaluation_gets_all_units_of_the_tier() -> None:
    _, reports = run(adding_app())
    assert [row.metrics["units"] for row in reports[0].clients if row.phase == "evaluate"] == [2, 3]


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
        "above 1e20",
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
    bank, reports = run(adding_app(lambda n, a, m: spoil(a, m) if n == 1 else (a, m)))
    (refused,) = [row for row in reports[0].clients if row.refused]
    assert refused.client_key == "1"
    assert re.search(sentence, refused.refused)
    assert bank["shared.token"].tolist() == [2, 3]
    assert bank["block2.w"].tobytes() == BANK["block2.w"].tobytes()


def test_a_crash_on_a_node_is_refused_with_its_reason() -> None:
    def crash(number: int, arrays: Any, metrics: Any) -> Any:
        if number == 1:
            raise RuntimeError("disk full")
        return arrays, metrics

    bank, reports = run(adding_app(crash))
    assert [row.refused for row in reports[0].clients if row.refused] == ["RuntimeError: disk full"]
    assert bank["shared.token"].tolist() == [2, 3]


def test_too_few_valid_replies_leave_the_bank_bit_identical(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logging.getLogger("flwr").propagate = True
    spoiled = adding_app(lambda n, a, m: (a, {**m, "num-examples": -1}) if n else (a, m))
    bank, reports = run(spoiled, min_replies=2)
    for key, value in BANK.items():
        assert bank[key].tobytes() == value.tobytes()
    assert reports[0].coverage == {}
    assert "1 valid replies, 2 are needed" in caplog.text


def test_sampling_is_seeded_and_needs_no_memory() -> None:
    def chosen(seed: int, first_round: int = 1) -> list[list[str]]:
        recorder = Recorder()
        tiers = parse_tiers(TIERS, 3)
        strategy = AdapterFedAvg(
            min_available_nodes=4,
            train_nodes=2,
            seed=seed,
            planner=DepthPlanner(tiers, ("shared", "block1", "block2", "block3")),
            callbacks=[recorder],
        )
        strategy.completed_rounds = first_round - 1
        strategy.start(InProcessGrid(adding_app(), 4, {}), plain_record(BANK), num_rounds=6)
        return [
            [row.client_key for row in report.clients if row.phase == "train"]
            for report in recorder.reports
        ]

    assert chosen(3) == chosen(3)
    assert chosen(3) != chosen(4)
    assert chosen(3, first_round=4) == chosen(3)[3:]


def test_other_peoples_apps_work_without_profiles_or_packs() -> None:
    """Plain ArrayRecords, no query handler, and a client that returns a part of what it got."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        number = int(context.node_config["partition-id"])
        arrays = dict(message.content["arrays"].items())
        if number == 0:
            arrays.pop("fc.bias")
        new = {k: Array(np.asarray(array.numpy() + 1 + number)) for k, array in arrays.items()}
        content = {"arrays": ArrayRecord(new), "metrics": MetricRecord({"num-examples": 1})}
        return Message(RecordDict(content), reply_to=message)

    start = {"fc.weight": np.zeros((2, 2)), "fc.bias": np.ones(2), "steps": np.array(4)}
    strategy = AdapterFedAvg(fraction_evaluate=0.0)
    result = strategy.start(InProcessGrid(app, 2, {}), plain_record(start), num_rounds=1)
    arrays = {key: array.numpy() for key, array in result.arrays.items()}
    assert arrays["fc.weight"].tolist() == [[1.5, 1.5], [1.5, 1.5]]
    assert arrays["fc.bias"].tolist() == [3, 3]
    assert arrays["steps"].shape == ()
    assert list(arrays) == list(start)


def test_a_node_that_does_not_know_the_wire_dtype_is_left_out() -> None:
    """Node 2 of three knows fp16."""
    app = adding_app()
    mixed = ClientApp()
    mixed.train()(lambda m, c: app(m, c))
    mixed.evaluate()(lambda m, c: app(m, c))

    @mixed.query()
    def profile(message: Message, context: Context) -> Message:
        dtypes = ("fp32", "fp16") if context.node_id == 2 else ("fp32",)
        record = Profile(context.node_id, str(context.node_id), "small", 1, dtypes).to_record()
        return Message(RecordDict({PROFILE: record}), reply_to=message)

    strategy = AdapterFedAvg(
        min_available_nodes=1,
        fraction_evaluate=0.0,
        wire_dtype="fp16",
        planner=DepthPlanner(parse_tiers(TIERS, 3), ("shared", "block1", "block2")),
    )
    grid = InProcessGrid(mixed, 3, {})
    messages = strategy.configure_train(1, plain_record(BANK), ConfigRecord(), grid)
    assert [message.metadata.dst_node_id for message in messages] == [2]


def test_a_query_that_fails_everywhere_ends_in_the_nodes_sentence() -> None:
    app = ClientApp()

    @app.query()
    def profile(message: Message, context: Context) -> Message:
        raise ValueError("no data here")

    with pytest.raises(StrategyError, match="no data here"):
        run(app)


def test_two_nodes_with_one_client_key_count_once() -> None:
    app = adding_app()
    twin = ClientApp()
    twin.train()(lambda m, c: app(m, c))
    twin.evaluate()(lambda m, c: app(m, c))

    @twin.query()
    def profile(message: Message, context: Context) -> Message:
        record = Profile(context.node_id, "same", "small", 1).to_record()
        return Message(RecordDict({PROFILE: record}), reply_to=message)

    tiers = parse_tiers(TIERS, 3)
    planner = DepthPlanner(tiers, ("shared", "block1"))
    recorder = Recorder()
    strategy = AdapterFedAvg(min_available_nodes=1, planner=planner, callbacks=[recorder])
    strategy.start(InProcessGrid(twin, 2, {}), plain_record(BANK), num_rounds=1)
    assert len([row for row in recorder.reports[0].clients if row.phase == "train"]) == 1


def test_a_mod_of_flower_works_on_packs_beside_frozen_units() -> None:
    """Client-side clipping of flwr: the update's norm is cut to 0.1 on a tier with frozen units."""
    app = adding_app()
    clipped = ClientApp()
    clipped.query()(lambda m, c: app(m, c))
    clipped.train(mods=[fixedclipping_mod])(lambda m, c: app(m, c))
    tiers = parse_tiers("small depth=2 trained=1 share=1", 3)
    strategy = AdapterFedAvg(
        min_available_nodes=1,
        min_train_nodes=1,
        fraction_evaluate=0.0,
        planner=DepthPlanner(tiers, ("shared", "block1", "block2", "block3")),
    )
    config = ConfigRecord({"clipping_norm": 0.1})
    result = strategy.start(
        InProcessGrid(clipped, 1, {}), plain_record(BANK), num_rounds=1, train_config=config
    )
    moved = np.concatenate(
        [np.ravel(result.arrays[key].numpy() - value) for key, value in BANK.items()]
    )
    assert np.linalg.norm(moved) == pytest.approx(0.1, rel=1e-4)


def test_a_node_of_an_unknown_tier_is_refused_and_the_round_goes_on() -> None:
    """Client 1 is "large", which these tiers do not have."""
    planner = DepthPlanner(parse_tiers("small depth=1 share=1", 3), ("shared", "block1"))
    bank, reports = run(adding_app(), planner=planner)
    refused = {row.client_key: row.refused for row in reports[0].clients if row.refused}
    assert list(refused) == ["1"]
    assert "'large', which is no tier; the tiers are small" in refused["1"]
    assert bank["shared.token"].tolist() == [2, 3]


def test_a_profile_that_cannot_be_read_leaves_the_node_out() -> None:
    app = adding_app()
    odd = ClientApp()
    odd.train()(lambda m, c: app(m, c))
    odd.evaluate()(lambda m, c: app(m, c))

    @odd.query()
    def profile(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] == 0:
            return app(message, context)
        return Message(RecordDict({PROFILE: ConfigRecord({"name": 3})}), reply_to=message)

    strategy = AdapterFedAvg(
        min_available_nodes=1,
        planner=DepthPlanner(parse_tiers("small depth=1 share=1", 3), ("shared", "block1")),
    )
    grid = InProcessGrid(odd, 2, {})
    messages = strategy.configure_train(1, plain_record(BANK), ConfigRecord(), grid)
    assert [message.metadata.dst_node_id for message in messages] == [1]
