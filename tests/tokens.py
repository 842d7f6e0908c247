"""What tests of kept tokens share: images, trainers, and what goes through their blocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from client_app.training import Trainer, TrainingResult
from data import BatchTransform, ImageSet, Part, Transform
from models import AdapterModel
from settings import Settings
from wiring import make_model

TRANSFORM = BatchTransform(16, [0.5], [0.25])
SHIFTED = BatchTransform(16, [0.5], [0.25], augment="shift")
ROW = 4 * 5 * 24  # bytes of an image's tokens: fp32, 5 of them, 24 wide


def make_part() -> Part:
    """Forty of sixty noisy images of ten classes, in some order."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (60, 16, 16, 1), dtype=np.uint8)
    images = ImageSet(pixels, np.arange(60) % 10, tuple("abcdefghij"))
    return Part(images, generator.permutation(60)[:40])


def trainer_of(tiny_vit: Path, **values: Any) -> Trainer:
    """A trainer of three exits whose adapters are away from their start."""
    given = {"method": "exits", "exits": "3", "adapter": "parallel", "adapter_rank": 4, **values}
    settings = Settings(backbone=str(tiny_vit), batch_size=16, learning_rate=0.01, **given)
    trainer = Trainer(make_model(settings, 10), settings)
    torch.manual_seed(1)
    for parameter in trainer.model.adapter_parameters().values():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return trainer


@contextmanager
def counted(model: AdapterModel) -> Iterator[Counter[int]]:
    """Count the images that go through each block (from 1) of all models on this backbone."""
    found: Counter[int] = Counter()
    handles = [
        model.block(number).norm1.register_forward_pre_hook(
            lambda _, given, n=number: found.update({n: len(given[0])})
        )
        for number in range(1, model.exits[-1] + 1)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def train(
    trainer: Trainer, part: Part, transform: Transform = TRANSFORM, **options: Any
) -> TrainingResult:
    given = {"units": ["block5", "block6"], "depth": 6, "epochs": 3, "server_round": 1, **options}
    result = trainer.train(part=part, transform=transform, client_key="0", **given)
    del result.metrics["seconds"], result.metrics["peak-bytes"]
    return result


def same_bits(first: AdapterModel, second: AdapterModel) -> bool:
    mine, other = first.adapter_arrays(), second.adapter_arrays()
    return mine.keys() == other.keys() and all(
        mine[key].tobytes() == other[key].tobytes() for key in mine
    )
