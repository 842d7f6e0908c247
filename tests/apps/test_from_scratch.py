"""FedTP's form on photos: whole projections, and a small ViT that nobody has trained before."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, save_model
from PIL import Image
from support import PUBLISHED, SHARED
from transformers import ViTConfig, ViTModel

from data import ImageSet, Source, register_source

PHOTOS = SHARED / "data" / "cifar10_30k_jpeg.npz"


def load_photos(data_dir: str, image_size: int, seed: int) -> Source:
    """The first 3,000 images of a CIFAR-10 subset to train on, and 600 to test with."""
    del image_size, seed
    with np.load(data_dir, allow_pickle=False) as file:
        labels, offsets, pixels = file["labels"], file["offsets"], file["bytes"].tobytes()
        classes = tuple(map(str, file["classes"]))
    images = np.stack(
        [
            np.asarray(Image.open(io.BytesIO(pixels[offsets[i] : offsets[i + 1]])))
            for i in range(3600)
        ]
    )
    photos = ImageSet(images, labels[:3600].astype(np.int64), classes)
    return Source(photos.subset(range(3000)), photos.subset(range(3000, 3600)), flip=True)


@pytest.fixture(scope="module", autouse=True)
def known_source() -> None:
    """Not at the import: what other tests list is what comes with the package."""
    register_source("photos", load_photos)


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOS.is_file(), reason="needs the CIFAR-10 subset of the shared folder")
def test_the_published_form_learns_photos(run_app: Callable[..., Any], tmp_path: Path) -> None:
    """Two of ten classes a client: above half right, which guessing between the two gives.

    An average of all projections, under the same settings, hardly learns in so few rounds.
    """
    torch.manual_seed(7)
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 96, "image_size": 32}
    config = ViTConfig(**{**TINY, **sizes, "initializer_range": 0.05})
    values = {
        "backbone": str(save_model(tmp_path / "scratch", ViTModel(config, False))),
        "dataset": "photos",
        "data_dir": str(PHOTOS),
        "partition": "pathological",
        "exits": "1",
        "tiers": "all depth=1.0 share=1",
        "num_clients": 10,
        "clients_per_round": 5,
        "local_epochs": 2,
        "evaluate_every": 30,
        "rounds": 30,
        **PUBLISHED,
        "learning_rate": 0.001,
        "hyper_attention_rate": 0.3,
    }
    averaged = run_app("averaged", method="shared-attention", **values)
    hyper = run_app("hyper", method="hyper-attention", **values)
    assert hyper.summary["client-accuracy"]["mean"] > 0.6
    assert averaged.summary["client-accuracy"]["mean"] < 0.4
    variance = [row["figures"]["personal-variance"] for row in hyper.metrics[1:]]
    assert variance[-1] > 10 * variance[0]
