"""Tiers that hold the leading parts of tensors: what travels, and what their replies change."""

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from adding_app import BANK, adding_app, federate, partition_of, planner
from flwr.app import Array, ConfigRecord, Context, Message

from server_app.inprocess import InProcessGrid
from strategies import (
    AdapterFedAvg,
    Aggregation,
    CutPlanner,
    InclusivePlanner,
    Layout,
    Plan,
    Profile,
    StrategyError,
    parse_tiers,
    plain_record,
    read_array,
    wire_codec,
)
from strategies.aggregation import HolderMean
from strategies.bank import Bank
from strategies.codec_mod import Encoder
from strategies.plans import travelling
from strategies.robust import HolderMedian

WHOLE = {"a.w": (2, 3), "a.bias": (2,), "b.x": (2,)}
CUT = {"a.w": (1, 2), "a.bias": (2,), "b.x": (2,)}


def bank_of(tensors: dict[str, Any]) -> Bank:
    return Bank(plain_record({k: np.array(v, np.float32) for k, v in tensors.items()}), packed=True)


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def example() -> Bank:
    return bank_of({"a.w": [[1, 2, 3], [4, 5, 6]], "a.bias": [7, 8], "b.x": [9, 10]})


def test_a_cut_is_the_leading_part_of_each_tensor_and_goes_back_to_its_place() -> None:
    bank, own = example(), Layout(CUT)
    cut = bank.layout.cut("a", bank.vectors["a"], own)
    assert cut.tolist() == [1, 2, 7, 8]
    back = bank.layout.put("a", own, floats(-1, -2, -7, -8), bank.vectors["a"])
    assert back.tolist() == [-1, -2, 3, 4, 5, 6, -7, -8]
    assert bank.vectors["a"].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    "shapes",
    [
        {"a.w": (3, 3), "a.bias": (2,)},
        {"a.w": (2, 3, 1), "a.bias": (2,)},
        {"a.w": (2, 3)},
        {"a.bias": (2,), "a.w": (2, 3)},
    ],
)
def test_a_layout_that_is_no_part_of_the_banks_is_refused(shapes: dict[str, Any]) -> None:
    bank = example()
    with pytest.raises(StrategyError, match="no leading parts of the bank's"):
        bank.layout.cut("a", bank.vectors["a"], Layout(shapes))


def test_tiers_share_the_arrays_of_equal_parts_and_each_is_encoded_once() -> None:
    """Two tiers with one cut, in layouts of their own, and one without: `b` is whole for all."""
    bank = example()
    plans = [Plan(1, ("a", "b"), (), Layout(CUT)), Plan(2, ("a",), ("b",), Layout(CUT))]
    plans.append(Plan(2, ("a", "b")))
    encoder, contents, sent = Encoder("int8"), [], []
    for plan in plans:
        content = bank.content(
            plan,
            ConfigRecord(),
            training=True,
            scoring=False,
            array_key="arrays",
            config_key="config",
        )
        sizes = travelling(plan, bank.layout).sizes
        sent.append(encoder.encode_content(content, sizes)["arrays"])
        contents.append(content)
    first, second, third = (content["arrays"] for content in contents)
    assert first["a"] is second["a"]
    assert first["a"] is not third["a"]
    assert first["b"] is third["b"]
    assert read_array(first["a"]).tolist() == [1, 2, 7, 8]
    assert sent[0]["a"] is sent[1]["a"]
    # 4 or 8 numbers of two tensors, each with a scale and a size of 4 bytes, and their number.
    assert [len(arrays["a"].data) for arrays in sent] == [24, 24, 28]
    layouts = [content["config"]["layout"] for content in contents]
    assert layouts == [Layout(CUT).fingerprint()] * 2 + [Layout(WHOLE).fingerprint()]
    bank.update({"a": bank.vectors["a"] + 1})
    assert read_array(bank.arrays(["a"], plans[0])["a"]).tolist() == [2, 3, 8, 9]
    assert bank.arrays(["b"], plans[0])["b"] is first["b"]


@pytest.mark.parametrize("cut_first", [True, False])
def test_each_element_is_averaged_over_the_clients_that_own_it(cut_first: bool) -> None:
    """Weight 1 owns all, weight 3 the first row's first two; of row 1 nobody else."""
    bank, plan = example(), Plan(1, (), (), Layout(CUT))
    whole = ({"a": floats(5, 6, 7, 8, 9, 10, 11, 12)}, 1.0, None)
    part = (bank.in_place({"a": floats(1, 2, 3, 4)}, plan), 3.0, plan)
    mean = HolderMean(bank.layout)
    for vectors, weight, asked in [part, whole] if cut_first else [whole, part]:
        mean.add(vectors, weight, asked)
    assert mean.result(bank.vectors)["a"].tolist() == [2, 3, 7, 8, 9, 10, 5, 6]
    assert mean.weights["a"].tolist() == [4, 4, 1, 1, 1, 1, 4, 4]


@pytest.mark.parametrize("rule", ["mean", "median", "trimmed-mean"])
def test_elements_that_nobody_owned_keep_their_bits(rule: str) -> None:
    start = np.random.default_rng(0).normal(size=(2, 3))
    bank = bank_of({"a.w": start, "a.bias": [7, 8]})
    plan = Plan(1, (), (), Layout(CUT))
    for options in ({}, {"clip": 0.3}):
        aggregator = Aggregation(rule, 0.3, **options).begin(bank.layout, (), bank.vectors)
        for client in range(4):
            own = floats(client, 2, -1, 3)
            aggregator.add(bank.in_place({"a": own}, plan), client + 1, plan)
        changed = aggregator.result(bank.vectors)["a"] != bank.vectors["a"]
        assert changed.tolist() == [True, True, False, False, False, False, True, True]


def test_noise_falls_on_what_somebody_owned_alone() -> None:
    bank, plan = example(), Plan(1, (), (), Layout(CUT))
    rule = Aggregation(clip=1.0, noise_multiplier=1.0, generator=np.random.default_rng(2))
    noisy = rule.begin(bank.layout, (), bank.vectors)
    for _ in range(2):
        noisy.add(bank.in_place({"a": floats(1, 2, 7, 8)}, plan), 1, plan)
    moved = noisy.result(bank.vectors)["a"] - bank.vectors["a"]
    draws = np.random.default_rng(2).normal(0, 1, 8) / 2
    np.testing.assert_allclose(moved, draws * [1, 1, 0, 0, 0, 0, 1, 1], atol=1e-6)


def test_a_clipped_update_counts_the_clients_own_elements() -> None:
    """Its own moves by 3 and 4, so by 5; a limit of 1 leaves a fifth of both."""
    bank, plan = example(), Plan(1, (), (), Layout(CUT))
    aggregator = Aggregation(clip=1.0).begin(bank.layout, (), bank.vectors)
    figures = aggregator.add(bank.in_place({"a": floats(4, 2, 11, 8)}, plan), 1, plan)
    assert figures == {"update-norm": 5}
    expected = [1.6, 2, 3, 4, 5, 6, 7.8, 8]
    np.testing.assert_allclose(aggregator.result(bank.vectors)["a"], expected, rtol=1e-6)


@pytest.mark.parametrize("rule", ["mean", "median", "trimmed-mean"])
def test_rules_agree_with_a_plain_reading_element_by_element(rule: str) -> None:
    """Tensors of all forms, rows by depth and parts at once, seven clients of four tiers."""
    generator = np.random.default_rng(1)
    shapes = {"a.scalar": (), "a.rows": (5, 3), "a.w": (6, 4), "a.kernel": (4, 1, 2, 2)}
    bank = bank_of({key: generator.normal(size=shape) for key, shape in shapes.items()})
    own = {"a.scalar": (), "a.rows": (5, 2), "a.w": (6, 3), "a.kernel": (2, 1, 2, 2)}
    less = {"a.scalar": (), "a.rows": (5, 1), "a.w": (2, 4), "a.kernel": (3, 1, 1, 2)}
    plans = [Plan(1, (), (), Layout(own)), Plan(3, (), (), Layout(less)), Plan(4, ()), Plan(2, ())]
    options = {"a.rows"}
    aggregator = Aggregation(rule, 0.3).begin(bank.layout, options, bank.vectors)
    replies = []
    for client in range(7):
        plan = plans[client % 4]
        held = plan.layout or bank.layout
        sent = {"a": generator.normal(size=held.size("a")).astype(np.float32)}
        aggregator.add(bank.in_place(sent, plan), client + 1, plan)
        replies.append((held.split(sent), plan.depth, client + 1))
    result = bank.layout.split(aggregator.result(bank.vectors))
    for key, shape in shapes.items():
        for place in product(*map(range, shape)):
            holders = [
                (float(tensors[key][place]), weight)
                for tensors, depth, weight in replies
                if all(i < n for i, n in zip(place, tensors[key].shape, strict=True))
                and (key != "a.rows" or place[0] <= depth)
            ]
            values = sorted(value for value, _ in holders)
            if not holders:
                expected = bank.tensors()[key][place]
            elif rule == "mean":
                expected = np.average([v for v, _ in holders], weights=[w for _, w in holders])
            else:
                drop = (len(values) - 1) // 2 if rule == "median" else math.floor(0.3 * len(values))
                expected = np.mean(values[drop : len(values) - drop])
            assert result[key][place] == pytest.approx(expected, abs=1e-5), (key, place)


def test_many_depths_and_parts_of_one_tensor_stay_few_cells() -> None:
    """400 rows, 60 clients of 20 depths and 2 widths: the median of rows that each owns."""
    bank = bank_of({"s.rows": np.zeros((400, 8))})
    median = HolderMedian(bank.layout, ["s.rows"])
    for client in range(60):
        depth = 20 * (client % 20) + 18
        plan = Plan(depth, (), (), Layout({"s.rows": (400, 4 + 4 * (client % 2))}))
        own = np.full(400 * (4 + 4 * (client % 2)), client % 20, np.float32)
        median.add(bank.in_place({"s": own}, plan), 1, plan)
    rows = median.result(bank.vectors)["s"].reshape(400, 8)
    assert rows[0].tolist() == [9.5] * 4 + [10] * 4
    assert rows[378].tolist() == [18.5] * 4 + [19] * 4
    assert rows[399].tolist() == [0] * 8


SHAPES = {"shared.token": (1,), "block1.w": (1,)}


def own_model(context: Context, dtypes: tuple[str, ...] = ("fp32",)) -> ConfigRecord:
    key = partition_of(context)
    tier = "large" if key else "small"
    return Profile(context.node_id, str(key), tier, key + 1, dtypes).to_record()


@pytest.mark.parametrize("wire_dtype", ["fp32", "fp16", "bf16", "int8"])
def test_a_federation_of_whole_and_cut_tiers(wire_dtype: str) -> None:
    """Small (weight 1) holds the first number of the token and adds 1; large (2) adds 2."""
    sizes = {}

    def spy(message: Message, context: Context, call_next: Any) -> Message:
        sizes[partition_of(context)] = message.content["arrays"]["shared"].shape
        return call_next(message, context)

    bank, recorder = federate(
        adding_app(tell=lambda c: own_model(c, ("fp32", wire_dtype)), mods=[wire_codec, spy]),
        planner=CutPlanner(planner(), {"small": Layout(SHAPES)}),
        wire_dtype=wire_dtype,
    )
    assert [row.refused for row in recorder.reports[0].clients] == [""] * 4
    assert sizes == {0: (1,), 1: (2,)}
    np.testing.assert_allclose(bank["shared.token"], [1 + 5 / 3, 4], rtol=0.01)
    np.testing.assert_allclose(bank["block1.w"], [11], rtol=0.01)
    assert bank["block3.w"].tobytes() == BANK["block3.w"].tobytes()


def test_a_reply_of_another_size_than_the_tiers_is_refused() -> None:
    """The small client answers with as many numbers as the bank has."""

    def grow(number: int, arrays: Any, metrics: Any) -> Any:
        if number == 0:
            arrays = {**arrays, "shared": Array(BANK["shared.token"])}
        return arrays, metrics

    bank, recorder = federate(
        adding_app(grow), planner=CutPlanner(planner(), {"small": Layout(SHAPES)})
    )
    refused = [row.refused for row in recorder.reports[0].clients if row.refused]
    assert refused == ["'shared' has shape (2,), expected (1,)"]
    assert bank["shared.token"].tolist() == [3, 4]


def test_a_plan_gets_the_layout_of_its_tier() -> None:
    layout = Layout(SHAPES)
    cut = CutPlanner(planner(), {"small": layout})
    assert cut("small", 1) == Plan(1, ("shared", "block1"), (), layout)
    assert cut("large", 1) == Plan(2, ("shared", "block2"), ("block1",))


def test_tiers_of_inclusivefl_that_end_together_have_one_rank() -> None:
    """Also where one says it and the other leaves it out."""

    def plans(first: int) -> InclusivePlanner:
        tiers = parse_tiers(f"a depth=2 rank={first} share=0.5; b depth=2 share=0.5", 3, 4)
        return InclusivePlanner(tiers, ("block1", "exit1", "block2"), (1, 2))

    assert plans(4)("a", 1) == plans(4)("b", 1)
    with pytest.raises(StrategyError, match=r"exit after block 2, .* rank \(now 1 and 4\)"):
        plans(1)


def test_without_packs_an_array_has_the_tiers_shape() -> None:
    bank = Bank(plain_record({"w": np.arange(6, dtype=np.float32).reshape(2, 3)}), packed=False)
    plan = Plan(1, ("w",), (), Layout({"w": (2, 1)}, packed=False))
    array = bank.arrays(["w"], plan)["w"]
    assert (array.shape, read_array(array).tolist()) == ((2, 1), [[0], [3]])


def test_an_evaluation_gets_the_tiers_parts() -> None:
    strategy = AdapterFedAvg(
        min_available_nodes=2, planner=CutPlanner(planner(), {"small": Layout(SHAPES)})
    )
    messages = strategy.configure_evaluate(
        1, plain_record(BANK), ConfigRecord(), InProcessGrid(adding_app(), 2, {})
    )
    shapes = [
        {unit: array.shape for unit, array in message.content["arrays"].items()}
        for message in messages
    ]
    assert shapes == [
        {"shared": (1,), "block1": (1,)},
        {"shared": (2,), "block2": (1,), "block1": (1,)},
    ]
