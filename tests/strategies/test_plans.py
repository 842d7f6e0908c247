"""Tiers and plans by hand."""

import pytest

from strategies import DepthPlanner, Plan, StrategyError, assign_tiers, parse_tiers

UNITS = ("shared", *(f"block{b}" for b in range(1, 13)))


def test_fractions_are_of_the_backbone_and_of_the_depth() -> None:
    small, large = parse_tiers(
        "small depth=0.5 trained=0.5 share=0.4; large depth=12 share=0.6", 12
    )
    assert (small.depth, small.trained, small.share) == (6, 3, 0.4)
    assert (large.depth, large.trained, large.share) == (12, 12, 0.6)


def test_a_plan_trains_the_shared_unit_and_the_last_blocks() -> None:
    planner = DepthPlanner(parse_tiers("t depth=4 trained=2 share=1", 12), UNITS)
    plan = planner("t", 1)
    assert plan.depth == 4
    assert plan.trained == ("shared", "block3", "block4")
    assert plan.frozen == ("block1", "block2")


def test_a_plan_ends_at_the_last_exit_within_the_depth() -> None:
    """The fifth block would run for nothing; the trained ones are counted from the fourth."""
    tiers = parse_tiers("all depth=5 share=0.5; some depth=5 trained=2 share=0.5", 6)
    planner = DepthPlanner(tiers, ("shared", "embed", *UNITS[1:7]), (2, 4, 6))
    assert planner("all", 1) == Plan(4, ("shared", "embed", *UNITS[1:5]))
    frozen = ("embed", "block1", "block2")
    assert planner("some", 1) == Plan(4, ("shared", "block3", "block4"), frozen)


def test_a_tier_that_reaches_no_exit_is_refused() -> None:
    tiers = parse_tiers("low depth=2 share=1", 12)
    with pytest.raises(StrategyError, match="'low' reaches no exit, as the first is after block 3"):
        DepthPlanner(tiers, UNITS, (3, 6))


def test_without_a_rank_a_tier_has_that_of_the_bank() -> None:
    given, silent = parse_tiers("a depth=3 rank=4 share=0.5; b depth=3 share=0.5", 12, 4)
    assert given.rank == silent.rank == 4


def test_clients_can_be_listed() -> None:
    tiers = parse_tiers("a depth=3 clients=0,4-6; b depth=12 share=1", 12)
    names = assign_tiers(tiers, 8, seed=0)
    assert [i for i, name in enumerate(names) if name == "a"] == [0, 4, 5, 6]
    assert names.count("b") == 4


def test_shares_are_met_as_nearly_as_clients_allow_and_seeded() -> None:
    tiers = parse_tiers("a depth=3 share=0.4; b depth=6 share=0.3; c depth=12 share=0.3", 12)
    names = assign_tiers(tiers, 20, seed=1)
    assert [names.count(n) for n in "abc"] == [8, 6, 6]
    assert [assign_tiers(tiers, 7, seed=1).count(n) for n in "abc"] == [3, 2, 2]
    assert names == assign_tiers(tiers, 20, seed=1)
    assert names != assign_tiers(tiers, 20, seed=2)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "one or more tiers"),
        ("a depth=3 share=1; a depth=6 share=0", "each once"),
        ("a depth=3", "should read"),
        ("a depth=3 share=1 clients=2", "should read"),
        ("a depth=3 depth=4 share=1", "should read"),
        ("a depth=3 width=8 share=1", "should read"),
        ("a depth=3 rank=2 share=1", "rank needs an adapter that has one"),
        ("a share=1", "should read"),
        ("a depth=13 share=1", "not between 1 and 12"),
        ("a depth=0 share=1", "not between 1 and 12"),
        ("a depth=x share=1", "cannot be read"),
        ("a depth=6 trained=7 share=1", "not between 1 and 6"),
        ("a depth=3 share=0.5; b depth=6 share=0.4", "add up to 0.9"),
        ("a depth=3 share=1.5; b depth=6 share=-0.5", "share=1.5 is no number from 0 to 1"),
        ("a depth=3 share=nan", "share=nan is no number from 0 to 1"),
        ("a depth=1.e400 share=1", "cannot be read"),
        ("a depth=3 clients=3-0", "3-0 runs backwards"),
        ("a depth=3 clients=0-99999999999", "there is no client 99999999999"),
        ("a depth=3 clients=-1", "'-1' is neither a client"),
        ("a depth=3 clients=0-3; b depth=6 clients=3", "in two tiers"),
    ],
)
def test_wrong_tiers_get_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(StrategyError, match=sentence):
        parse_tiers(text, 12)


def test_a_client_without_a_tier_is_named() -> None:
    with pytest.raises(StrategyError, match="client 2 is in no tier"):
        assign_tiers(parse_tiers("a depth=3 clients=0,1", 12), 3, seed=0)


def test_a_client_that_does_not_exist_is_named() -> None:
    with pytest.raises(StrategyError, match="there is no client 9; the 4 clients count from 0"):
        assign_tiers(parse_tiers("a depth=3 clients=0-9", 12), 4, seed=0)


def test_a_tier_that_trains_nothing_is_refused() -> None:
    tiers = parse_tiers("weak depth=5 trained=1 share=1", 12)
    with pytest.raises(StrategyError, match="'weak' trains nothing"):
        DepthPlanner(tiers, ("block3", "block6"))


def test_an_unknown_tier_of_a_node_is_named_with_the_valid_ones() -> None:
    planner = DepthPlanner(parse_tiers("a depth=3 share=1", 12), UNITS)
    with pytest.raises(StrategyError, match="'b', which is no tier; the tiers are a"):
        planner("b", 1)
