"""Each mistake and the one sentence it gets, which says what is wrong and what to do."""

import numpy as np
import pytest
from PIL import Image

from data import DataError, ImageSet, load_source, partition, partition_test, split_client

PIXELS = np.zeros((6, 2, 2, 1), np.uint8)
LABELS = np.array([0, 0, 1, 1, 2, 2])
CLASSES = ("ape", "bee", "cat")
IMAGES = ImageSet(PIXELS, LABELS, CLASSES)
OWNED = ImageSet(PIXELS, LABELS, CLASSES, ("ann", "ann", "bob", "bob", "bob", "cem"))
LAYOUT = (
    "expected are images at class/image.png or at client/class/image.png below it, or such "
    "folders inside train/ and test/."
)

IMAGE_SET_MISTAKES = {
    "images must be uint8 of shape (N, H, W, 1 or 3), not float64 of shape (6, 2, 2, 1); convert "
    "them in the source.": (PIXELS.astype(float), LABELS, CLASSES),
    "images must be uint8 of shape (N, H, W, 1 or 3), not uint8 of shape (6, 2, 2); convert them "
    "in the source.": (PIXELS[..., 0], LABELS, CLASSES),
    "labels must be int64 of shape (6,), one per image, not int32 of shape (6,); convert them in "
    "the source.": (PIXELS, LABELS.astype(np.int32), CLASSES),
    "labels must be int64 of shape (6,), one per image, not int64 of shape (5,); convert them in "
    "the source.": (PIXELS, LABELS[1:], CLASSES),
    "labels run from 0 to 2, but 2 classes allow 0 to 1; correct the labels or the list of "
    "classes.": (PIXELS, LABELS, ("ape", "bee")),
    "a class is named twice in ('ape', 'ape', 'bee'); rename one of them.": (
        PIXELS,
        LABELS,
        ("ape", "ape", "bee"),
    ),
    "1 owners for 6 images; name one owner per image, or none at all.": (
        PIXELS,
        LABELS,
        CLASSES,
        ("ann",),
    ),
}

PARTITION_MISTAKES = {
    "partition: 'dirichelt' is not one of iid, dirichlet, dirichlet-equal, pathological, "
    "natural.": (
        (IMAGES, "dirichelt", 2),
        {},
    ),
    "num-clients: 0 must be 1 or more.": ((IMAGES, "iid", 0), {}),
    "num-clients: 4 clients need 2 images each and there are 6; lower num-clients to 3 or less.": (
        (IMAGES, "iid", 4),
        {},
    ),
    "alpha: 0 must be above 0 and finite.": ((IMAGES, "dirichlet", 2), {"alpha": 0}),
    "alpha: nan must be above 0 and finite.": ((IMAGES, "dirichlet", 2), {"alpha": float("nan")}),
    "partition: dirichlet cannot give each of 3 clients 2 images or more; raise alpha, or lower "
    "num-clients.": ((IMAGES.subset([0, 0, 0, 0, 2, 2]), "dirichlet", 3), {"alpha": 1e-6}),
    "partition: dirichlet-equal cannot give each of 2 clients 2 images or more; raise alpha.": (
        (IMAGES.subset([0, 0, 0, 2, 2]), "dirichlet-equal", 2),
        {"alpha": 1e-9, "seed": 1},
    ),
    "alpha: inf must be above 0 and finite.": (
        (IMAGES, "dirichlet-equal", 2),
        {"alpha": float("inf")},
    ),
    "classes-per-client: 4 must be 1 to 3, the number of classes with images.": (
        (IMAGES, "pathological", 2),
        {"classes_per_client": 4},
    ),
    "classes-per-client: 0 must be 1 to 3, the number of classes with images.": (
        (IMAGES, "pathological", 2),
        {"classes_per_client": 0},
    ),
    "partition: pathological cannot give each of 3 clients 2 images or more; lower num-clients or "
    "classes-per-client.": ((IMAGES, "pathological", 3), {"classes_per_client": 3}),
    'partition: natural needs images that name their owner, as dataset "femnist" has them, and '
    '"folder" in client/class folders; choose another partition.': ((IMAGES, "natural", 2), {}),
    "num-clients: 4 is more than the 3 owners in the data; lower num-clients to 3 or less.": (
        (OWNED, "natural", 4),
        {},
    ),
    "partition: natural gives client 'cem' 1 image, and a client needs 2 or more; add images to "
    "it, or remove it from the data.": ((OWNED, "natural", 3), {}),
}

SOURCE_MISTAKES = {
    "dataset: there is no source 'cifar'; did you mean cifar10 or cifar100?": ("cifar", ""),
    "dataset: there is no source 'Digits'; did you mean digits?": ("Digits", ""),
    'data-dir: dataset "digits" comes with scikit-learn and reads nothing from {tmp}; leave '
    'data-dir empty, or choose dataset "folder" for own images.': ("digits", "{tmp}"),
    "data-dir: {tmp}/no.npz is neither a folder that holds cifar-10-batches-py nor an .npz file; "
    "correct it, or leave it empty to load the data set from the Hugging Face hub.": (
        "cifar10",
        "{tmp}/no.npz",
    ),
    f'data-dir: dataset "folder" needs one; {LAYOUT}': ("folder", ""),
    f"data-dir: there is no folder {{tmp}}/gone; {LAYOUT}": ("folder", "{tmp}/gone"),
    f"data-dir: {{tmp}}/empty holds no images where they are looked for; {LAYOUT}": (
        "folder",
        "{tmp}/empty",
    ),
    "data-dir: images lie at two levels of {tmp}/mixed, such as {tmp}/mixed/ape/1.png and "
    "{tmp}/mixed/ann/bee/1.png; " + LAYOUT: ("folder", "{tmp}/mixed"),
    "data-dir: {tmp}/parted/test/eel/1.png is of a class that train/ does not show; rename or "
    "remove its folder.": ("folder", "{tmp}/parted"),
}

FILES = (
    "lonely/ape/1.png",
    "mixed/ape/1.png",
    "mixed/ann/bee/1.png",
    "parted/train/ape/1.png",
    "parted/train/bee/1.png",
    "parted/test/eel/1.png",
)


@pytest.mark.parametrize(("sentence", "fields"), IMAGE_SET_MISTAKES.items())
def test_image_set_mistake(sentence, fields):
    with pytest.raises(DataError) as caught:
        ImageSet(*fields)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(("sentence", "request_"), PARTITION_MISTAKES.items())
def test_partition_mistake(sentence, request_):
    arguments, options = request_
    with pytest.raises(DataError) as caught:
        partition(*arguments, **options)
    assert str(caught.value) == sentence


TEST_PART_MISTAKES = {
    "client-test: central needs a partition that divides two sets alike, which dirichlet does not; "
    "set partition to dirichlet-equal, or client-test to split.": (IMAGES, IMAGES, "dirichlet", 2),
    "client-test: central needs test images of the classes that are trained on, no more and no "
    "fewer; set client-test to split.": (IMAGES.subset([0, 1, 2, 3]), IMAGES, "pathological", 2),
    "num-clients: 4 clients need 2 images each and there are 6; lower num-clients to 3 or less.": (
        IMAGES,
        IMAGES,
        "iid",
        4,
    ),
    "client-test: central finds no test images of client 'cem'; set client-test to split.": (
        OWNED.subset([0, 2]),
        OWNED,
        "natural",
        3,
    ),
    "client-test: central finds no test images of client 'ann'; set client-test to split.": (
        IMAGES,
        OWNED,
        "natural",
        3,
    ),
}


@pytest.mark.parametrize(("sentence", "arguments"), TEST_PART_MISTAKES.items())
def test_test_part_mistake(sentence, arguments):
    with pytest.raises(DataError) as caught:
        partition_test(*arguments)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(("sentence", "source"), SOURCE_MISTAKES.items())
def test_source_mistake(tmp_path, sentence, source):
    (tmp_path / "empty").mkdir()
    for file in FILES:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / file)
    name, data_dir = source
    with pytest.raises(DataError) as caught:
        load_source(name, data_dir.format(tmp=tmp_path), image_size=4)
    assert str(caught.value) == sentence.format(tmp=tmp_path)


@pytest.mark.parametrize("share", [0, 1, -0.2, float("nan")])
def test_split_mistake(share):
    with pytest.raises(DataError) as caught:
        split_client(LABELS, share, seed=0)
    assert str(caught.value) == f"test-share: {share} must be above 0 and below 1."
