"""Kept tokens within their room: what is let go, files, half precision, and the settings."""

from __future__ import annotations

import gc
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokens import ROW, TRANSFORM, counted, make_part, trainer_of

from client_app.feature_cache import FeatureBudget
from client_app.predictor import Predictor
from client_app.token_cache import TokenCache
from data import BatchTransform, Part
from models import AdapterModel

PLENTY = 10**9


@pytest.fixture
def part() -> Part:
    """Forty images."""
    return make_part()


def tokens_of(model: AdapterModel, budget: FeatureBudget, **options: Any) -> TokenCache:
    predictor = Predictor(model, budget=budget, **options)
    assert predictor.tokens is not None
    return predictor.tokens


def read(cache: TokenCache, part: Part, units: tuple[str, ...] = ("block4",)) -> torch.Tensor:
    """The state before block 4, of all images, filled in two batches of different size."""
    opened = cache.open(part, TRANSFORM, units)
    assert opened is not None
    for places in np.split(np.arange(len(part)), [7]):
        opened.get(places, np.zeros_like(places))
    places = np.arange(len(part))
    return opened.get(places, np.zeros_like(places))[0][0]


@pytest.fixture
def model(tiny_vit: Path) -> AdapterModel:
    """One exit, so that nothing but tokens is kept."""
    return trainer_of(tiny_vit, exits="6,").model


def expected(model: AdapterModel, part: Part) -> torch.Tensor:
    with torch.no_grad():
        pixels = TRANSFORM(part.images.images[part.positions])
        return model.lead(model.begin(pixels), 1, 4)[0][0]


def test_of_a_part_that_does_not_fit_the_first_images_are_kept(
    model: AdapterModel, part: Part, caplog: pytest.LogCaptureFixture
) -> None:
    """Room for 10 of 40 images."""
    cache = tokens_of(model, FeatureBudget(10 * ROW + ROW - 1))
    with counted(model) as passes:
        found = read(cache, part)
    assert torch.equal(found, expected(model, part))
    assert cache.size == 10 * ROW
    assert passes[1] == 40 + 30
    assert caplog.text.count("cache-megabytes has room for 25%") == 1


def test_clients_that_were_not_asked_for_longest_make_room(
    model: AdapterModel, part: Part, caplog: pytest.LogCaptureFixture
) -> None:
    """Room for two clients of 20 images."""
    cache = tokens_of(model, FeatureBudget(2 * 20 * ROW))
    a, b, c = (Part(part.images, np.arange(n, n + 20)) for n in (0, 20, 40))
    for each in (a, b, a):
        read(cache, each)
    assert "make room" not in caplog.text
    with counted(model) as passes:
        read(cache, c)
        assert passes[1] == 20
        read(cache, a)
        assert passes[1] == 20
        found = read(cache, b)
        assert passes[1] == 40
    assert torch.equal(found, expected(model, b))
    assert cache.size == 40 * ROW
    assert caplog.text.count("make room for those of others") == 1


def test_what_a_part_took_is_free_once_the_part_is_gone(model: AdapterModel, part: Part) -> None:
    budget = FeatureBudget(40 * ROW)
    cache = tokens_of(model, budget)
    other = Part(part.images, part.positions[:20])
    read(cache, other)
    assert budget.free == 20 * ROW
    del other
    gc.collect()
    assert budget.free == 40 * ROW


def test_half_precision_takes_half_the_room_whatever_is_kept(
    model: AdapterModel, part: Part
) -> None:
    """Rounded also where there is no room, so that results do not depend on it."""
    rounded = expected(model, part).half().float()
    for rows in (40, 10):
        budget = FeatureBudget(rows * ROW // 2)
        cache = tokens_of(model, budget, kept_dtype=torch.float16)
        assert torch.equal(read(cache, part), rounded)
        assert cache.size == rows * ROW // 2


def test_files_have_no_name_and_the_same_bits(
    model: AdapterModel, part: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cache = tokens_of(model, FeatureBudget(PLENTY), on_disk=True)
    assert torch.equal(read(cache, part), expected(model, part))
    assert cache.size == 40 * ROW
    assert list(tmp_path.iterdir()) == []
    mapped = Path("/proc/self/maps")
    if mapped.exists():
        assert str(tmp_path) in mapped.read_text()


def test_a_full_disk_is_told(
    model: AdapterModel,
    part: Part,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    cache = tokens_of(model, FeatureBudget(PLENTY), on_disk=True)
    assert torch.equal(read(cache, part), expected(model, part))
    assert cache.size == 0
    assert "No tokens are kept: no file for them (No space left on device)." in caplog.text


@pytest.mark.parametrize("changes", [{}, {"cache_place": "disk"}, {"cache_dtype": "fp16"}])
def test_settings_reach_the_cache(tiny_vit: Path, part: Part, changes: dict[str, str]) -> None:
    trainer = trainer_of(tiny_vit, exits="6,", **changes)
    found = read(trainer.predictor.tokens, part)
    whole = expected(trainer.model, part)
    assert torch.equal(found, whole.half().float() if "cache_dtype" in changes else whole)
    assert trainer.predictor.tokens.on_disk == ("cache_place" in changes)


NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NO_GPU)])
def test_files_are_brought_up_to_a_later_block(device: str, tiny_vit: Path, part: Part) -> None:
    """Files are no place of the device's: blocks run where the model is."""
    model = trainer_of(tiny_vit, exits="6,", device=device).model
    cache = tokens_of(model, FeatureBudget(PLENTY), on_disk=True)
    transform = BatchTransform(16, [0.5], [0.25], device=device)
    places = np.arange(len(part))
    before = cache.open(part, transform, ("block3",))
    assert before is not None
    before.get(places, np.zeros_like(places))
    pushed = cache.open(part, transform, ("block4",))
    assert pushed is not None
    (tokens,), _ = pushed.get(places, np.zeros_like(places))
    with torch.no_grad():
        pixels = transform(part.images.images[part.positions])
        (wanted,), _ = model.lead(model.begin(pixels), 1, 4)
    model.to("cpu")  # the backbone is that of other tests, too
    assert torch.allclose(tokens, wanted, atol=1e-5)
