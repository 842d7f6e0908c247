"""BatchTransform against numbers computed by hand."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from data import BatchTransform, DataError

ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def random_images(*shape):
    return np.random.default_rng(0).integers(1, 256, shape, dtype=np.uint8)


def test_pixels_are_scaled_and_normalised_per_channel():
    """51 / 255 = 0.2: (0.2 - 0.2) / 0.1 = 0, (0.4 - 0.2) / 0.5 = 0.4, (1 - 0.5) / 0.25 = 2."""
    images = np.array([51, 102, 255], np.uint8).reshape(1, 1, 1, 3)
    output = BatchTransform(1, (0.2, 0.2, 0.5), (0.1, 0.5, 0.25))(images)
    assert output.shape == (1, 3, 1, 1)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output.ravel(), torch.tensor([0.0, 0.4, 2.0]))


def test_channels_move_to_the_front():
    images = random_images(2, 4, 4, 3)
    output = BatchTransform(4, ZERO, ONE)(images) * 255
    np.testing.assert_allclose(output.numpy(), images.transpose(0, 3, 1, 2), rtol=1e-5)


def test_gray_is_copied_to_three_channels():
    output = BatchTransform(8, ZERO, ONE)(random_images(2, 8, 8, 1))
    assert output.shape == (2, 3, 8, 8)
    assert torch.equal(output[:, 0], output[:, 1])
    assert torch.equal(output[:, 0], output[:, 2])


def test_a_models_autocast_does_not_round_pixels():
    images, transform = random_images(2, 8, 8, 3), BatchTransform(16, ZERO, ONE)
    with torch.autocast("cpu", torch.bfloat16):
        inside = transform(images)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, transform(images))


def test_smaller_is_antialiased():
    """Half the side: a triangle over four pixels, with weights 3/7, 3/7 and 1/7 at the border.

    The row 0 0 70 70 becomes 70/7 = 10 and 70 * 6/7 = 60; without antialiasing 0 and 70.
    """
    images = np.tile(np.array([0, 0, 70, 70], np.uint8), (1, 4, 1))[..., np.newaxis]
    output = BatchTransform(2, ZERO, ONE)(images)[0, 0] * 255
    torch.testing.assert_close(output, torch.tensor([[10.0, 60.0], [10.0, 60.0]]))


def test_larger_is_bilinear():
    """Twice the side: between pixels 0 and 80 lie 0, 20, 60, 80."""
    images = np.array([[0, 80], [0, 80]], np.uint8).reshape(1, 2, 2, 1)
    output = BatchTransform(4, ZERO, ONE)(images)[0, 0] * 255
    torch.testing.assert_close(output, torch.tensor([[0.0, 20.0, 60.0, 80.0]] * 4))


def test_shift_moves_up_to_an_eighth_and_fills_with_black():
    """Of 16 pixels an eighth is two: 5 x 5 places, each a cut-out of the padded image."""
    image = random_images(16, 16, 1)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    places = {padded[y : y + 16, x : x + 16].tobytes() for y in range(5) for x in range(5)}
    torch.manual_seed(0)
    output = BatchTransform(16, ZERO, ONE, augment="shift")(np.stack([image] * 500))
    pixels = (output[:, :1] * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert {shifted.tobytes() for shifted in pixels} == places


def test_each_image_is_mirrored_for_itself():
    """Below 8 pixels there is no shift: about half of 1000 equal images are mirrored."""
    images = np.tile(np.array([10, 20], np.uint8).reshape(1, 1, 2, 1), (1000, 2, 1, 3))
    torch.manual_seed(0)
    output = BatchTransform(2, ZERO, ONE, flip=True, augment="shift")(images) * 255
    left = output[:, 0, 0, 0].round()
    assert set(left.tolist()) == {10.0, 20.0}
    assert 400 < (left == 20).sum() < 600
    torch.testing.assert_close(output.sum(3), torch.full((1000, 3, 2), 30.0))


@pytest.mark.parametrize(("flip", "augment"), [(False, "shift"), (True, "none")])
def test_nothing_is_mirrored_unless_both_are_set(flip, augment):
    images = random_images(64, 4, 4, 3)
    output = BatchTransform(4, ZERO, ONE, flip=flip, augment=augment)(images)
    assert torch.equal(output, BatchTransform(4, ZERO, ONE)(images))


@pytest.mark.parametrize("augment", ["shift", "crop"])
def test_the_global_seed_repeats_an_augmentation(augment):
    transform = BatchTransform(16, ZERO, ONE, flip=True, augment=augment)
    images = random_images(8, 16, 16, 3)
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(transform(images))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_a_transform_without_augmentation_is_deterministic():
    assert BatchTransform(4, ZERO, ONE, flip=True).deterministic
    assert not BatchTransform(4, ZERO, ONE, augment="shift").deterministic
    assert not BatchTransform(4, ZERO, ONE, augment="crop").deterministic


def test_an_image_gives_the_same_bits_in_every_batch():
    images = random_images(9, 32, 32, 3)
    transform = BatchTransform(48, ZERO, ONE)
    batch = transform(images)
    for size in (1, 2, 5):
        assert torch.equal(transform(images[3 : 3 + size]), batch[3 : 3 + size])


@pytest.mark.parametrize(
    ("shape", "side"),
    [((8, 8), 32), ((32, 32), 96), ((40, 20), 24), ((64, 64), 7), ((130, 70), 96)],
)
def test_any_size_is_resized_as_torchvision_does(shape, side):
    images = random_images(3, *shape, 3)
    expected = functional.resize(
        torch.from_numpy(images).permute(0, 3, 1, 2) / 255, [side, side], antialias=True
    )
    torch.testing.assert_close(BatchTransform(side, ZERO, ONE)(images), expected)


def test_images_that_must_not_be_written_to_are_only_read(recwarn):
    images = random_images(2, 16, 16, 3)
    before = images.copy()
    images.flags.writeable = False
    BatchTransform(16, (0.5,) * 3, (0.5,) * 3, flip=True, augment="shift")(images)
    assert np.array_equal(images, before)
    assert not recwarn.list


def test_unknown_augmentation():
    with pytest.raises(DataError) as caught:
        BatchTransform(4, ZERO, ONE, augment="rotate")
    assert str(caught.value) == "augment: 'rotate' is not one of none, shift, crop."


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("augment", ["none", "shift", "crop"])
def test_a_gpu_gives_the_same_numbers(augment):
    images = random_images(8, 32, 32, 3)
    outputs = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        transform = BatchTransform(96, ZERO, ONE, augment=augment, flip=True, device=device)
        outputs.append(transform(images))
    assert outputs[1].is_cuda
    torch.testing.assert_close(outputs[1].cpu(), outputs[0], rtol=0, atol=1e-5)
