"""Schedules of active blocks, and plans of two stages, by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest

from strategies import (
    DepthPlanner,
    KeepingPlanner,
    LinearActivation,
    PlateauActivation,
    StagePlanner,
    StrategyError,
    parse_tiers,
)

TIERS = "small depth=2 share=0.2; weak depth=4 trained=1 share=0.4; large depth=4 share=0.4"
BLOCKS = [f"block{b}" for b in range(1, 5)]
HEADS = ["head2", "head4"]
GLOBAL = ["embed", *BLOCKS, *HEADS]
UNITS = [*GLOBAL, *(f"local-{unit}" for unit in GLOBAL), "gate2", "gate4"]


def linear(blocks: int, start: int = 1, rounds: float = 6) -> LinearActivation:
    return LinearActivation(start, blocks, rounds)


def plateau(start: int = 1) -> PlateauActivation:
    return PlateauActivation(start, 4, step=1, patience=2, threshold=0.002)


def make(rounds: int = 6, *, top_down: bool = True) -> StagePlanner:
    """Linear from one block to all four: k = 1 + floor(3 t / 6)."""
    depths = DepthPlanner(parse_tiers(TIERS, 4), UNITS, (2, 4))
    return StagePlanner(depths, linear(4, rounds=rounds), rounds, top_down=top_down)


def test_linear_activation_by_hand() -> None:
    """L = 12, k_0 = 2, ramp 0.6 of 10 rounds: 2 + floor(10 t / 6)."""
    activation = LinearActivation(2, 12, 0.6 * 10)
    assert [activation(t) for t in range(1, 11)] == [3, 5, 7, 8, 10, 12, 12, 12, 12, 12]
    assert [linear(6, 6)(t) for t in range(1, 4)] == [6, 6, 6]
    assert [linear(6, 9)(t) for t in range(1, 4)] == [6, 6, 6]
    assert linear(6, 2, 0)(1) == 6
    # 0.7 * 10 lies below 7 in binary, or just at it: round 7 has all blocks in any case.
    assert LinearActivation(2, 9, 0.7 * 10)(6) == 8
    assert LinearActivation(2, 9, 0.7 * 10)(7) == 9


def test_a_plateau_makes_a_block_active() -> None:
    """The best is beaten by more than 0.002 in rounds 1 and 2, then not before round 6."""
    activation = plateau()
    for number, accuracy in enumerate([0.5, 0.6, 0.602, 0.601, 0.6, 0.61, 0.61, 0.61], 1):
        activation.note(number, accuracy)
    assert activation.rises == [4, 8]
    assert [activation(t) for t in range(1, 11)] == [1, 1, 1, 1, 2, 2, 2, 2, 3, 3]


def test_k_stays_at_all_blocks() -> None:
    activation = plateau(start=3)
    for number in range(1, 20):
        activation.note(number, 0.5)
    assert activation(20) == 4


def test_a_plateau_goes_on_from_its_state() -> None:
    """Any number of rounds before the stop, the same k after it."""
    accuracies = [0.5, 0.5, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6]
    whole = plateau()
    for number, accuracy in enumerate(accuracies, 1):
        whole.note(number, accuracy)
    for stop in range(len(accuracies) + 1):
        first, rest = plateau(), plateau()
        for number, accuracy in enumerate(accuracies[:stop], 1):
            first.note(number, accuracy)
        rest.load_state(first.state())
        for number, accuracy in enumerate(accuracies[stop:], stop + 1):
            rest.note(number, accuracy)
        assert [rest(t) for t in range(1, 10)] == [whole(t) for t in range(1, 10)]


def test_a_foreign_state_gets_a_sentence() -> None:
    state = plateau().state()
    for wrong in ({}, {**state, "best": state["rises"]}, {**state, "waited": state["rises"]}):
        with pytest.raises(StrategyError, match="resume: the checkpoint does not tell"):
            plateau().load_state(wrong)


def test_blocks_become_active_from_the_top() -> None:
    """k = 1, 2, 2, 3, 3, 4 in rounds 1 to 6; `weak` can train one, `small` ends after block 2."""
    planner = make()
    trained = [
        [unit for unit in planner("large", t).trained if not unit.startswith("head")]
        for t in range(1, 7)
    ]
    assert trained == [
        ["block4"],
        ["block3", "block4"],
        ["block3", "block4"],
        ["block2", "block3", "block4"],
        ["block2", "block3", "block4"],
        ["embed", *BLOCKS],
    ]
    for t in range(1, 7):
        assert planner("weak", t).trained == ("block4", *HEADS)
    assert planner("small", 1).trained == ("block2", "head2")
    assert planner("small", 2).trained == ("embed", "block1", "block2", "head2")


def test_only_what_somebody_trained_is_sent_to_be_read() -> None:
    """In round 1 `large` trains block 4 and `small` block 2; nobody has trained 1 and 3."""
    planner = make()
    assert planner("large", 1).frozen == ("block2",)
    assert planner("weak", 1).frozen == ("block2",)
    assert planner("small", 1).frozen == ()
    assert planner("weak", 2).frozen == ("embed", "block1", "block2", "block3")
    assert planner("large", 6).frozen == ()
    assert planner("large", 1).lasting == ()


def test_blocks_become_active_from_the_bottom() -> None:
    planner = make(top_down=False)
    assert planner("large", 1).trained == ("block1", *HEADS)
    assert planner("large", 2).trained == ("block1", "block2", *HEADS)
    assert planner("large", 6).trained == ("embed", *BLOCKS, *HEADS)
    assert planner("weak", 6).trained == ("block1", *HEADS)


def test_active_blocks_stay_active() -> None:
    for top_down in (True, False):
        planner = make(top_down=top_down)
        for tier in ("small", "weak", "large"):
            plans = [set(planner(tier, t).trained) for t in range(1, 7)]
            assert all(earlier <= later for earlier, later in pairwise(plans))


def test_stage_two_trains_gate_and_local_expert() -> None:
    """The global expert is read, and sent once; the local one has the last round's blocks."""
    planner = KeepingPlanner(make(), ("local-",))
    large, weak, small = (planner(tier, 7) for tier in ("large", "weak", "small"))
    assert large.trained == weak.trained == ("gate2", "gate4")
    assert large.kept == tuple(f"local-{unit}" for unit in GLOBAL)
    assert weak.kept == ("local-block4", "local-head2", "local-head4")
    assert large.frozen == weak.frozen == large.lasting == tuple(GLOBAL)
    assert small.trained == ("gate2",)
    assert small.frozen == small.lasting == ("embed", "block1", "block2", "head2")
    assert planner("large", 100) == large


def test_without_stage_one_everything_is_local() -> None:
    planner = KeepingPlanner(make(rounds=0), ("local-", "gate"))
    plan = planner("large", 1)
    assert plan.trained == ()
    assert plan.kept == ("gate2", "gate4", *(f"local-{unit}" for unit in GLOBAL))
    assert plan.frozen == plan.lasting == tuple(HEADS)


def test_an_unknown_tier_gets_a_sentence() -> None:
    with pytest.raises(StrategyError, match="'odd', which is no tier"):
        make()("odd", 1)
