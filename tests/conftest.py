"""What all tests share: a tiny pretrained-form ViT on disk, and runs of the app."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import pytest
import torch
from support import SHARED, SMALL, Run
from transformers import DeiTConfig, DeiTModel, ViTConfig, ViTImageProcessor, ViTModel

TINY: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 6,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 16,
    "patch_size": 8,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.2,
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """One thread per client everywhere, as on Ray."""
    torch.set_num_threads(1)
    logging.getLogger("flwr").propagate = True


def save_model(folder: Path, model: Any) -> Path:
    """Write a model in Hugging Face's form, with the normalisation of a preprocessor config."""
    model.save_pretrained(folder)
    size = model.config.image_size
    ViTImageProcessor(
        size={"height": size, "width": size}, image_mean=[0.5] * 3, image_std=[0.25] * 3
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ViT of 6 blocks, width 24, 16 x 16 pixels in 4 patches."""
    torch.manual_seed(7)
    model = ViTModel(ViTConfig(**TINY), add_pooling_layer=False)
    return save_model(tmp_path_factory.mktemp("vit"), model)


@pytest.fixture(scope="session")
def tiny_deit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same size as a DeiT, with its distillation token."""
    torch.manual_seed(8)
    model = DeiTModel(DeiTConfig(**TINY), add_pooling_layer=False)
    return save_model(tmp_path_factory.mktemp("deit"), model)


@pytest.fixture
def run_app(tiny_vit: Path, tmp_path: Path) -> Callable[..., Run]:
    """Run the app in-process on the tiny ViT; keywords are settings (`_` for `-`)."""
    from run_simulation import run_in_process
    from settings import Settings

    def run(name: str = "run", **values: Any) -> Run:
        output = tmp_path / name
        given = {key.replace("_", "-"): value for key, value in values.items()}
        base = {**SMALL, "backbone": str(tiny_vit), "output-dir": str(output)}
        run_in_process(Settings.from_dict({**base, **given}))
        return Run(output)

    return run


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real weights and data, which a user does not have."""
    if not SHARED.is_dir():
        pytest.skip("needs the shared folder of real weights and data beside the project")
    return SHARED
