"""Phases, plans and draws of layer-wise rounds, by hand."""

from __future__ import annotations

import io
from collections import Counter
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord

from strategies import (
    Bank,
    LayerwiseFedAvg,
    LayerwiseSchedule,
    Plan,
    ServerMomentum,
    StrategyError,
    parse_tiers,
    plain_record,
)

ALL = "all depth=1.0 share=1"


def schedule(
    exits: tuple[int, ...] = (1, 2, 3, 4), tiers: str = ALL, blocks: int = 4, **options: Any
) -> LayerwiseSchedule:
    """A schedule over blocks with an adapter each, embeddings, and a head at every exit."""
    units = ("embed", *(f"block{b}" for b in range(1, blocks + 1)), *(f"head{e}" for e in exits))
    return LayerwiseSchedule(
        parse_tiers(tiers, blocks), units, exits, **{"rounds": blocks, **options}
    )


def blocks(*numbers: int) -> tuple[str, ...]:
    return tuple(f"block{number}" for number in numbers)


def test_phases_have_equal_rounds_and_the_last_one_the_rest() -> None:
    plan = schedule(rounds=11, order="bottom-up")
    assert [plan.phase(n) for n in range(1, 12)] == [0, 0, 1, 1, 2, 2, 3, 3, 3, 3, 3]


@pytest.mark.parametrize(
    ("order", "window", "phases"),
    [
        ("bottom-up", 1, [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]),
        ("top-down", 1, [(5, 5), (4, 4), (3, 3), (2, 2), (1, 1)]),
        ("bottom-up", 2, [(1, 2), (3, 4), (5, 5)]),
        ("top-down", 2, [(4, 5), (2, 3), (1, 1)]),
        ("progressive", 3, [(1, 3), (4, 5)]),
        ("top-down", 9, [(1, 5)]),
    ],
)
def test_windows(order: str, window: int, phases: list[tuple[int, int]]) -> None:
    assert schedule((5,), blocks=5, order=order, window=window).phases == phases


def test_bottom_up_trains_a_block_under_its_own_head() -> None:
    """The first block goes with the embeddings; finished heads are for evaluations alone."""
    planner = schedule(order="bottom-up")
    assert planner("all", 1) == Plan(1, ("embed", "block1", "head1"))
    assert planner("all", 3) == Plan(
        3,
        ("block3", "head3"),
        ("embed", "block1", "block2"),
        scored=("head1", "head2"),
        lasting=("embed", "block1", "block2", "head1", "head2"),
    )


def test_bottom_up_with_one_exit_goes_through_the_blocks_above() -> None:
    planner = schedule((4,), order="bottom-up")
    finished = ("embed", "block1")
    assert planner("all", 2) == Plan(4, ("block2", "head4"), finished, lasting=finished)


def test_top_down_keeps_training_the_head() -> None:
    planner = schedule((4,), order="top-down")
    assert planner("all", 1) == Plan(4, ("block4", "head4"))
    above = blocks(2, 3, 4)
    assert planner("all", 4) == Plan(4, ("embed", "block1", "head4"), above, lasting=above)


def test_a_window_that_ends_above_a_tier_is_trained_up_to_there() -> None:
    """What a client does not run must not come back unchanged and slow the others down."""
    tiers = "small depth=2 share=0.5; large depth=4 share=0.5"
    planner = schedule((2, 4), tiers, order="top-down", window=3)
    assert planner("small", 1) == Plan(2, ("block2", "head2"))
    assert planner("large", 1) == Plan(4, ("block2", "block3", "block4", "head2", "head4"))
    whole = schedule((2, 4), tiers, order="top-down", window=4)
    assert whole("small", 1) == Plan(2, ("embed", "block1", "block2", "head2"))


def test_progressive_freezes_nothing() -> None:
    planner = schedule((2, 4), order="progressive", window=2)
    assert planner("all", 1) == Plan(2, ("embed", "block1", "block2", "head2"))
    assert planner("all", 4) == Plan(4, ("embed", *blocks(1, 2, 3, 4), "head2", "head4"))


def test_a_window_of_all_blocks_trains_end_to_end() -> None:
    planner = schedule((4,), order="top-down", window=4)
    assert [planner("all", n) for n in (1, 4)] == 2 * [
        Plan(4, ("embed", *blocks(1, 2, 3, 4), "head4"))
    ]


def test_a_shallow_tier_waits_for_its_blocks_in_top_down_order() -> None:
    planner = schedule((2, 4), "low depth=2 share=0.5; all depth=4 share=0.5", order="top-down")
    assert [planner("low", n).drawn for n in (1, 2, 3, 4)] == [False, False, True, True]
    assert planner("low", 4) == Plan(
        2, ("embed", "block1", "head2"), ("block2",), lasting=("block2",)
    )
    assert planner("all", 3) == Plan(
        4, ("block2", "head2", "head4"), blocks(3, 4), lasting=blocks(3, 4)
    )


def test_a_shallow_tier_is_done_early_in_bottom_up_order() -> None:
    tiers = "low depth=2 share=0.5; all depth=4 share=0.5"
    planner = schedule(tiers=tiers, order="bottom-up")
    assert [planner("low", n).drawn for n in (1, 2, 3, 4)] == [True, True, False, False]
    late = planner("low", 4)
    assert (late.depth, late.trained) == (2, ("block2", "head2"))
    assert late.units == ("block2", "head2", "embed", "block1", "head1")


def test_a_gradient_crosses_no_more_blocks_than_a_tier_trains() -> None:
    """From the final head down to block 3 it crosses two; in bottom-up order always one."""
    tiers = "weak depth=4 trained=2 share=0.5; all depth=4 share=0.5"
    planner = schedule((4,), tiers, order="top-down")
    assert [planner("weak", n).drawn for n in (1, 2, 3, 4)] == [True, True, False, False]
    # What it cannot train it is scored with.
    assert set(planner("weak", 4).units) == {"embed", "head4", *blocks(1, 2, 3, 4)}
    planner = schedule(tiers=tiers, order="bottom-up")
    assert all(planner("weak", n).drawn for n in (1, 2, 3, 4))


def test_what_no_block_owns_is_trained_in_every_phase() -> None:
    units = ("block1", "block2", "projection")
    planner = LayerwiseSchedule(parse_tiers(ALL, 2), units, (1, 2), rounds=2, order="bottom-up")
    assert planner("all", 2) == Plan(2, ("block2", "projection"), blocks(1), lasting=blocks(1))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rounds": 3}, "rounds: 3 are fewer than the 4 phases"),
        ({"tiers": "low depth=2 share=1", "order": "bottom-up"}, "none can train blocks 3 to 3"),
        (
            {"tiers": "few depth=4 trained=1 share=0.5; all depth=4 share=0.5", "window": 2},
            "'few' can take part in no phase",
        ),
        (
            {"budget": 2, "window": 2, "order": "bottom-up"},
            "depth-budget: 2 does not hold the 3 blocks",
        ),
        ({"budget": 2, "exits": (4,)}, "depth-budget: 2 does not hold the 3 blocks"),
    ],
)
def test_what_cannot_be_planned_gets_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(StrategyError, match=sentence):
        schedule(**options)


# Depth dropout.


def drawn(planner: LayerwiseSchedule, server_round: int, client: str) -> set[int]:
    """The blocks that run."""
    plan = planner("all", server_round, client)
    return set(range(1, plan.depth + 1)) - set(plan.skipped)


def test_the_first_and_the_active_block_always_run_and_no_more_than_the_budget() -> None:
    """The paper's own example: 5 layers, a budget of 3; phase 4 draws one of {2, 3}."""
    planner = schedule((1, 2, 3, 4, 5), blocks=5, order="bottom-up", budget=3)
    found = {n: {frozenset(drawn(planner, n, str(c))) for c in range(40)} for n in range(1, 6)}
    assert found[1] == {frozenset({1})}
    assert found[3] == {frozenset({1, 2, 3})}
    assert found[4] == {frozenset({1, 2, 4}), frozenset({1, 3, 4})}
    assert found[5] == {frozenset({1, b, 5}) for b in (2, 3, 4)}


def test_draws_are_uniform() -> None:
    """2,000 draws of 2 of the blocks 2 to 5; chi-square of six pairs, 5 degrees, below 0.1 %."""
    planner = schedule(tuple(range(1, 7)), blocks=6, order="bottom-up", budget=4)
    counts = Counter(tuple(sorted(drawn(planner, 6, str(c)) - {1, 6})) for c in range(2000))
    assert set(counts) == set(combinations((2, 3, 4, 5), 2))
    expected = 2000 / 6
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 20.5


def test_draws_follow_from_seed_round_and_client() -> None:
    def plans(seed: int, server_round: int) -> list[tuple[int, ...]]:
        planner = schedule(
            tuple(range(1, 9)), blocks=8, order="bottom-up", budget=4, rounds=80, seed=seed
        )
        return [planner("all", server_round, str(client)).skipped for client in range(20)]

    assert plans(0, 80) == plans(0, 80)
    assert len({str(plans(seed, number)) for seed in (0, 1) for number in (79, 80)}) == 4
    assert len(set(plans(0, 80))) > 5


def test_what_is_left_out_is_not_sent_to_a_training_but_to_an_evaluation() -> None:
    planner = schedule(order="bottom-up", budget=3)
    plan = next(p for p in (planner("all", 4, str(c)) for c in range(20)) if p.skipped == (2,))
    assert plan.frozen == ("embed", "block1", "block3")
    assert set(plan.scored) == {"block2", "head1", "head2", "head3"}
    assert set(plan.lasting) == {*plan.frozen, *plan.scored}


def test_progressive_trains_what_is_drawn() -> None:
    planner = schedule(order="progressive", budget=3)
    plan = next(p for p in (planner("all", 4, str(c)) for c in range(20)) if p.skipped == (2,))
    assert plan.trained == ("embed", "block1", "block3", "block4", "head1", "head3", "head4")
    assert plan.scored == ("block2", "head2")


@pytest.mark.parametrize("budget", [0, 4, 9])
def test_a_budget_of_all_blocks_is_none(budget: int) -> None:
    whole = schedule(order="bottom-up")
    planner = schedule(order="bottom-up", budget=budget)
    assert all(planner("all", n, "3") == whole("all", n) for n in range(1, 5))


# Messages.


def test_bytes_are_those_of_the_formula() -> None:
    """a = 10 numbers in an adapter, c = 3 in a head: 4(a + c) up and down, 4(pa + c) if new."""
    tensors = {f"block{b}.x": np.zeros(10, np.float32) for b in range(1, 5)}
    tensors |= {f"head{b}.x": np.zeros(3, np.float32) for b in range(1, 5)}
    units = tuple(key.split(".")[0] for key in tensors)
    planner = LayerwiseSchedule(
        parse_tiers(ALL, 4), units, (1, 2, 3, 4), rounds=4, order="bottom-up"
    )
    bank = Bank(plain_record(tensors), packed=True)

    def sent(number: int, held: dict[str, str]) -> tuple[int, int]:
        content = bank.content(
            planner("all", number),
            ConfigRecord(),
            held=held,
            training=True,
            scoring=False,
            array_key="arrays",
            config_key="config",
        )
        packs = sum(array.numpy().nbytes for array in content["arrays"].values())
        frozen = [v for v in content["config"].values() if isinstance(v, bytes)]
        return packs, sum(np.load(io.BytesIO(v)).nbytes for v in frozen)

    held = {unit: bank.version(unit, planner("all", 3)) for unit in blocks(1, 2)}
    for number in (1, 2, 3, 4):
        assert sent(number, {}) == (4 * (10 + 3), 4 * (number - 1) * 10)
    assert sent(3, held) == (4 * (10 + 3), 0)
    assert sent(4, held) == (4 * (10 + 3), 4 * 10)


def test_a_server_optimiser_starts_afresh_in_each_phase() -> None:
    planner = schedule((4,), rounds=8)
    strategy = LayerwiseFedAvg(
        fraction_train=0.0, planner=planner, schedule=planner, server_optimizer=ServerMomentum()
    )
    arrays = plain_record({"head4.x": np.zeros(1, np.float32)})
    values = {"head4": np.zeros(1, np.float32)}
    moved = {}
    for number in range(1, 5):
        strategy.configure_train(number, arrays, ConfigRecord(), grid=None)  # type: ignore[arg-type]
        assert strategy.report.figures == {"phase": 1 if number < 3 else 2}
        means, shares = {"head4": values["head4"] - 1}, {"head4": np.ones(1)}
        moved[number] = float(strategy.server_optimizer.step(values, means, shares)["head4"][0])
    # A momentum of 0.9: 1, then 1.9; and so again.
    assert list(moved.values()) == pytest.approx([-1, -1.9, -1, -1.9])
