"""Random crops: read back from ramps, whose pixels say where they are."""

import math

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from data import BatchTransform

ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def ramps(count, height, width):
    """Equal images in which red is the column and green the row of a pixel."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([columns, rows, np.zeros_like(rows)], axis=-1).astype(np.uint8)
    return np.stack([image] * count)


def crop(images, side, seed=0, **options):
    torch.manual_seed(seed)
    return BatchTransform(side, ZERO, ONE, augment="crop", **options)(images)


def read_boxes(output):
    """Return tops, lefts, heights and widths of the crops of ramps.

    Away from the border a ramp stays one: output pixel j shows input (j + 1/2) / S * length - 1/2
    pixels from the start.
    """
    side = output.shape[3]
    low, high = side // 4, 3 * side // 4
    columns, rows = output[:, 0, side // 2] * 255, output[:, 1, :, side // 2] * 255
    starts, lengths = [], []
    for ramp in (rows, columns):
        length = (ramp[:, high] - ramp[:, low]) / (high - low) * side
        starts.append(ramp[:, low] + 0.5 - (low + 0.5) / side * length)
        lengths.append(length)
    return torch.stack([*starts, *lengths])


def test_boxes_have_the_area_the_ratio_and_the_places_they_should():
    """Nothing of at most 40 % is too long to fit (0.73 of a side), so no draw is repeated.

    The share is uniform on 0.2 to 0.4: mean 0.3, deviation 0.2 / sqrt(12) = 0.058. The logarithm
    of the ratio is uniform about 0: deviation 2 log(4/3) / sqrt(12) = 0.166. The place is uniform
    in the room that is left. Means of 2000 are within 5 standard errors.
    """
    boxes = read_boxes(crop(ramps(2000, 100, 100), 74, crop_scale=(0.2, 0.4)))
    assert (boxes - boxes.round()).abs().max() < 0.01
    tops, lefts, heights, widths = boxes
    shares, logs = heights * widths / 100**2, (widths / heights).log()
    rounding = 0.02  # half a pixel of 40
    assert 0.2 * (1 - rounding) < shares.min() < 0.205
    assert 0.395 < shares.max() < 0.4 * (1 + rounding)
    assert shares.mean().item() == pytest.approx(0.3, abs=0.0065)
    assert shares.std().item() == pytest.approx(0.058, abs=0.004)
    assert math.log(4 / 3) - 0.02 < logs.abs().max() < math.log(4 / 3) + rounding
    assert logs.mean().item() == pytest.approx(0, abs=0.019)
    assert logs.std().item() == pytest.approx(0.166, abs=0.01)
    for starts, lengths in ((tops, heights), (lefts, widths)):
        places = starts / (100 - lengths)
        assert places.mean().item() == pytest.approx(0.5, abs=0.033)
        assert places.min() > -0.01
        assert places.max() < 1.01
        assert (starts < 0.5).any()
        assert ((starts + lengths) > 99.5).any()


def test_a_box_that_does_not_fit_is_drawn_again():
    """At the full range every box lies within the image, and shares up to the whole occur."""
    tops, lefts, heights, widths = read_boxes(crop(ramps(2000, 32, 32), 32)).round()
    assert min(tops.min(), lefts.min()) == 0
    assert max((tops + heights).max(), (lefts + widths).max()) == 32
    shares = heights * widths / 32**2
    assert 0.07 < shares.min() < 0.1
    assert shares.max() > 0.95


def test_a_long_image_gets_the_largest_part_of_an_allowed_ratio():
    """Of 6 x 60 no part of half the area fits: 6 x 8, anywhere from column 0 to 52."""
    tops, lefts, heights, widths = read_boxes(
        crop(ramps(500, 6, 60), 16, crop_scale=(0.5, 1.0))
    ).round()
    assert set(tops.tolist()) == {0}
    assert set(heights.tolist()) == {6}
    assert set(widths.tolist()) == {8}
    assert set(lefts.tolist()) == set(range(53))


@pytest.mark.parametrize("side", [48, 100])
def test_a_crop_is_resized_as_torchvision_does(side):
    """The same seed draws the same boxes on ramps, which tell them, and on other images.

    Side 48 is below that of most crops of 100 x 100, which are antialiased then.
    """
    images = np.random.default_rng(0).integers(0, 256, (20, 100, 100, 3), dtype=np.uint8)
    boxes = read_boxes(crop(ramps(20, 100, 100), 100)).round().int()
    expected = [
        functional.resized_crop(pixels / 255, *box, [side, side], antialias=True)
        for pixels, box in zip(
            torch.from_numpy(images).permute(0, 3, 1, 2), boxes.T.tolist(), strict=True
        )
    ]
    torch.testing.assert_close(crop(images, side), torch.stack(expected))


def test_half_of_the_crops_are_mirrored_where_that_is_allowed():
    def mirrored(flip):
        output = crop(ramps(1000, 32, 32), 32, flip=flip)
        return (output[:, 0, 16, 24] < output[:, 0, 16, 8]).sum()

    assert 400 < mirrored(True) < 600
    assert mirrored(False) == 0


def test_gray_crops_have_three_equal_channels():
    output = crop(np.random.default_rng(0).integers(0, 256, (4, 28, 28, 1), dtype=np.uint8), 32)
    assert output.shape == (4, 3, 32, 32)
    assert torch.equal(output[:, 0], output[:, 1])
    assert torch.equal(output[:, 0], output[:, 2])
    assert not torch.equal(output[0], output[1])
