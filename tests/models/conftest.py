"""Adapters as a run leaves them, and a folder of images, for anytime inference."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from models import build_model, load_backbone


@pytest.fixture
def exported(tiny_vit: Path, tmp_path: Path) -> Path:
    """A folder as a run leaves it, of a model with exits after blocks 2, 4 and 6."""
    model = build_model("accumulator", load_backbone(str(tiny_vit)), (2, 4, 6), 3, seed=5)
    folder = tmp_path / "adapters"
    folder.mkdir()
    save_file(model.adapter_arrays(), folder / "exits.safetensors")
    description = {
        "method": "accumulator",
        "backbone": str(tiny_vit),
        "image-size": 16,
        "format": 3,
        "exits": "3",
        "adapter": {"kind": "none", "rank": 32, "scaling": 2.0, "targets": ["q", "v"]},
        "options": {"sharing": "shared", "size": "bottleneck"},
        "classes": ["cat", "dog", "elk"],
    }
    (folder / "adapters.json").write_text(json.dumps(description))
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five images: two of a class, two of another, one beside them; and what is no image."""
    folder = tmp_path / "photos"
    generator = np.random.default_rng(0)
    for name in ("cat/1.png", "cat/2.JPG", "dog/3.bmp", "dog/4.png", "other.png"):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(file)
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_text("no image")
    return folder
