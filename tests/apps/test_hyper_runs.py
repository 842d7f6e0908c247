"""Runs with personal attention: bytes, seeds, resume, wire dtypes, and clients held out."""

import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from settings import SettingsError

RunApp = Callable[..., Any]
HYPER: dict[str, Any] = {"method": "hyper-attention", "attention_rank": 2, "rounds": 4}
# So that a few rounds set clients far apart.
FAST: dict[str, Any] = {"hyper_attention_rate": 1.0, "hyper_attention_row_rate": 10.0}


def test_a_message_holds_personal_tensors_and_heads_alone(run_app: RunApp) -> None:
    """3 x 24 x 2 numbers for each block that a tier trains, and its heads."""
    run = run_app(**HYPER)
    head = 2 * 24 + 24 * 10 + 10
    trained = {"small": (2, 1), "medium": (2, 1), "large": (6, 3)}  # blocks, heads
    expected = {tier: 144 * blocks + head * heads for tier, (blocks, heads) in trained.items()}
    assert run.summary["trainable-parameters"] == expected
    for row in run.clients:
        if row["phase"] == "train":
            own = 4 * expected[row["tier"]]
            # Names and headers; a medium client is sent what it only reads, too.
            assert own < row["bytes-up"] < own + 3000


def test_seeds_repeat_and_differ(run_app: RunApp) -> None:
    first, again = run_app("first", **HYPER), run_app("again", **HYPER)
    other = run_app("other", **HYPER, seed=1)
    banks = [run.bank() for run in (first, again, other)]
    assert all(banks[0][key].tobytes() == banks[1][key].tobytes() for key in banks[0])
    assert any(banks[0][key].tobytes() != banks[2][key].tobytes() for key in banks[0])
    assert [r["accuracy"] for r in first.clients if r["phase"] == "evaluate"] == [
        r["accuracy"] for r in again.clients if r["phase"] == "evaluate"
    ]


def test_a_resumed_run_ends_with_the_same_bits(run_app: RunApp) -> None:
    """Rows, hypernetwork and its momentum are in the checkpoint."""
    whole = run_app("whole", **HYPER)
    cut = whole.output.parent / "cut"
    shutil.copytree(whole.output, cut)
    shutil.rmtree(cut / "checkpoint" / "round-00004")
    rest = run_app("cut", **HYPER, resume=str(cut))
    for key, value in whole.bank().items():
        assert rest.bank()[key].tobytes() == value.tobytes()
    assert rest.summary["client-accuracy"] == whole.summary["client-accuracy"]


def test_personal_tensors_come_to_differ(run_app: RunApp) -> None:
    """From zero for all; the variance across clients rises."""
    run = run_app(**HYPER, **FAST)
    figures = [row["figures"]["personal-variance"] for row in run.metrics if "figures" in row]
    assert figures[0] == 0
    assert figures[-1] > figures[1] > 0
    changes = [row["personal-change"] for row in run.clients if row["phase"] == "train"]
    assert all(change > 0 for change in changes)


@pytest.mark.parametrize("wire_dtype", ["bf16", "int8"])
def test_rounded_messages(run_app: RunApp, wire_dtype: str) -> None:
    """What clients changed is taken against what they got, so rounding is no gradient."""
    exact = run_app("exact", **HYPER, hyper_attention_rate=1.0)
    rounded = run_app("rounded", **HYPER, hyper_attention_rate=1.0, wire_dtype=wire_dtype)
    for key, value in exact.bank().items():
        if key.startswith("personal") and value.any():
            apart = np.linalg.norm(rounded.bank()[key] - value) / np.linalg.norm(value)
            assert apart < 0.2, key


def test_clients_held_out_are_scored_and_change_nothing(run_app: RunApp) -> None:
    """Three clients train; the bank is that of a run that never heard of learning about others."""
    held = {"held_out_clients": "3-5", "clients_per_round": 3, **FAST}
    without = run_app("without", **HYPER, **held, held_out_rounds="0")
    run = run_app("run", **HYPER, **held, held_out_rounds="0,2,3", personalise_epochs=1)
    trained = {row["client"] for row in run.clients if row["phase"] == "train"}
    assert trained == {"0", "1", "2"}
    scored = {row["client"] for row in run.clients if row["phase"] == "evaluate"}
    assert scored == trained
    assert list(run.summary["held-out"]) == ["0", "2", "3", "fine-tuned"]
    learnt = [row for row in run.clients if row["phase"] == "held-out"]
    assert {row["client"] for row in learnt} == {"3", "4", "5"}
    assert len(learnt) == 9
    for key, value in without.bank().items():
        assert run.bank()[key].tobytes() == value.tobytes()
    # Fine-tuning, too, begins with what a client gets of which nothing is known.
    rows = [row for row in run.clients if row["client"] in "345"]
    first = {row["client"]: row["accuracy"] for row in rows if row["phase"] == "held-out-0"}
    assert len(first) == 3
    assert first == {
        row["client"]: row["accuracy-before"] for row in rows if row["phase"] == "personalise"
    }


def test_the_variance_told_is_that_of_the_clients_that_train(run_app: RunApp) -> None:
    """However often all clients are scored in between."""
    often, seldom = (run_app(str(n), **HYPER, evaluate_every=n).metrics[1:] for n in (1, 4))
    assert [row["figures"] for row in often] == [row["figures"] for row in seldom]


def test_other_methods_score_them_once(run_app: RunApp) -> None:
    run = run_app(method="exits", held_out_clients="5", rounds=1)
    assert list(run.summary["held-out"]) == ["0"]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"held_out_clients": "2-5"}, "held-out-clients: without these 4 of 6 clients"),
        ({"held_out_clients": "5", "held_out_rounds": "0,x"}, "held-out-rounds: '0,x' is no list"),
        (
            {"hyper_attention_max_parameters": 9},
            "hyper-attention-max-parameters: the hypernetwork has",
        ),
    ],
)
def test_mistakes_get_a_sentence(run_app: RunApp, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        run_app(**HYPER, **values)


def test_the_published_form_runs_through_the_same_code(run_app: RunApp) -> None:
    """Whole projections of 3 x 24 x 24 a block, a head per block, nothing from zero."""
    run = run_app(
        **HYPER,
        attention_form="projections",
        hyper_attention_shared_head=False,
        hyper_attention_zero_start=False,
        hyper_attention_rate=0.01,
    )
    personal = {k: v.shape for k, v in run.bank().items() if k.startswith("personal")}
    assert set(personal.values()) == {(3, 24, 24)}
    assert len(personal) == 6
    assert all(np.isfinite(value).all() for value in run.bank().values())
