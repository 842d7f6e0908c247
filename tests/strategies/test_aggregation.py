"""The mean over holders against numbers worked out by hand."""

import numpy as np

from strategies import DepthPlanner, parse_tiers, plain_record
from strategies.aggregation import HolderMean, Holders
from strategies.bank import Bank
from strategies.plans import Plan


def bank_of(tensors: dict[str, np.ndarray]) -> Bank:
    return Bank(plain_record(tensors), packed=True)


def test_one_and_three_examples_give_the_one_to_three_mean() -> None:
    bank = bank_of({"a.x": np.zeros(2, np.float32), "b.x": np.array([9], np.float32)})
    mean = HolderMean(bank.layout)
    mean.add({"a": np.array([1, 2], np.float32)}, 1, None)
    mean.add({"a": np.array([5, -2], np.float32)}, 3, None)
    result = mean.result(bank.vectors)
    assert result["a"].tolist() == [4, -1]
    assert "b" not in result


def test_each_unit_is_averaged_over_its_own_holders() -> None:
    bank = bank_of({"a.x": np.zeros(1, np.float32), "b.x": np.zeros(1, np.float32)})
    mean = HolderMean(bank.layout)
    mean.add({"a": np.array([2], np.float32), "b": np.array([10], np.float32)}, 2, None)
    mean.add({"a": np.array([8], np.float32)}, 4, None)
    result = mean.result(bank.vectors)
    assert result["a"].tolist() == [6]
    assert result["b"].tolist() == [10]


def test_rows_are_averaged_over_the_clients_deep_enough_to_own_them() -> None:
    """Rows 0..3 of width 1; clients of depth 1 (weight 1) and 2 (weight 3); nobody owns row 3."""
    bank = bank_of({"s.rows": np.full((4, 1), 7, np.float32), "s.x": np.zeros(1, np.float32)})
    mean = HolderMean(bank.layout, row_keys=["s.rows"])
    mean.add({"s": np.array([1, 2, 7, 7, 4], np.float32)}, 1, Plan(1, ()))
    mean.add({"s": np.array([5, 6, 8, 7, 8], np.float32)}, 3, Plan(2, ()))
    assert mean.result(bank.vectors)["s"].tolist() == [4, 5, 8, 7, 7]


def test_rows_above_the_last_exit_belong_to_those_who_run_their_block() -> None:
    """A tier of depth 5 ends at the exit after block 4: its row 5 was never trained."""
    tiers = parse_tiers("middle depth=5 share=0.5; deep depth=6 share=0.5", 6)
    planner = DepthPlanner(tiers, ("s",), (2, 4, 6))
    bank = bank_of({"s.rows": np.zeros((7, 1), np.float32)})
    mean, holders = (kind(bank.layout, ["s.rows"]) for kind in (HolderMean, Holders))
    for tier, weight, sent in (("middle", 3, [4] * 5 + [0] * 2), ("deep", 1, [8] * 7)):
        plan = planner(tier, 1)
        mean.add({"s": np.array(sent, np.float32)}, weight, plan)
        holders.add(["s"], plan)
    assert mean.result(bank.vectors)["s"].tolist() == [5] * 5 + [8] * 2
    assert holders.shares(4)["s"].tolist() == [0.5] * 5 + [0.25] * 2


def test_plain_row_averaging_lets_absent_rows_vote_for_no_change() -> None:
    bank = bank_of({"s.rows": np.full((4, 1), 7, np.float32)})
    mean = HolderMean(bank.layout)
    mean.add({"s": np.array([1, 2, 7, 7], np.float32)}, 1, Plan(1, ()))
    mean.add({"s": np.array([5, 6, 11, 7], np.float32)}, 3, Plan(2, ()))
    assert mean.result(bank.vectors)["s"].tolist() == [4, 5, 10, 7]


def test_half_precision_is_summed_in_single() -> None:
    """2048 + 1 is 2048 in fp16: a sum kept in fp16 would give 1024.25 * 2 instead."""
    bank = bank_of({"a.x": np.zeros(1, np.float32)})
    mean = HolderMean(bank.layout)
    mean.add({"a": np.array([2048], np.float16)}, 1, None)
    mean.add({"a": np.array([1], np.float16)}, 1, None)
    result = mean.result(bank.vectors)["a"]
    assert result.dtype == np.float32
    assert result.tolist() == [1024.5]


def test_whole_numbers_are_rounded_and_not_cut() -> None:
    """10 * 7 + 0.1 * 7 + 10 * 7 over 20.1 is 6.99.. in floating point."""
    bank = Bank(plain_record({"steps": np.array([7])}), packed=False)
    mean = HolderMean(bank.layout)
    for weight in (10, 0.1, 10):
        mean.add({"steps": np.array([7])}, weight, None)
    assert mean.result(bank.vectors)["steps"].tolist() == [7]
