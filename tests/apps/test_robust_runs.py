"""Whole runs with a robust rule, clipping and noise, against what the clients really sent."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from flwr.app import Context, Message
from support import SMALL, Run

from client_app.app import create_client_app
from server_app.app import run
from server_app.inprocess import InProcessGrid
from settings import Settings
from strategies import epsilon, read_array
from wiring import get_layout, make_model

Vectors = dict[str, np.ndarray]


@dataclass
class Watched:
    """A run, its units before and after, and those that each client sent, in order."""

    run: Run
    start: Vectors
    bank: Vectors
    sent: list[Vectors]

    def holders(self, unit: str) -> np.ndarray:
        """The values that were sent for a unit, ``(holders, size)``."""
        return np.stack([vectors[unit] for vectors in self.sent if unit in vectors])


@pytest.fixture
def watched(tiny_vit: Path, tmp_path: Path) -> Callable[..., Watched]:
    """Run the app on the tiny ViT, for one round if nothing else is said."""

    def once(**values: Any) -> Watched:
        given = {key.replace("_", "-"): value for key, value in values.items()}
        base = {**SMALL, "backbone": str(tiny_vit), "output-dir": str(tmp_path / "run")}
        settings = Settings.from_dict({**base, "method": "exits", "rounds": 1, **given})
        sent: list[Vectors] = []

        def watch(message: Message, context: Context, call_next: Any) -> Message:
            reply = call_next(message, context)
            if message.metadata.message_type == "train":
                record = reply.content["arrays"]
                sent.append({unit: read_array(array).copy() for unit, array in record.items()})
            return reply

        app, nodes = create_client_app([watch]), settings.num_clients
        run(InProcessGrid(app, nodes, dict(settings.to_dict())), settings)
        model, found = make_model(settings, 10), Run(tmp_path / "run")
        layout = get_layout(model)
        start, bank = (
            layout.flatten(tensors, layout.units)
            for tensors in (model.adapter_arrays(), found.bank())
        )
        return Watched(found, start, bank, sent)

    return once


@pytest.mark.parametrize("clients", [5, 6])
def test_the_bank_is_the_median_of_what_was_sent(watched: Any, clients: int) -> None:
    found = watched(aggregation="median", clients_per_round=clients)
    assert {len(found.holders(unit)) for unit in found.bank} >= {2}
    for unit, vector in found.bank.items():
        np.testing.assert_allclose(vector, np.median(found.holders(unit), axis=0), rtol=1e-6)
    assert found.run.summary["accuracy"]["mean"] > found.run.metrics[0]["accuracy-mean"]


def test_the_bank_is_the_trimmed_mean_of_what_was_sent(watched: Any) -> None:
    """Of six clients of one tier one goes at each end."""
    found = watched(
        aggregation="trimmed-mean",
        trim_share=0.2,
        clients_per_round=6,
        tiers="all depth=4 share=1",
    )
    for unit in ("block2", "block4"):
        values = found.holders(unit)
        assert len(values) == 6
        expected = scipy.stats.trim_mean(values.astype(np.float64), 0.2, axis=0)
        np.testing.assert_allclose(found.bank[unit], expected, rtol=1e-5, atol=1e-7)
        plain = values.mean(axis=0)
        assert not np.allclose(found.bank[unit], plain, rtol=1e-5, atol=1e-7)


def test_clipping_bounds_every_update_and_tells_its_norm(watched: Any) -> None:
    """One client, so the bank moves by its update, scaled to the limit."""
    found = watched(clip_update=0.05, clients_per_round=1)
    (sent,) = found.sent
    norm = np.sqrt(
        sum(np.square(v - found.start[u], dtype=np.float64).sum() for u, v in sent.items())
    )
    assert norm > 0.05
    rows = [row for row in found.run.clients if row["phase"] == "train"]
    assert [row["update-norm"] for row in rows] == [pytest.approx(norm, rel=1e-6)]
    for unit, vector in sent.items():
        moved = (vector.astype(np.float64) - found.start[unit]) * 0.05 / norm
        np.testing.assert_allclose(found.bank[unit] - found.start[unit], moved, atol=1e-7)
    assert "privacy" not in found.run.summary
    assert "epsilon" not in found.run.metrics[-1]
    assert all("update-norm" not in row for row in found.run.clients if row["phase"] == "evaluate")


def test_an_update_within_the_limit_stays_as_it_is(watched: Any) -> None:
    found = watched(clip_update=1e6, clients_per_round=1)
    (sent,) = found.sent
    for unit, vector in sent.items():
        np.testing.assert_allclose(found.bank[unit], vector, rtol=1e-6, atol=1e-9)


def test_noise_has_its_scale_and_its_epsilon_is_told(watched: Any) -> None:
    """Six clients of one tier: the noise on a mean has deviation 0.5 * 2 / 6.

    The bounds are six deviations of the estimate from some 500 numbers.
    """
    found = watched(
        clip_update=2.0,
        noise_multiplier=0.5,
        privacy_delta=1e-4,
        clients_per_round=6,
        rounds=1,
        tiers="all depth=4 share=1",
    )
    moved = []
    scales = [row["update-norm"] for row in found.run.clients if row["phase"] == "train"]
    assert len(scales) == 6
    for unit in ("block2", "block4"):
        updates = found.holders(unit).astype(np.float64) - found.start[unit]
        clipped = updates * np.minimum(1, 2.0 / np.array(scales))[:, None]
        moved.append(found.bank[unit] - found.start[unit] - clipped.mean(axis=0))
    noise, deviation = np.concatenate(moved), 0.5 * 2 / 6
    assert noise.size > 500
    assert abs(noise.std() / deviation - 1) < 6 / np.sqrt(2 * noise.size)
    assert abs(noise.mean()) < 6 * deviation / np.sqrt(noise.size)
    assert found.run.summary["privacy"] == {
        "epsilon": epsilon(0.5, 1, 1e-4),
        "delta": 1e-4,
        "noise-multiplier": 0.5,
        "clip": 2.0,
    }


def test_epsilon_grows_round_by_round(watched: Any) -> None:
    found = watched(
        method="accumulator", clip_update=1.0, noise_multiplier=1.5, rounds=3, evaluate_every=3
    )
    rows = found.run.metrics[1:]
    assert [row["epsilon"] for row in rows] == [epsilon(1.5, n, 1e-5) for n in (1, 2, 3)]
    assert rows[0]["epsilon"] < rows[1]["epsilon"] < rows[2]["epsilon"]
    assert found.run.summary["privacy"]["epsilon"] == rows[2]["epsilon"]
    assert "epsilon" not in found.run.metrics[0]
    trained = [row for row in found.run.clients if row["phase"] == "train"]
    assert all(row["update-norm"] > 0 for row in trained)
    # Another run with the same seed draws other noise.
    again = watched(
        method="accumulator", clip_update=1.0, noise_multiplier=1.5, rounds=3, evaluate_every=3
    )
    assert again.bank["shared"].tobytes() != found.bank["shared"].tobytes()
