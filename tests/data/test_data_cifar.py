"""CIFAR from .npz files, from torchvision's folder, and from the hub or what is left of it."""

import io
import pickle
import socket
from pathlib import Path

import numpy as np
import pytest
from hub import cache_as_downloaded, load_from_hub
from PIL import Image

from data import DataError, load_source

REPO = Path(__file__).parents[2]
SHARED = REPO.parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")


def random_images(count):
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def load(name, path):
    return load_source(name, str(path), image_size=224)


def test_npz_of_arrays(tmp_path):
    images, labels = random_images(5), np.array([0, 1, 2, 0, 1], dtype=np.uint8)
    np.savez(
        tmp_path / "some.npz",
        train_images=images[:3],
        train_labels=labels[:3],
        test_images=images[3:],
        test_labels=labels[3:],
        classes=["ape", "bee", "cat"],
    )
    source = load("cifar100", tmp_path / "some.npz")
    assert np.array_equal(source.train.images, images[:3])
    assert source.train.labels.tolist() == [0, 1, 2]
    assert np.array_equal(source.test.images, images[3:])
    assert source.test.labels.tolist() == [0, 1]
    assert source.test.classes == ("ape", "bee", "cat")
    assert source.flip


def write_encoded(path, images, labels):
    """Write images as PNG, which loses nothing, end to end."""
    files = []
    for image in images:
        Image.fromarray(image).save(buffer := io.BytesIO(), "PNG")
        files.append(buffer.getvalue())
    np.savez(
        path,
        bytes=np.frombuffer(b"".join(files), np.uint8),
        offsets=np.cumsum([0, *map(len, files)]),
        labels=labels,
        classes=["ape", "bee"],
    )


def test_npz_of_encoded_images_has_a_fifth_held_out(tmp_path):
    images = random_images(20)
    images[:, 0, 0, 0] = np.arange(20)  # the position of each image
    write_encoded(tmp_path / "some.npz", images, np.arange(20) % 2)
    source = load("cifar10", tmp_path / "some.npz")
    assert np.bincount(source.train.labels).tolist() == [8, 8]
    assert np.bincount(source.test.labels).tolist() == [2, 2]
    for part in (source.train, source.test):
        positions = part.images[:, 0, 0, 0]
        assert np.array_equal(part.images, images[positions])
        assert np.array_equal(part.labels, positions % 2)


def test_npz_with_a_broken_image(tmp_path):
    write_encoded(tmp_path / "some.npz", random_images(4), np.arange(4) % 2)
    arrays = dict(np.load(tmp_path / "some.npz"))
    arrays["bytes"][:10] = 0
    np.savez(tmp_path / "some.npz", **arrays)
    with pytest.raises(DataError, match=r"some\.npz cannot be decoded .*; write it again"):
        load("cifar10", tmp_path / "some.npz")


def test_npz_with_pickled_objects_is_refused(tmp_path):
    np.savez(tmp_path / "some.npz", train_images=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="damaged or holds more than plain arrays"):
        load("cifar10", tmp_path / "some.npz")


def test_npz_without_the_arrays_says_which(tmp_path):
    np.savez(tmp_path / "some.npz", x=[1], y=[2])
    with pytest.raises(DataError, match=r"must hold the arrays train_images, .* it holds x, y"):
        load("cifar10", tmp_path / "some.npz")


def check_statistics(source):
    """Hold them, which are of all images, against some images, lightly compressed."""
    pixels = source.train.images[::4] / 255
    np.testing.assert_allclose(source.mean, pixels.mean((0, 1, 2)), atol=0.005)
    np.testing.assert_allclose(source.std, pixels.std((0, 1, 2)), atol=0.005)


@needs_shared
def test_real_cifar100():
    source = load("cifar100", SHARED / "cifar100_13k.npz")
    assert source.train.images.shape == (10000, 32, 32, 3)
    assert set(np.bincount(source.train.labels)) == {100}
    assert set(np.bincount(source.test.labels)) == {30}
    assert source.train.classes[:2] == ("apple", "aquarium_fish")
    check_statistics(source)


@needs_shared
def test_real_cifar10():
    source = load("cifar10", SHARED / "cifar10_30k_jpeg.npz")
    assert source.train.images.shape == (24000, 32, 32, 3)
    assert len(source.test) == 6000
    check_statistics(source)


@pytest.mark.parametrize(("name", "folder"), [("cifar10", "cifar-10"), ("cifar100", "cifar-100")])
def test_a_folder_without_the_files(tmp_path, name, folder):
    with pytest.raises(DataError, match=f"{tmp_path} holds no {folder}-.*; unpack the original"):
        load(name, tmp_path)


class Bomb:
    """A pickle of this makes the file it is named after when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_an_altered_folder_is_never_unpickled(tmp_path):
    proof = tmp_path / "was-run"
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"):
        (folder / name).write_bytes(pickle.dumps(Bomb(proof)))
    with pytest.raises(DataError, match="incomplete or altered"):
        load("cifar10", tmp_path)
    assert not proof.exists()


def refusal(reason):
    return (
        f"dataset: uoft-cs/cifar10 cannot be loaded from the Hugging Face hub ({reason}); connect "
        "this machine to the network, set data-dir to a folder that holds cifar-10-batches-py or "
        'to an .npz file, or choose dataset "digits".'
    )


def test_hub_that_does_not_answer(tmp_path):
    """The server accepts the connection and keeps silent: the refusal comes within seconds."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        printed, errors, seconds = load_from_hub(["cifar10"], tmp_path, HF_ENDPOINT=address)
    assert printed == [refusal("ReadTimeout")]
    assert errors == ""
    assert seconds < 20


def test_offline_what_the_hub_gave_before_is_read_again(tmp_path):
    """CIFAR-100, with the hub's columns, lies where a download puts it; the others do not."""
    import datasets

    images = random_images(4)
    columns = {"img": datasets.Image(), "fine_label": datasets.ClassLabel(names=["ape", "bee"])}
    table = datasets.Dataset.from_dict(
        {"img": list(images), "fine_label": [1, 0, 0, 1]}, features=datasets.Features(columns)
    )
    cache_as_downloaded("uoft-cs/cifar100", {"train": table, "test": table}, tmp_path)
    printed, errors, seconds = load_from_hub(
        ["cifar100", "cifar10", "femnist"], tmp_path, HF_HUB_OFFLINE="1"
    )
    assert printed == [
        f"('ape', 'bee') [1 0 0 1] {images.sum()}",
        refusal("OfflineModeIsEnabled"),
        "dataset: flwrlabs/femnist cannot be loaded from the Hugging Face hub "
        "(OfflineModeIsEnabled); connect this machine to the network, set data-dir to a folder of "
        "LEAF's JSON files or of the hub's parquet files, or choose dataset \"digits\".",
    ]
    assert "Traceback" not in errors
    assert seconds < 10
