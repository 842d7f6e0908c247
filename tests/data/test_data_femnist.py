"""FEMNIST from LEAF's JSON folders, from the hub's parquet files, and from the hub's cache."""

import io
import json

import numpy as np
import pytest
from hub import cache_as_downloaded, load_from_hub
from PIL import Image

from data import DataError, load_source, partition

NAMES = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def random_images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 28, 1), dtype=np.uint8)


def write_leaf(path, writers):
    """Write images and labels of each writer in LEAF's form: rows of levels from 0 to 1."""
    content = {
        "users": list(writers),
        "num_samples": [len(labels) for _, labels in writers.values()],
        "user_data": {
            writer: {"x": (images.reshape(-1, 784) / 255).tolist(), "y": list(labels)}
            for writer, (images, labels) in writers.items()
        },
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def load(path):
    return load_source("femnist", str(path), image_size=224)


def test_leaf_train_and_test(tmp_path):
    """Each part is the union of its files, in their order; owners are the writers."""
    images = random_images(8)
    write_leaf(tmp_path / "train" / "all_data_1.json", {"f2": (images[:3], [61, 0, 10])})
    write_leaf(
        tmp_path / "train" / "all_data_0.json",
        {"f9": (images[3:4], [35]), "f1": (images[4:6], [36, 9])},
    )
    write_leaf(tmp_path / "test" / "t.json", {"f1": (images[6:7], [5]), "f2": (images[7:], [6])})
    source = load(tmp_path)
    assert np.array_equal(source.train.images, images[[3, 4, 5, 0, 1, 2]])
    assert source.train.labels.tolist() == [35, 36, 9, 61, 0, 10]
    assert source.train.owners == ("f9", "f1", "f1", "f2", "f2", "f2")
    assert source.train.classes == tuple(NAMES)
    assert "".join(NAMES[label] for label in source.train.labels) == "Za9z0A"
    assert np.array_equal(source.test.images, images[6:])
    assert source.test.labels.tolist() == [5, 6]
    assert source.test.owners == ("f1", "f2")


def test_a_client_per_writer_in_the_order_of_their_names(tmp_path):
    images = random_images(6)
    write_leaf(
        tmp_path / "train" / "a.json",
        {"f2": (images[:2], [3, 4]), "f0": (images[2:4], [3, 5]), "f1": (images[4:], [5, 4])},
    )
    write_leaf(tmp_path / "test" / "a.json", {"f0": (images[:1], [3])})
    train = load(tmp_path).train
    parts = partition(train, "natural", 2)
    assert [train.labels[part].tolist() for part in parts] == [[3, 5], [5, 4]]


@pytest.mark.parametrize("folder", ["all_data", "train", "."])
def test_leaf_without_a_test_part_has_a_fifth_held_out(tmp_path, folder):
    """Ten images of each of two writers: eight and two."""
    write_leaf(
        tmp_path / folder / "a.json",
        {"f0": (random_images(10), [0] * 10), "f1": (random_images(10, 1), [1] * 10)},
    )
    source = load(tmp_path)
    for part, count in ((source.train, 8), (source.test, 2)):
        assert sorted(part.owners) == ["f0"] * count + ["f1"] * count
        assert np.bincount(part.labels).tolist() == [count, count]


def test_what_the_transform_learns_of_it(tmp_path):
    write_leaf(tmp_path / "a.json", {"f0": (random_images(5), [0] * 5)})
    source = load(tmp_path)
    assert not source.flip
    assert (source.crop_scale, source.mean, source.std) == ((0.05, 1.0), (0.1307,), (0.3081,))


def hub_table(images, labels, writers):
    """A table with the columns of flwrlabs/femnist."""
    import datasets

    columns = {
        "image": datasets.Image(),
        "writer_id": datasets.Value("string"),
        "hsf_id": datasets.Value("int64"),
        "character": datasets.ClassLabel(names=list(NAMES)),
    }
    return datasets.Dataset.from_dict(
        {
            "image": [Image.fromarray(image) for image in images[..., 0]],
            "writer_id": writers,
            "hsf_id": [0] * len(images),
            "character": labels,
        },
        features=datasets.Features(columns),
    )


def test_parquet_files_of_the_hub(tmp_path):
    """Two files, as a download of the repository has them below data/."""
    images, labels, writers = random_images(20), np.arange(20) % 2, ["f3", "f1"] * 10
    images[:, 0, 0, 0] = np.arange(20)  # the position of each image
    (tmp_path / "data").mkdir()
    for number, rows in enumerate((slice(0, 12), slice(12, 20))):
        table = hub_table(images[rows], labels[rows], writers[rows])
        table.to_parquet(tmp_path / "data" / f"train-0000{number}-of-00002.parquet")
    source = load(tmp_path)
    assert (len(source.train), len(source.test)) == (16, 4)
    for part in (source.train, source.test):
        positions = part.images[:, 0, 0, 0]
        assert np.array_equal(part.images, images[positions])
        assert np.array_equal(part.labels, labels[positions])
        assert part.owners == tuple(writers[position] for position in positions)
        assert part.classes == tuple(NAMES)


def test_offline_what_the_hub_gave_before_is_read_again(tmp_path):
    """Five equal images: whichever is held out is known."""
    image = random_images(1)
    table = hub_table(np.concatenate([image] * 5), [61] * 5, ["f0"] * 5)
    cache_as_downloaded("flwrlabs/femnist", {"train": table}, tmp_path)
    printed, errors, seconds = load_from_hub(["femnist"], tmp_path, HF_HUB_OFFLINE="1")
    assert printed == [f"{tuple(NAMES)} {np.array([61] * 4)} {image.sum()}"]
    assert "Traceback" not in errors
    assert seconds < 10


IMAGE = [0.5] * 784
FAULTY_USERS = {
    "does not hold x with 784 numbers per image and y with one label per image; write the file "
    "again.": [
        {"x": [[0.5] * 783], "y": [0]},
        {"x": [IMAGE, [0.5] * 783], "y": [0, 1]},
        {"x": [IMAGE], "y": [0, 1]},
        {"x": [IMAGE]},
        {"x": [], "y": []},
        {"x": [IMAGE], "y": 0},
        {"x": "img_00.png", "y": [0]},
        {"x": [[10**400] * 784], "y": [0]},
        [IMAGE],
    ],
    "has gray levels that are not from 0 to 1; divide them by the largest that can occur.": [
        {"x": [[255.0] * 784], "y": [0]},
        {"x": [[-0.1] * 784], "y": [0]},
        {"x": [[float("nan")] * 784], "y": [0]},
    ],
    "has labels that are not whole numbers from 0 to 61; write the file again.": [
        {"x": [IMAGE], "y": [62]},
        {"x": [IMAGE], "y": [-1]},
        {"x": [IMAGE], "y": [1.5]},
        {"x": [IMAGE], "y": ["A"]},
    ],
}


@pytest.mark.parametrize(
    ("sentence", "part"),
    [(sentence, part) for sentence, parts in FAULTY_USERS.items() for part in parts],
)
def test_a_faulty_user_is_named(tmp_path, sentence, part):
    (tmp_path / "a.json").write_text(json.dumps({"user_data": {"f7": part}}))
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert str(caught.value) == f"data-dir: user 'f7' of {tmp_path}/a.json {sentence}"


@pytest.mark.parametrize(
    "content",
    [b'{"user_data": {', b"\xff\xfe", b"[1, 2]", b"3", b'{"users": []}', b'{"user_data": [1]}'],
)
def test_a_file_of_another_form_is_named(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert str(caught.value) == (
        f"data-dir: {tmp_path}/a.json is damaged or not in LEAF's form, a JSON object with "
        "user_data; write it again."
    )


def test_folders_that_hold_nothing(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.json").write_text('{"user_data": {}}')
    for path, sentence in {
        tmp_path / "gone": f"data-dir: there is no folder {tmp_path}/gone; expected is a folder of "
        "LEAF's JSON files or of the hub's parquet files.",
        tmp_path: f"data-dir: {tmp_path}/train holds no .json files; put those of LEAF there.",
        tmp_path / "none": f"data-dir: the .json files in {tmp_path}/none name no user; write them "
        "again.",
    }.items():
        with pytest.raises(DataError) as caught:
            load(path)
        assert str(caught.value) == sentence


def test_faulty_parquet_files(tmp_path):
    import datasets

    def refusal():
        with pytest.raises(DataError) as caught:
            load(tmp_path)
        return str(caught.value)

    file = tmp_path / "a.parquet"
    unread = (
        f"data-dir: the parquet files in {tmp_path} are damaged or lack one of the columns image, "
        "writer_id, character; download flwrlabs/femnist again."
    )
    file.write_bytes(b"PAR1 and no more")
    assert refusal() == unread
    datasets.Dataset.from_dict({"image": [1], "character": [0]}).to_parquet(file)
    assert refusal() == unread
    hub_table(np.zeros((1, 28, 30, 1), np.uint8), [0], ["f0"]).to_parquet(file)
    assert refusal() == (
        f"data-dir: the images and labels in {tmp_path} cannot be read (an image has the size "
        "(30, 28), not (28, 28)); download flwrlabs/femnist again."
    )
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(png := io.BytesIO(), "PNG")
    row = {"image": [{"bytes": png.getvalue()}], "writer_id": ["f0"]}
    datasets.Dataset.from_dict(row | {"character": ["A"]}).to_parquet(file)
    assert "cannot be read (invalid literal" in refusal()
    datasets.Dataset.from_dict(row | {"character": [0], "image": [7]}).to_parquet(file)
    assert "cannot be read (" in refusal()
