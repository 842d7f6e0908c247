"""Self-distillation among exits: its weight, its teachers and its loss, by hand."""

import math

import pytest
import torch

from models.distillation import Distillation, divergences, ramp

EVEN = torch.tensor([[0.0, 0.0]])  # probabilities 1/2, 1/2
SURE = torch.tensor([[math.log(3), 0.0]])  # 3/4, 1/4
SURER = torch.tensor([[math.log(7), 0.0]])  # 7/8, 1/8
LABEL = torch.tensor([0])
EVEN_SURE = math.log(4 / 3) / 2  # KL(EVEN || SURE) = ln(2/3) / 2 + ln(2) / 2
SURE_EVEN = 0.75 * math.log(3 / 2) - 0.25 * math.log(2)
EVEN_SURER = math.log(4 / 7) / 2 + math.log(4) / 2
SURE_SURER = 0.75 * math.log(6 / 7) + 0.25 * math.log(2)
SURER_EVEN = 7 / 8 * math.log(7 / 4) - 1 / 8 * math.log(4)
SURER_SURE = 7 / 8 * math.log(7 / 6) - 1 / 8 * math.log(2)
ENTROPIES = {"even": math.log(2), "sure": math.log(4 / 3), "surer": math.log(8 / 7)}


@pytest.mark.parametrize(
    ("server_round", "rounds", "weight"),
    [
        (1, 300, 0.00697),
        (100, 300, 0.1084),
        (200, 300, 0.5738),
        (300, 300, 1),
        (900, 300, 1),
        (1, 0, 1),
    ],
)
def test_the_ramp(server_round: int, rounds: int, weight: float) -> None:
    assert ramp(server_round, rounds) == pytest.approx(weight, rel=1e-3)


def test_divergences_of_all_pairs() -> None:
    """Place [j, i] is KL(j || i)."""
    expected = [
        [0, EVEN_SURE, EVEN_SURER],
        [SURE_EVEN, 0, SURE_SURER],
        [SURER_EVEN, SURER_SURE, 0],
    ]
    found = divergences(torch.stack([EVEN, SURE, SURER]))
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=1e-5)


def test_divergences_are_means_over_the_batch() -> None:
    first, second = torch.cat([EVEN, SURE]), torch.cat([SURE, SURE])
    found = divergences(torch.stack([first, second]))
    assert found[0, 1].item() == pytest.approx(EVEN_SURE / 2, rel=1e-5)


@pytest.mark.parametrize(
    ("teacher", "distilled"),
    [
        ("best", 2 * SURE_EVEN),  # the exit in the middle is the best
        ("forward", EVEN_SURE),  # the last is even, as the first
        ("all", (2 * EVEN_SURE + 2 * SURE_EVEN) / 2),
        ("none", 0),
    ],
)
def test_the_loss_of_three_exits(teacher: str, distilled: float) -> None:
    """Exits after blocks 2, 4 and 6 say even, sure and even."""
    distillation = Distillation(teacher, ramp_rounds=300)
    distillation.begin_round(100)
    loss = distillation.loss({2: EVEN, 4: SURE, 6: EVEN}, LABEL)
    plain = 2 * ENTROPIES["even"] + ENTROPIES["sure"]
    weight = math.exp(-5 * (2 / 3) ** 2)
    assert loss.item() == pytest.approx(plain + weight * distilled, rel=1e-5)


def test_the_best_exit_is_that_of_the_running_averages() -> None:
    """After ten steps in which the first was the best, one bad one does not make it a student."""
    distillation = Distillation("best", ramp_rounds=0)
    for _ in range(10):
        distillation.loss({1: SURER, 2: SURE}, LABEL)
    # 0.8 (1 - 0.8^10) ln(8/7) + 0.2 ln 2 = 0.234 against 0.8 (..) ln(4/3) + 0.2 ln(4/3) = 0.263.
    loss = distillation.loss({1: EVEN, 2: SURE}, LABEL)
    expected = ENTROPIES["even"] + ENTROPIES["sure"] + EVEN_SURE
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    distillation.begin_round(2)
    loss = distillation.loss({1: EVEN, 2: SURE}, LABEL)
    expected = ENTROPIES["even"] + ENTROPIES["sure"] + SURE_EVEN
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("teacher", ["best", "forward"])
def test_the_teacher_carries_no_gradient(teacher: str) -> None:
    """Its gradient is that of its own cross-entropy; the student's has the teacher's in it."""
    logits = [EVEN.clone().requires_grad_(), SURE.clone().requires_grad_()]
    distillation = Distillation(teacher, ramp_rounds=0)
    distillation.loss({1: logits[0], 2: logits[1]}, LABEL).backward()
    own = torch.tensor([[0.75 - 1, 0.25]])
    torch.testing.assert_close(logits[1].grad, own)
    # softmax - one-hot, and softmax - the teacher's softmax
    taught = torch.tensor([[0.5 - 1 + 0.5 - 0.75, 0.5 + 0.5 - 0.25]])
    torch.testing.assert_close(logits[0].grad, taught)


@pytest.mark.parametrize("teacher", ["best", "forward", "all"])
def test_a_single_exit_has_nobody_to_learn_from(teacher: str) -> None:
    loss = Distillation(teacher, ramp_rounds=0).loss({3: SURE}, LABEL)
    assert loss.item() == pytest.approx(ENTROPIES["sure"], rel=1e-6)
