"""Which transform the settings and the data give: whose statistics, which augmentation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from data import BatchTransform, Source, load_source
from settings import Settings, SettingsError
from wiring import get_backbone, get_transform


@pytest.fixture(scope="module")
def source() -> Source:
    return replace(
        load_source("digits", image_size=32), mean=(0.1307,), std=(0.3081,), crop_scale=(0.5, 0.5)
    )


def gray_level(transform: BatchTransform) -> list[float]:
    """What the three channels of an image of level 51, a fifth, become."""
    return transform(np.full((1, 8, 8, 1), 51, np.uint8))[0, :, 0, 0].tolist()


def test_normalise_decides_whose_statistics_are_used(source: Source) -> None:
    backbone = get_backbone(Settings())
    by_backbone = get_transform(Settings(), source, training=False)
    by_data = get_transform(Settings(normalise="dataset"), source, training=False)
    assert gray_level(by_backbone) == pytest.approx(
        [(0.2 - m) / s for m, s in zip(backbone.mean, backbone.std, strict=True)], abs=1e-5
    )
    assert gray_level(by_data) == pytest.approx([(0.2 - 0.1307) / 0.3081] * 3, abs=1e-5)


def test_a_source_without_statistics_is_refused(source: Source) -> None:
    bare = replace(source, mean=None, std=None)
    with pytest.raises(SettingsError) as error:
        get_transform(Settings(normalise="dataset"), bare, training=False)
    assert str(error.value) == (
        "normalise: dataset 'digits' comes without a mean and a standard deviation of its own, "
        'or is not on this machine; set normalise to "backbone".'
    )


@pytest.mark.parametrize("augment", ["shift", "crop"])
def test_only_training_is_augmented(source: Source, augment: str) -> None:
    settings = Settings(augment=augment)
    assert get_transform(settings, source, training=False).deterministic
    assert not get_transform(settings, source, training=True).deterministic


def test_crops_have_the_scale_of_the_data_and_mirror_where_they_allow(source: Source) -> None:
    """Half the area of 8 x 8: sides 5 to 7 of a ramp, which rises by 20 per pixel.

    Enlarged to 32 pixels, from a fourth to three fourths it rises by half of 100 to 140.
    """
    ramp = np.tile(np.arange(0, 160, 20, dtype=np.uint8)[:, None], (200, 8, 1, 1))
    settings = Settings(augment="crop", normalise="dataset")
    for flip in (False, True):
        torch.manual_seed(0)
        transform = get_transform(settings, replace(source, flip=flip), training=True)
        row = transform(ramp)[:, 0, 0] * 0.3081 * 255
        rises = (row[:, 24] - row[:, 8]).round().int().tolist()
        assert set(map(abs, rises)) == {50, 60, 70} if flip else set(rises) == {50, 60, 70}
        assert any(rise < 0 for rise in rises) == flip
