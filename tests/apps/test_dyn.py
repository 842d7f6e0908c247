"""FedDyn through the whole app, against a few lines that follow its equations as printed."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from support import SMALL, Run
from torch.nn import functional

import client_app.app
from client_app.app import create_client_app
from client_app.dyn import DYN as MEMORY
from client_app.node import simulated_nodes
from client_app.store import STATE
from server_app.app import run
from server_app.inprocess import InProcessGrid
from settings import Settings
from wiring import get_backbone, get_cut, make_model

RunApp = Callable[..., Run]
ALPHA, RATE = 0.3, 0.2
DYN: dict[str, Any] = {"method": "exits", "server_optimizer": "dyn", "dyn_alpha": ALPHA}
# One step per epoch over all of a client's images, so that their order does not matter.
PLAIN_STEPS: dict[str, Any] = {
    "optimizer": "sgd",
    "learning_rate": RATE,
    "head_rate": 1,
    "schedule": "constant",
    "clip_norm": 0,
    "batch_size": 10_000,
    "local_epochs": 3,
    "rounds": 4,
}


def follow(settings: Settings, drawn: list[list[int]]) -> dict[str, torch.Tensor]:
    """Train the heads of method `exits` by FedDyn's equations; returns them after the last round.

    `drawn` holds the clients of each round. A client of depth d trains the heads after its last
    `trained` blocks: those of `SMALL`.
    """
    heads = {0: (2,), 1: (2,), 2: (4,), 3: (4,), 4: (2, 4, 6), 5: (2, 4, 6)}
    reached = {0: (2,), 1: (2,), 2: (2, 4), 3: (2, 4), 4: (2, 4, 6), 5: (2, 4, 6)}
    backbone = get_backbone(settings)
    theta = {k: torch.tensor(v) for k, v in make_model(settings, 10).adapter_arrays().items()}
    h = {k: torch.zeros_like(v) for k, v in theta.items()}
    multiplier = [{k: torch.zeros_like(v) for k, v in theta.items()} for _ in heads]

    def answer(client: int) -> dict[str, torch.Tensor]:
        node = simulated_nodes(settings)[client]
        with torch.no_grad():
            tokens, read = backbone.embed(pixels_of(node)), {}
            for number, block in enumerate(backbone.blocks, 1):
                tokens = read[number] = block(tokens)
        labels = torch.tensor(node.train.labels)
        trained = {k for k in theta if int(k.split(".")[0].removeprefix("block")) in heads[client]}
        own = {k: v.clone().requires_grad_(k in trained) for k, v in theta.items()}
        for _ in range(settings.local_epochs):
            loss = torch.zeros(())
            for e in reached[client]:
                scale, shift, weight, bias = (v for k, v in own.items() if f"block{e}." in k)
                normed = functional.layer_norm(read[e][:, 0], (24,), scale, shift)
                loss = loss + functional.cross_entropy(normed @ weight.T + bias, labels)
            for k in trained:
                loss = loss - (own[k] * multiplier[client][k]).sum()
                loss = loss + ALPHA / 2 * (own[k] - theta[k]).square().sum()
            loss.backward()
            for k in trained:
                own[k] = (own[k].detach() - RATE * own[k].grad).requires_grad_()
        for k in trained:
            multiplier[client][k] -= ALPHA * (own[k].detach() - theta[k])
        return {k: own[k].detach() for k in trained}

    for clients in drawn:
        answers = [answer(client) for client in clients]
        for k in theta:
            if sent := [values[k] for values in answers if k in values]:
                mean = sum(sent[1:], sent[0]) / len(sent)
                h[k] -= ALPHA * len(sent) * (mean - theta[k]) / len(heads)
                theta[k] = mean - h[k] / ALPHA
    return theta


def pixels_of(node: Any) -> torch.Tensor:
    return node.train_transform(node.train.images.images[node.train.positions])


def test_the_bank_is_that_of_the_equations(run_app: RunApp, tiny_vit: Path) -> None:
    """Four of six clients of three tiers in every round, of unequal numbers of examples."""
    found = run_app(**DYN, **PLAIN_STEPS)
    drawn: list[list[int]] = [[] for _ in range(4)]
    for row in found.clients:
        if row["phase"] == "train":
            drawn[row["round"] - 1].append(int(row["client"]))
    given = {k.replace("_", "-"): v for k, v in (DYN | PLAIN_STEPS).items()}
    settings = Settings.from_dict({**SMALL, "backbone": str(tiny_vit), **given})
    expected = follow(settings, drawn)
    start = make_model(settings, 10).adapter_arrays()
    for key, value in found.bank().items():
        np.testing.assert_allclose(value, expected[key], atol=2e-5)
        assert np.abs(value - start[key]).max() > 0.01
    # Without FedDyn it is another one.
    plain = run_app("plain", method="exits", **PLAIN_STEPS).bank()
    assert max(np.abs(plain[k] - v).max() for k, v in found.bank().items()) > 0.01


def finish(tiny_vit: Path, output: Path, **values: Any) -> list[dict[str, np.ndarray]]:
    """Run in-process; return what each client remembers at the end, by key."""
    given = {key.replace("_", "-"): value for key, value in values.items()}
    places = {"backbone": str(tiny_vit), "output-dir": str(output)}
    settings = Settings.from_dict({**SMALL, **places, **given})
    grid = InProcessGrid(create_client_app(), 6, dict(settings.to_dict()))
    run(grid, settings)
    place = f"{STATE}{MEMORY}-{settings.rounds}"
    return [
        {key: array.numpy() for key, array in context.state.array_records.get(place, {}).items()}
        for context in grid.contexts.values()
    ]


def test_clients_remember_what_they_trained_and_personalisation_leaves_it_alone(
    tiny_vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every term that was made was for a training message."""
    made = 0

    class Counted(client_app.app.DynTerm):
        def __init__(self, *arguments: Any) -> None:
            nonlocal made
            made += 1
            super().__init__(*arguments)

    without = finish(tiny_vit, tmp_path / "without", **DYN, clients_per_round=6, rounds=1)
    monkeypatch.setattr(client_app.app, "DynTerm", Counted)
    after = finish(
        tiny_vit, tmp_path / "with", **DYN, clients_per_round=6, rounds=1, personalise_epochs=2
    )
    assert made == 6
    units = [["block2"]] * 2 + [["block4"]] * 2 + [["block2", "block4", "block6"]] * 2
    assert [list(dict.fromkeys(key.split(".")[0] for key in kept)) for kept in after] == units
    for one, other in zip(without, after, strict=True):
        assert all(value.any() for value in one.values())
        for key, value in one.items():
            assert value.tobytes() == other[key].tobytes()
    assert len(Run(tmp_path / "with").summary["personalisation"]) > 0


@pytest.mark.parametrize(
    ("parts", "numbers"),
    [
        (
            {
                "adapter": "parallel",
                "adapter_rank": 4,
                "tiers": "small depth=2 rank=1 clients=0-2; large depth=6 rank=3 clients=3-5",
            },
            {0, 3, 6},
        ),
        ({"method": "scalefl"}, {2, 4}),
    ],
)
def test_parts_of_tensors_have_drifts_and_memories_of_their_own(
    tiny_vit: Path, tmp_path: Path, parts: dict[str, Any], numbers: set[int]
) -> None:
    """From what the clients remember follows what they sent, and from that the bank.

    After a round of all six, lambda_c is - alpha (theta_c - theta); element by element, with the
    mean over the m of 6 clients that hold it, the bank moved by (1 + m / 6) (mean - theta). Nobody
    has the fourth rank; in ScaleFL two clients have the whole width.
    """
    values = {**DYN, **parts, "clients_per_round": 6, "rounds": 1}
    kept = finish(tiny_vit, tmp_path / "run", **values)
    given = {k.replace("_", "-"): v for k, v in values.items()}
    settings = Settings.from_dict({**SMALL, "backbone": str(tiny_vit), **given})
    start = make_model(settings, 10).adapter_arrays()
    sums = {key: np.zeros_like(value) for key, value in start.items()}
    holders = {key: np.zeros_like(value) for key, value in start.items()}
    for node, memory in zip(simulated_nodes(settings), kept, strict=True):
        own = make_model(settings, 10, get_cut(settings, node.tier)).adapter_parameters()
        for key, value in memory.items():
            assert value.shape == tuple(own[key].shape)
            part = tuple(map(slice, value.shape))
            sums[key][part] -= value / ALPHA
            holders[key][part] += 1
    for key, value in Run(tmp_path / "run").bank().items():
        moved = sums[key] / np.maximum(holders[key], 1) * (1 + holders[key] / 6)
        np.testing.assert_allclose(value - start[key], moved, atol=2e-6)
    assert {int(m) for counts in holders.values() for m in counts.flat} == numbers


def test_without_feddyn_clients_keep_no_state(tiny_vit: Path, tmp_path: Path) -> None:
    kept = finish(tiny_vit, tmp_path / "run", method="exits", server_optimizer="adam", rounds=1)
    assert kept == [{}] * 6


def test_a_resumed_run_begins_afresh_on_both_sides_and_says_so(
    run_app: RunApp, caplog: pytest.LogCaptureFixture
) -> None:
    """No checkpoint holds any of it; the second round is done again without the first's."""
    first = run_app("run", **DYN, rounds=2)
    last = first.output / "checkpoint" / "round-00002"
    assert load_file(last / "method.safetensors") == {}
    shutil.rmtree(last)
    assert "begins afresh" not in caplog.text
    again = run_app("again", **DYN, rounds=2, resume=str(first.output))
    assert "server-optimizer: dyn begins afresh, on the server as on the clients" in caplog.text
    assert [row["round"] for row in again.metrics] == [0, 1, 2]
    assert any((again.bank()[k] != v).any() for k, v in first.bank().items())


def test_with_a_state_dir_a_resumed_run_goes_on_as_if_nothing_had_happened(
    run_app: RunApp, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where clients have trained a round that the server's checkpoint does not know of."""
    values = {**DYN, "rounds": 3, "state_dir": str(tmp_path / "own")}
    whole = run_app("whole", **values)
    cut = tmp_path / "cut"
    shutil.copytree(whole.output, cut)
    shutil.rmtree(cut / "checkpoint" / "round-00003")
    rest = run_app("cut", **values, resume=str(cut))
    assert "begins afresh" not in caplog.text
    for key, value in whole.bank().items():
        assert rest.bank()[key].tobytes() == value.tobytes()
