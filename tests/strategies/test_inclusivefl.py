"""InclusiveFL's server step against numbers worked out by hand.

Exits after blocks 1, 3 and 4; every tensor is one number. Client c adds ``d * b`` to what it
trains in block b and ``d`` to its head, in every round:

    tier      ends after   client   d   examples   mean d of the tier
    shallow   1            0         1   1          4
                           1         5   3
    middle    3            2        -2   2          1
                           3         2   6
    deep      4            4         4   1          4
"""

from typing import Any

import numpy as np
import pytest
from adding_app import Recorder, adding_app, partition_of
from flwr.app import Array, ConfigRecord, Context

from server_app.inprocess import InProcessGrid
from strategies import (
    Aggregation,
    InclusiveFL,
    InclusivePlanner,
    Plan,
    Profile,
    ServerAdam,
    ServerDyn,
    StrategyError,
    parse_tiers,
    plain_record,
)

BANK = {
    "block1.adapter.w": np.array([10], np.float32),
    "block2.adapter.w": np.array([20], np.float32),
    "block3.adapter.w": np.array([30], np.float32),
    "block4.adapter.w": np.array([40], np.float32),
    "block4.head.w": np.array([45], np.float32),
    "exit1.adapter.w": np.array([11], np.float32),
    "exit1.head.w": np.array([15], np.float32),
    "exit3.adapter.w": np.array([33], np.float32),
    "exit3.head.w": np.array([35], np.float32),
}
UNITS = ("block1", "block2", "block3", "block4", "exit1", "exit3")
EXITS = (1, 3, 4)
TIERS = "shallow depth=1 clients=0,1; middle depth=3 clients=2,3; deep depth=4 clients=4"
ADDED = {0: 1, 1: 5, 2: -2, 3: 2, 4: 4}
EXAMPLES = {0: 1, 1: 3, 2: 2, 3: 6, 4: 1}
HEADS = {"block4", "exit1", "exit3"}  # two numbers each: the block's, and the head's


def planner(tiers: str = TIERS) -> InclusivePlanner:
    return InclusivePlanner(parse_tiers(tiers, 4), UNITS, EXITS)


def tell(context: Context) -> ConfigRecord:
    """Clients 0 and 1 are shallow, 2 and 3 middle, 4 is deep."""
    number = partition_of(context)
    tier = ("shallow", "shallow", "middle", "middle", "deep")[number]
    return Profile(context.node_id, str(number), tier, EXAMPLES[number]).to_record()


def answer(number: int, arrays: dict[str, Array], metrics: dict[str, Any]) -> Any:
    """The app of `adding_app` has added ``number + 1``; put ``d * b`` and ``d`` in its place."""
    changed = {}
    for unit, array in arrays.items():
        factors = [int(unit[-1]), 1] if unit in HEADS else [int(unit[-1])]
        got = array.numpy() - np.float32(number + 1)
        changed[unit] = Array(got + np.array(factors, np.float32) * ADDED[number])
    return changed, {**metrics, "num-examples": EXAMPLES[number]}


def run(rounds: int, strategy: InclusiveFL | None = None) -> dict[str, float]:
    """Let all five clients train in every round; return the bank."""
    strategy = strategy or InclusiveFL(planner=planner(), min_available_nodes=5)
    strategy.fraction_evaluate = 0.0
    grid = InProcessGrid(adding_app(answer, tell=tell), 5, {})
    arrays = strategy.start(grid, plain_record(BANK), num_rounds=rounds).arrays
    return {key: float(array.numpy()[0]) for key, array in arrays.items()}


def test_two_rounds_by_hand() -> None:
    """In the second round beta is 0.2 of the momentum, which is a mean gradient (minus what was
    added): of the middle tier over blocks 2 and 3, of the deep tier that of block 4."""
    first = {
        # The shared version is the mean over the tiers by clients: (2 * 1 + 1 * 4) / 3 per block.
        "block1.adapter.w": 10 + 2,
        "block2.adapter.w": 20 + 4,
        "block3.adapter.w": 30 + 12,  # the middle tier has a version of its own
        "block4.adapter.w": 40 + 16,
        "block4.head.w": 45 + 4,
        "exit1.adapter.w": 11 + 4,
        "exit1.head.w": 15 + 4,
        "exit3.adapter.w": 33 + 3,
        "exit3.head.w": 35 + 1,
    }
    assert run(1) == pytest.approx(first, rel=1e-6)
    second = {
        "block1.adapter.w": 10 + 2 * 2,
        "block2.adapter.w": 20 + 2 * 4,
        "block3.adapter.w": 30 + 2 * 12,
        "block4.adapter.w": 40 + 2 * 16,
        "block4.head.w": 45 + 2 * 4,
        "exit1.adapter.w": 11 + 4 + (0.2 * (2 + 3) / 2 + 0.8 * 4),
        "exit1.head.w": 15 + 2 * 4,
        "exit3.adapter.w": 33 + 3 + (0.2 * 16 + 0.8 * 3),
        "exit3.head.w": 35 + 2 * 1,
    }
    assert run(2) == pytest.approx(second, rel=1e-6)


def test_momentum_passes_on_what_came_from_above() -> None:
    """Round 2 moved the middle tier's own block by 5.6, which round 3 hands to the shallow one."""
    middle = 0.2 * 16 + 0.8 * 3
    expected = 11 + 4 + (0.2 * 2.5 + 0.8 * 4) + (0.2 * (2 + middle) / 2 + 0.8 * 4)
    assert run(3)["exit1.adapter.w"] == pytest.approx(expected, rel=1e-6)


def test_without_beta_there_is_no_momentum() -> None:
    bank = run(3, InclusiveFL(planner=planner(), min_available_nodes=5, beta=0.0))
    assert bank["exit1.adapter.w"] == 11 + 3 * 4
    assert bank["exit3.adapter.w"] == 33 + 3 * 3


def test_a_tier_that_was_not_drawn_gives_no_momentum_and_the_step_stays_whole() -> None:
    """Client 4 is asked in round 1 and gone in round 2: round 3 has no momentum from it."""
    strategy = InclusiveFL(planner=planner(), min_available_nodes=1, fraction_evaluate=0.0)

    def silent(number: int, arrays: dict[str, Array], metrics: dict[str, Any]) -> Any:
        changed, metrics = answer(number, arrays, metrics)
        if number == 4 and strategy.report.server_round == 2:
            metrics["num-examples"] = 0  # which is refused
        return changed, metrics

    grid = InProcessGrid(adding_app(silent, tell=tell), 5, {})
    arrays = strategy.start(grid, plain_record(BANK), num_rounds=3).arrays
    steps = 3 + (0.2 * 16 + 0.8 * 3) + 3
    assert arrays["exit3.adapter.w"].numpy()[0] == pytest.approx(33 + steps, rel=1e-6)
    assert arrays["block4.adapter.w"].numpy()[0] == 40 + 2 * 16
    assert list(strategy.momenta) == [1, 3, 4]


def test_units_that_nobody_sent_keep_their_bits() -> None:
    """The deep tier has no client."""
    tiers = "shallow depth=1 clients=0,1; middle depth=3 clients=2-4; deep depth=4 share=0"
    strategy = InclusiveFL(planner=planner(tiers), min_available_nodes=4)
    strategy.fraction_evaluate = 0.0
    grid = InProcessGrid(adding_app(answer, tell=tell), 4, {})
    arrays = strategy.start(grid, plain_record(BANK), num_rounds=2).arrays
    for key, value in BANK.items():
        kept = key.startswith(("block3", "block4"))
        assert (arrays[key].numpy().tobytes() == value.tobytes()) == kept


def test_adam_has_a_memory_for_each_tier() -> None:
    """Block 1 moves by the steps of two tiers, with gradients of -1 (two clients) and -4 (one)."""
    adam = ServerAdam(rate=0.1, momentum=0.9, beta2=0.99, tau=1e-3)
    bank = run(2, InclusiveFL(planner=planner(), min_available_nodes=5, server_optimizer=adam))
    moved = {}
    for added in (1, 4):
        first, second, moved[added] = 0.0, 0.0, 0.0
        for _ in range(2):
            first = 0.9 * first + 0.1 * added
            second = 0.99 * second + 0.01 * added**2
            moved[added] += 0.1 * first / (second**0.5 + 1e-3)
    assert bank["block1.adapter.w"] == pytest.approx(10 + (2 * moved[1] + moved[4]) / 3, rel=1e-6)


def test_a_resumed_server_goes_on_with_the_same_bits() -> None:
    def strategy() -> InclusiveFL:
        return InclusiveFL(
            planner=planner(), min_available_nodes=5, server_optimizer=ServerAdam(rate=0.1)
        )

    whole, first, rest = strategy(), strategy(), strategy()
    expected = run(4, whole)
    run(2, first)
    assert first.bank is not None
    rest.load_server_state(first.server_state())
    rest.completed_rounds = 2
    grid = InProcessGrid(adding_app(answer, tell=tell), 5, {})
    rest.fraction_evaluate = 0.0
    arrays = rest.start(grid, plain_record(first.bank.tensors()), num_rounds=4).arrays
    assert {key: float(array.numpy()[0]) for key, array in arrays.items()} == expected
    assert list(rest.server_state()) == list(whole.server_state())


@pytest.mark.parametrize("key", ["velocity.3.adapter.w", "momentum.x.adapter.w", "momentum"])
def test_foreign_state_is_refused(key: str) -> None:
    with pytest.raises(StrategyError, match=f"'{key}' in the checkpoint is nothing"):
        InclusiveFL(planner=planner()).load_server_state({key: np.zeros(1)})


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_momentum_that_is_not_finite_is_refused(value: float) -> None:
    key = "momentum.3.adapter.w"
    strategy = InclusiveFL(planner=planner())
    with pytest.raises(StrategyError, match=f"'{key}' in the checkpoint is nothing"):
        strategy.load_server_state({key: np.array([1, value], np.float32)})
    assert not strategy.momenta


def test_the_median_is_taken_within_each_tier() -> None:
    """Of two values it is their mean, without weights: 3 for the shallow tier, 0 for the middle."""
    strategy = InclusiveFL(
        planner=planner(), min_available_nodes=5, aggregation=Aggregation("median")
    )
    bank = run(1, strategy)
    assert bank["exit1.head.w"] == 15 + 3
    assert bank["exit3.head.w"] == 35
    assert bank["block1.adapter.w"] == pytest.approx(10 + (2 * 0 + 1 * 4) / 3, rel=1e-6)


def test_clients_are_clipped_whole() -> None:
    """Client 4 moves by 4 * (1, 2, 3, 4) and 4 at its head, together by 4 * sqrt(31)."""
    recorder = Recorder()
    strategy = InclusiveFL(
        planner=planner(),
        min_available_nodes=5,
        aggregation=Aggregation(clip=1.0),
        callbacks=[recorder],
    )
    bank = run(1, strategy)
    (norm,) = [c.metrics["update-norm"] for c in recorder.reports[0].clients if c.tier == "deep"]
    assert norm == pytest.approx(4 * 31**0.5)
    assert bank["block4.head.w"] == pytest.approx(45 + 1 / 31**0.5, rel=1e-6)


def test_feddyn_is_refused() -> None:
    with pytest.raises(StrategyError, match="InclusiveFL has one for each tier; choose another"):
        InclusiveFL(
            planner=planner(),
            aggregation=Aggregation(weighted=False),
            server_optimizer=ServerDyn(),
        )


def test_a_tier_holds_its_own_exit_and_the_shared_blocks_below() -> None:
    plans = planner()
    assert plans("shallow", 1) == Plan(1, ("exit1",))
    assert plans("middle", 1) == Plan(3, ("block1", "block2", "exit3"))
    assert plans("deep", 1) == Plan(4, ("block1", "block2", "block3", "block4"))


def test_trained_blocks_are_counted_from_the_last_exit_within_the_depth() -> None:
    plans = planner("a depth=2 trained=1 share=0.5; b depth=3 trained=2 share=0.5")
    assert plans("a", 1) == Plan(1, ("exit1",))
    assert plans("b", 1) == Plan(3, ("block2", "exit3"), ("block1",))


def test_what_no_block_owns_is_trained_by_who_trains_all() -> None:
    units = ("shared", "embed", *UNITS)
    tiers = parse_tiers("a depth=3 trained=2 share=0.5; b depth=4 share=0.5", 4)
    plans = InclusivePlanner(tiers, units, EXITS)
    assert plans("a", 1) == Plan(3, ("shared", "block2", "exit3"), ("embed", "block1"))
    assert plans("b", 1).trained == ("shared", "embed", "block1", "block2", "block3", "block4")


def test_linear_probes_share_nothing() -> None:
    """Without adapters the units are the heads alone."""
    plans = InclusivePlanner(parse_tiers(TIERS, 4), ("block4", "exit1", "exit3"), EXITS)
    assert [plans(tier, 1).units for tier in ("shallow", "middle", "deep")] == [
        ("exit1",),
        ("exit3",),
        ("block4",),
    ]


def test_two_tiers_of_one_exit_must_train_the_same() -> None:
    same = planner("a depth=1 share=0.5; b depth=2 share=0.5")
    assert same("a", 1) == same("b", 1)
    with pytest.raises(StrategyError, match="'a' and 'b' both end at the exit after block 3"):
        planner("a depth=3 share=0.5; b depth=3 trained=1 share=0.5")


def test_an_unknown_tier_gets_a_sentence() -> None:
    with pytest.raises(StrategyError, match="calls itself 'huge', which is no tier"):
        planner()("huge", 1)
