"""Two kinds of clients read the same images differently: what a shared model cannot learn."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, save_model
from support import PUBLISHED
from transformers import ViTConfig, ViTModel

from data import ImageSet, Source, register_source

CLIENTS, EACH, CLASSES = 4, 45, 3
FACTORS: dict[str, Any] = {
    "rounds": 40,
    "learning_rate": 0.01,
    "hyper_attention_row_rate": 0.3,
}


def load_clusters(data_dir: str, image_size: int, seed: int) -> Source:
    """Images of two patterns; clients 0 and 2 name the upper one, 1 and 3 the lower one.

    Each of the 3 x 3 pairs is shown as often. Who knows a pair, but not whose it is, is right in
    3 of 9 pairs, those of two equal patterns, and in half of the 6 others: in 2/3 of all.
    """
    del data_dir, image_size, seed
    patterns = np.random.default_rng(0).integers(0, 256, (CLASSES, 8, 8, 1))
    pairs = np.stack(np.meshgrid(range(CLASSES), range(CLASSES)), axis=-1).reshape(-1, 2)
    shown = np.tile(pairs, (CLIENTS * EACH // len(pairs), 1))
    images = np.full((len(shown), 16, 16, 1), 128, np.uint8)
    images[:, :8, :8], images[:, 8:, 8:] = patterns[shown[:, 0]], patterns[shown[:, 1]]
    client = np.arange(len(shown)) // EACH
    labels = shown[np.arange(len(shown)), client % 2].astype(np.int64)
    owners = tuple(map(str, client))
    return Source(ImageSet(images, labels, ("a", "b", "c"), owners), None, flip=False)


@pytest.fixture(scope="module", autouse=True)
def known_source() -> None:
    """Not at the import: what other tests list is what comes with the package."""
    register_source("clusters", load_clusters)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> dict[float, Path]:
    """A block with random weights, by their standard deviation."""
    folders = {}
    for deviation in (0.1, 0.2):
        torch.manual_seed(7)
        config = ViTConfig(**{**TINY, "num_hidden_layers": 1, "initializer_range": deviation})
        folder = tmp_path_factory.mktemp("vit")
        folders[deviation] = save_model(folder, ViTModel(config, add_pooling_layer=False))
    return folders


@pytest.mark.parametrize(
    ("form", "deviation"),
    [(FACTORS, 0.2), ({**PUBLISHED, "rounds": 25}, 0.1)],
    ids=["factors", "published"],
)
def test_personal_attention_learns_what_an_average_cannot(
    run_app: Callable[..., Any],
    untrained: dict[float, Path],
    form: dict[str, Any],
    deviation: float,
) -> None:
    """Scores of what the server makes for each client, without any training for itself."""
    values = {
        "backbone": str(untrained[deviation]),
        "dataset": "clusters",
        "partition": "natural",
        "classes": "a,b,c",
        "exits": "1,",
        "tiers": "all depth=1 share=1",
        "num_clients": CLIENTS,
        "clients_per_round": CLIENTS,
        "local_epochs": 4,
        "batch_size": 36,
        "evaluate_every": 40,
        **form,
    }
    shared = run_app("shared", method="shared-attention", **values)
    hyper = run_app("hyper", method="hyper-attention", **values)
    accuracy = [run.summary["client-accuracy"]["mean"] for run in (shared, hyper)]
    assert accuracy[0] <= 0.7
    assert accuracy[1] >= 0.9
    variance = [row["figures"]["personal-variance"] for row in hyper.metrics[1:]]
    assert variance[-1] > 5 * max(variance[0], 1e-6)
    assert hyper.summary["client-accuracy"]["worst-decile"] > accuracy[0]
