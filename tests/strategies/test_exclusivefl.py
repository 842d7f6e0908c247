"""ExclusiveFL: who is drawn, who only listens, and what is said when nobody can train."""

from typing import Any

import pytest
from adding_app import BANK, UNITS, Recorder, adding_app, partition_of
from flwr.app import ConfigRecord, Context

from server_app.inprocess import InProcessGrid
from strategies import (
    AdapterFedAvg,
    ExclusivePlanner,
    Plan,
    Profile,
    StrategyError,
    parse_tiers,
    plain_record,
)

TIERS = "small depth=1 clients=0,1; medium depth=2 clients=2; large depth=3 clients=3-5"


def planner() -> ExclusivePlanner:
    return ExclusivePlanner(parse_tiers(TIERS, 3), UNITS)


def tell(context: Context) -> ConfigRecord:
    number = partition_of(context)
    tier = ("small", "small", "medium", "large", "large", "large")[number]
    return Profile(context.node_id, str(number), tier, 1).to_record()


def run(nodes: int, **options: Any) -> Recorder:
    recorder = Recorder()
    strategy = AdapterFedAvg(
        planner=planner(), min_available_nodes=nodes, callbacks=[recorder], **options
    )
    strategy.start(InProcessGrid(adding_app(tell=tell), nodes, {}), plain_record(BANK), 4)
    return recorder


def test_shallow_tiers_listen_and_do_not_train() -> None:
    plans = planner()
    assert plans("small", 1) == Plan(1, ("shared", "block1"), drawn=False)
    assert plans("medium", 1) == Plan(2, ("shared", "block1", "block2"), drawn=False)
    assert plans("large", 1) == Plan(3, UNITS)


def test_all_tiers_that_reach_the_last_exit_train() -> None:
    """Between the exits after blocks 2 and 4 a block more makes no difference."""
    tiers = "a depth=2 share=0.4; b depth=4 share=0.3; c depth=5 trained=1 share=0.3"
    units = tuple(f"block{number}" for number in range(1, 5))
    plans = ExclusivePlanner(parse_tiers(tiers, 5), units, (2, 4))
    assert plans("a", 1) == Plan(2, units[:2], drawn=False)
    assert plans("b", 1) == Plan(4, units)
    assert plans("c", 1) == Plan(4, units[3:], units[:3])


def test_nodes_are_drawn_among_those_that_train() -> None:
    drawn = run(6, train_nodes=2).clients()
    assert all(len(keys) == 2 and set(keys) < {"3", "4", "5"} for keys in drawn)
    assert len(set(map(tuple, drawn))) > 1


def test_fewer_than_the_quota_all_train_in_every_round() -> None:
    assert run(6, train_nodes=5).clients() == [["3", "4", "5"]] * 4


def test_all_tiers_are_scored_with_the_units_of_their_depth() -> None:
    recorder = run(6)
    rows = [row for row in recorder.reports[0].clients if row.phase == "evaluate"]
    assert [row.metrics["units"] for row in rows] == [2, 2, 3, 4, 4, 4]


def test_nobody_to_train_gets_a_sentence() -> None:
    sentence = r"all 3 nodes .* train nothing in this method \(medium, small\); give the deepest"
    with pytest.raises(StrategyError, match=sentence):
        run(3)


def test_an_unknown_tier_is_refused_by_name_when_drawn() -> None:
    def foreign(context: Context) -> ConfigRecord:
        number = partition_of(context)
        tier = "huge" if number == 1 else "large"
        return Profile(context.node_id, str(number), tier, 1).to_record()

    recorder = Recorder()
    strategy = AdapterFedAvg(planner=planner(), min_available_nodes=2, callbacks=[recorder])
    strategy.start(InProcessGrid(adding_app(tell=foreign), 2, {}), plain_record(BANK), 1)
    rows = {row.client_key: row.refused for row in recorder.reports[0].clients}
    assert "calls itself 'huge'" in rows["1"]
    assert not rows["0"]
