"""Two views of each image: which rows belong together, and what is drawn for them."""

import numpy as np
import pytest
import torch

from data import BatchTransform, ViewTransform

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def pixels(count: int, side: int = 16, channels: int = 3) -> np.ndarray:
    shape = (count, side, side, channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_without_anything_to_draw_both_views_are_the_plain_image() -> None:
    images = pixels(5, channels=1)
    plain = BatchTransform(16, MEAN, STD)(images)
    views = ViewTransform(16, MEAN, STD, smallest=1.0, jitter=0.0)(images)
    assert views.shape == (10, 3, 16, 16)
    assert torch.equal(views[:5], plain)
    assert torch.equal(views[5:], plain)


def test_views_are_resized_and_normalised() -> None:
    """A flat image stays flat in every crop: (102 / 255 - mean) / std, within one of 255 levels."""
    images = np.full((2, 8, 10, 3), 102, dtype=np.uint8)
    views = ViewTransform(16, MEAN, STD, jitter=0.0)(images)
    expected = [(0.4 - mean) / std for mean, std in zip(MEAN, STD, strict=True)]
    assert views.shape == (4, 3, 16, 16)
    flat = torch.tensor(expected)[None, :, None, None].expand(4, 3, 16, 16)
    torch.testing.assert_close(views, flat, rtol=0, atol=1 / 255 / min(STD))


def test_each_view_is_drawn_by_itself_from_torchs_generator() -> None:
    images = np.repeat(pixels(1), 6, axis=0)
    transform = ViewTransform(16, MEAN, STD)
    torch.manual_seed(1)
    first, second = transform(images), transform(images)
    assert len({tuple(view.ravel().tolist()) for view in (*first, *second)}) == 24
    torch.manual_seed(1)
    assert torch.equal(transform(images), first)
    assert not transform.deterministic


def test_a_fifth_of_the_views_is_grey() -> None:
    """400 views: 80 with a standard deviation of 8."""
    views = ViewTransform(16, (0.5,), (0.5,), smallest=1.0, jitter=0.0)(pixels(200))
    grey = sum(torch.equal(view[0], view[1]) for view in views)
    assert 48 <= grey <= 112


@pytest.mark.parametrize("flip", [False, True])
def test_half_is_mirrored_where_it_may_be(flip: bool) -> None:
    images = pixels(100, channels=1)
    plain = BatchTransform(16, MEAN, STD)(images).repeat(2, 1, 1, 1)
    views = ViewTransform(16, MEAN, STD, smallest=1.0, jitter=0.0, flip=flip)(images)
    same = [torch.equal(view, image) for view, image in zip(views, plain, strict=True)]
    mirrored = [torch.equal(v.flip(2), i) for v, i in zip(views, plain, strict=True)]
    assert all(a != b for a, b in zip(same, mirrored, strict=True))
    assert 70 <= sum(mirrored) <= 130 if flip else all(same)


def test_colours_change_as_strongly_as_is_asked_for() -> None:
    images = np.full((100, 16, 16, 3), (200, 100, 50), dtype=np.uint8)
    plain = BatchTransform(16, (0.5,), (0.5,))(images).repeat(2, 1, 1, 1)
    changes = []
    for jitter in (0.1, 0.5, 1.0):
        views = ViewTransform(16, (0.5,), (0.5,), jitter=jitter)(images)
        changes.append(float((views - plain).abs().mean()))
    assert 0 < changes[0] < changes[1] < changes[2]
