"""Image folders in every layout, written as real files."""

import numpy as np
import pytest
from PIL import Image

from data import DataError, load_source, partition

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def write(path, color=RED, size=(8, 8), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)


def write_classes(root, counts, color=RED):
    for name, count in counts.items():
        for number in range(count):
            write(root / name / f"{number}.png", color)


def load(root, image_size=8, seed=0):
    return load_source("folder", str(root), image_size=image_size, seed=seed)


def test_class_folders_and_a_fifth_held_out(tmp_path):
    """Of 20 dogs and 10 cats, 4 and 2 are held out; classes are sorted."""
    write_classes(tmp_path, {"dog": 20, "cat": 10})
    source = load(tmp_path)
    assert source.train.classes == ("cat", "dog")
    assert np.bincount(source.train.labels).tolist() == [8, 16]
    assert np.bincount(source.test.labels).tolist() == [2, 4]
    assert source.train.owners is None
    assert source.flip


def test_client_folders_name_the_owners(tmp_path):
    """bob has no cat: the classes are those of all clients together."""
    write_classes(tmp_path / "ann", {"cat": 10, "dog": 10})
    write_classes(tmp_path / "bob", {"dog": 20, "eel": 10})
    source = load(tmp_path)
    assert source.train.classes == ("cat", "dog", "eel")
    assert np.bincount(source.test.labels).tolist() == [2, 6, 2]
    ann, bob = partition(source.train, "natural", 2)
    assert (len(ann), len(bob)) == (16, 24)
    assert set(source.train.labels[ann]) == {0, 1}


def test_a_small_client_keeps_images_to_train_on(tmp_path):
    """The two images of bob stay together where ann has enough to hold out."""
    write_classes(tmp_path / "ann", {"cat": 20, "dog": 20})
    write_classes(tmp_path / "bob", {"cat": 1, "dog": 1})
    for seed in range(10):
        train = load(tmp_path, seed=seed).train
        assert len(partition(train, "natural", 2)[1]) == 2


def test_what_is_held_out_is_spread_over_the_clients(tmp_path):
    """40 clients with one image of each of five classes: none gives more than two of its five."""
    for number in range(40):
        write_classes(tmp_path / f"client {number}", dict.fromkeys("abcde", 1))
    for seed in range(3):
        test = load(tmp_path, seed=seed).test
        assert np.bincount(test.labels).tolist() == [8] * 5
        assert max(map(test.owners.count, test.owners)) == 2


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_a_test_part_of_its_own(tmp_path, held_out):
    write_classes(tmp_path / "train", {"cat": 3, "dog": 2})
    write_classes(tmp_path / held_out, {"dog": 1})
    source = load(tmp_path)
    assert np.bincount(source.train.labels).tolist() == [3, 2]
    assert source.test.labels.tolist() == [1]
    assert source.test.classes == ("cat", "dog")


def test_client_folders_inside_train(tmp_path):
    write_classes(tmp_path / "train" / "ann", {"cat": 2, "dog": 1})
    write_classes(tmp_path / "test", {"cat": 1})
    source = load(tmp_path)
    assert source.train.owners == ("ann",) * 3
    assert source.test.owners is None


def test_train_alone_has_its_test_part_held_out(tmp_path):
    write_classes(tmp_path / "train", {"cat": 5, "dog": 5})
    source = load(tmp_path)
    assert (len(source.train), len(source.test)) == (8, 2)


def test_train_is_a_class_beside_other_classes(tmp_path):
    write_classes(tmp_path, {"car": 3, "train": 3})
    assert load(tmp_path).train.classes == ("car", "train")


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "bmp", "webp", "ppm", "PNG"])
def test_formats(tmp_path, suffix):
    write(tmp_path / "cat" / f"1.{suffix}", RED)
    write(tmp_path / "dog" / f"1.{suffix}", BLUE)
    source = load(tmp_path)
    images = np.concatenate([source.train.images, source.test.images])
    labels = np.concatenate([source.train.labels, source.test.labels])
    expected = np.array([RED, BLUE])[labels].reshape(2, 1, 1, 3)
    assert np.abs(images.astype(int) - expected).max() <= 3  # the lossy formats


def test_the_middle_of_a_long_image_is_kept(tmp_path):
    """Of two red, four green and two blue columns, a square shows the green ones."""
    for name in ("cat", "dog"):
        image = Image.new("RGB", (8, 4), GREEN)
        image.paste(RED, (0, 0, 2, 4))
        image.paste(BLUE, (6, 0, 8, 4))
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "1.png")
    images = load(tmp_path, image_size=4).train.images
    assert images.shape == (1, 4, 4, 3)
    assert np.all(images == GREEN)


def test_unequal_images_are_brought_to_one_size(tmp_path):
    write(tmp_path / "cat" / "1.png", GREEN, size=(31, 57))
    write(tmp_path / "dog" / "1.png", 255, size=(5, 3), mode="L")
    source = load(tmp_path, image_size=16)
    assert source.train.images.shape == source.test.images.shape == (1, 16, 16, 3)
    for part in (source.train, source.test):
        assert np.all(part.images == (GREEN if part.labels[0] == 0 else (255, 255, 255)))


def test_a_camera_s_rotation_is_applied(tmp_path):
    """Orientation 3 is upside down: red above blue is shown as blue above red."""
    exif = Image.Exif()
    exif[0x0112] = 3
    for name in ("cat", "dog"):
        image = Image.new("RGB", (4, 4), RED)
        image.paste(BLUE, (0, 2, 4, 4))
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "1.png", exif=exif)
    image = load(tmp_path, image_size=4).train.images[0]
    assert np.all(image[:2] == BLUE)
    assert np.all(image[2:] == RED)


def test_hidden_and_other_files_are_left_out(tmp_path):
    write_classes(tmp_path, {"cat": 5, "dog": 5, ".trash": 5})
    write(tmp_path / "cat" / "._1.png")
    write(tmp_path / "preview.png")
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    source = load(tmp_path)
    assert source.train.classes == ("cat", "dog")
    assert len(source.train) + len(source.test) == 10


def test_an_unreadable_image_is_named(tmp_path):
    write_classes(tmp_path, {"cat": 3, "dog": 3})
    bad = tmp_path / "dog" / "1.png"
    bad.write_bytes(bad.read_bytes()[:40])
    with pytest.raises(DataError, match=rf"{bad} cannot be read as an image .*; replace or remove"):
        load(tmp_path)


def test_a_deep_image_is_refused_rather_than_cut_off(tmp_path):
    write_classes(tmp_path, {"cat": 3, "dog": 3})
    write(tmp_path / "dog" / "1.png", 40000, mode="I;16")
    with pytest.raises(DataError, match="more than 8 bits per channel"):
        load(tmp_path)
