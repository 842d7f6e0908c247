"""The strategy with ClientApps of a few lines, through the in-process grid."""

from typing import Any

import numpy as np
import pytest
from adding_app import BANK, Recorder, adding_app, federate, partition_of, planner
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import fixedclipping_mod

from server_app.inprocess import InProcessGrid
from strategies import FROZEN, AdapterFedAvg, plain_record, read_array


def test_units_are_averaged_over_holders_and_the_rest_stays() -> None:
    """Client 0 (depth 1, weight 1) adds 1; client 1 (block 2 of two, weight 2) adds 2."""
    bank, recorder = federate(adding_app())
    np.testing.assert_allclose(bank["shared.token"], [1 + 5 / 3, 2 + 5 / 3], rtol=1e-6)
    assert bank["block1.w"].tolist() == [11]
    assert bank["block2.w"].tolist() == [22]
    assert bank["block3.w"].tobytes() == BANK["block3.w"].tobytes()
    assert recorder.reports[0].coverage == {"shared": 2, "block1": 1, "block2": 1}


def test_frozen_units_travel_down_only_and_apart() -> None:
    """In the config: Flower's client mods want one ArrayRecord with the reply's keys."""
    seen: dict[int, RecordDict] = {}

    def spy(message: Message, context: Context, call_next: Any) -> Message:
        seen[partition_of(context)] = message.content
        return call_next(message, context)

    federate(adding_app(mods=[spy]))
    assert list(seen[1].array_records) == ["arrays"]
    assert list(seen[1]["arrays"]) == ["shared", "block2"]
    frozen = {k: v for k, v in seen[1]["config"].items() if k.startswith(FROZEN)}
    assert list(frozen) == [f"{FROZEN}block1"]
    assert read_array(frozen[f"{FROZEN}block1"]).tolist() == [10]
    assert not any(key.startswith(FROZEN) for key in seen[0]["config"])


def test_an_evaluation_gets_all_units_of_the_tier() -> None:
    _, recorder = federate(adding_app())
    rows = [row for row in recorder.reports[0].clients if row.phase == "evaluate"]
    assert [row.metrics["units"] for row in rows] == [2, 3]


def test_sampling_is_seeded_and_needs_no_memory() -> None:
    def chosen(seed: int, first_round: int = 1) -> list[list[str]]:
        recorder = Recorder()
        strategy = AdapterFedAvg(
            min_available_nodes=4,
            train_nodes=2,
            seed=seed,
            planner=planner(),
            callbacks=[recorder],
        )
        strategy.completed_rounds = first_round - 1
        strategy.start(InProcessGrid(adding_app(), 4, {}), plain_record(BANK), num_rounds=6)
        return recorder.clients()

    assert chosen(3) == chosen(3)
    assert chosen(3) != chosen(4)
    assert chosen(3, first_round=4) == chosen(3)[3:]


def test_other_peoples_apps_work_without_profiles_or_packs() -> None:
    """Plain ArrayRecords, no query handler, and a client that returns a part of what it got."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        number = partition_of(context)
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


def test_a_mod_of_flower_works_on_packs_beside_frozen_units() -> None:
    """Client-side clipping of flwr: the update's norm is cut to 0.1 on a tier with frozen units."""
    bank, _ = federate(
        adding_app(mods=[fixedclipping_mod]),
        nodes=1,
        config=ConfigRecord({"clipping_norm": 0.1}),
        min_train_nodes=1,
        fraction_evaluate=0.0,
        planner=planner("small depth=2 trained=1 share=1"),
    )
    moved = np.concatenate([np.ravel(bank[key] - value) for key, value in BANK.items()])
    assert np.linalg.norm(moved) == pytest.approx(0.1, rel=1e-4)
