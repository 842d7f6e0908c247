"""Partitions: what each kind promises, and that none loses or repeats an image."""

import time
import warnings

import numpy as np
import pytest

from data import PARTITIONS, ImageSet, load_source, partition, partition_test

OWNERS = ("dan", "ann", "cem", "bob")


def image_set(labels, owners=None):
    """Images of one pixel each; a partition looks at labels and owners only."""
    labels = np.asarray(labels, dtype=np.int64)
    classes = tuple(f"class {number}" for number in range(labels.max() + 1))
    return ImageSet(np.zeros((len(labels), 1, 1, 1), np.uint8), labels, classes, owners)


@pytest.fixture(scope="module")
def thousand():
    """Ten classes of a hundred images, sorted by class, of four owners in turns."""
    return image_set(np.repeat(np.arange(10), 100), OWNERS * 250)


def skew(images, parts):
    """Mean over the clients of the share of a client's largest class."""
    return np.mean([np.bincount(images.labels[part]).max() / len(part) for part in parts])


@pytest.mark.parametrize("kind", PARTITIONS)
def test_no_image_is_lost_or_has_two_clients(thousand, kind):
    num_clients = 4 if kind == "natural" else 20
    parts = partition(thousand, kind, num_clients)
    assert len(parts) == num_clients
    assert all(np.all(np.diff(part) > 0) for part in parts)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(1000))


@pytest.mark.parametrize("kind", PARTITIONS[:4])
def test_the_seed_decides(thousand, kind):
    first, again, other = (partition(thousand, kind, 10, seed=seed) for seed in (3, 3, 4))
    assert all(map(np.array_equal, first, again))
    assert not all(map(np.array_equal, first, other))


def test_iid_parts_are_equal_and_mixed(thousand):
    """1000 images on 7 clients: six 143 and one 142; each class is near its 14.3."""
    parts = partition(thousand, "iid", 7)
    assert sorted(map(len, parts)) == [142] + [143] * 6
    counts = [np.bincount(thousand.labels[part], minlength=10) for part in parts]
    assert 3 < np.min(counts) <= np.max(counts) < 29


def test_dirichlet_tends_to_equal_shares_as_alpha_grows(thousand):
    """At a huge alpha each of five clients gets a fifth of every class: 20 of 100."""
    for part in partition(thousand, "dirichlet", 5, alpha=1e8):
        assert np.abs(np.bincount(thousand.labels[part]) - 20).max() <= 1


def test_dirichlet_is_more_uneven_at_a_smaller_alpha(thousand):
    skews = [skew(thousand, partition(thousand, "dirichlet", 10, alpha=a)) for a in (0.1, 1, 100)]
    assert skews[0] > skews[1] + 0.1 > skews[2] + 0.2


def test_dirichlet_gives_every_client_two_images(thousand):
    smallest = [min(map(len, partition(thousand, "dirichlet", 50, seed=s))) for s in range(5)]
    assert min(smallest) >= 2


def test_dirichlet_is_quick():
    digits = load_source("digits", image_size=8).train
    partition(digits, "iid", 2)  # the libraries' imports
    start = time.perf_counter()
    partition(digits, "dirichlet", 20)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("classes_per_client", [1, 2, 5, 10])
def test_pathological_gives_exactly_so_many_classes(thousand, classes_per_client):
    parts = partition(thousand, "pathological", 20, classes_per_client=classes_per_client)
    assert [len(np.unique(thousand.labels[part])) for part in parts] == [classes_per_client] * 20
    assert all(client % 10 in thousand.labels[part] for client, part in enumerate(parts))


def test_pathological_divides_a_class_among_its_clients():
    """One class each: clients 0 and 2 halve class 0, clients 1 and 3 class 1."""
    images = image_set([0] * 6 + [1] * 10)
    parts = partition(images, "pathological", 4, classes_per_client=1)
    assert [len(part) for part in parts] == [3, 5, 3, 5]


def test_pathological_names_the_classes_of_no_client():
    images = image_set([0, 0, 1, 1, 2, 2])
    with pytest.warns(UserWarning, match=r"no client has images of the class class 2\."):
        partition(images, "pathological", 2, classes_per_client=1)


def test_natural_gives_owners_in_the_order_of_their_names():
    """Owners by position: dan 0 4, ann 1 5, cem 2 6, bob 3 7."""
    images = image_set([0] * 8, OWNERS * 2)
    expected = {"ann": [1, 5], "bob": [3, 7], "cem": [2, 6], "dan": [0, 4]}
    parts = partition(images, "natural", 4)
    assert [part.tolist() for part in parts] == list(expected.values())


def test_natural_with_fewer_clients_takes_the_first_owners():
    images = image_set([0] * 9, (*OWNERS, *OWNERS, "zoe"))
    parts = partition(images, "natural", 2)
    assert [part.tolist() for part in parts] == [[1, 5], [3, 7]]


def test_the_libraries_keep_quiet(thousand, capfd):
    """With this seed the Dirichlet draw is repeated ten times, each with a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        partition(thousand, "dirichlet", 20, alpha=0.05, seed=2)
        partition(thousand, "natural", 4)
    assert capfd.readouterr() == ("", "")


def test_equal_parts_have_one_size(thousand):
    """1000 images on 7 clients: six 143 and one 142, however uneven the classes."""
    parts = partition(thousand, "dirichlet-equal", 7, alpha=0.1)
    assert sorted(map(len, parts)) == [142] + [143] * 6
    assert skew(thousand, parts) > 0.4


def distances(shares, others):
    """Mean distance of each client's shares of the classes to its own, and to the next client's."""
    next_ones = np.roll(others, 1, axis=0)
    return np.abs(shares - others).sum(1).mean(), np.abs(shares - next_ones).sum(1).mean()


def class_shares(images, parts):
    return np.array([np.bincount(images.labels[part], minlength=10) / len(part) for part in parts])


def test_equal_parts_follow_the_class_chances(thousand):
    """The chances are the first numbers of the seed; towards the end classes are used up."""
    parts = partition(thousand, "dirichlet-equal", 10, alpha=1.0, seed=3)
    chances = np.random.default_rng(3).dirichlet([1.0] * 10, size=10)
    own, others = distances(class_shares(thousand, parts), chances)
    assert own < 0.45 < 0.8 < others


def test_equal_parts_tend_to_equal_shares_as_alpha_grows(thousand):
    """100 draws of ten equal classes: ten of each, with a standard deviation of three."""
    counts = 100 * class_shares(thousand, partition(thousand, "dirichlet-equal", 10, alpha=1e8))
    assert 2 < counts.min() <= counts.max() < 22


def test_equal_parts_need_no_image_of_every_class():
    """Classes 1 and 3 have none: the labels are not those from 0 on."""
    images = image_set([0] * 50 + [2] * 50 + [4] * 50)
    parts = partition(images, "dirichlet-equal", 5, alpha=0.5)
    assert [len(part) for part in parts] == [30] * 5
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(150))


@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_a_clients_test_images_are_of_its_own_classes(thousand, alpha):
    """Equal parts of 5 to 1: the same chances, so about the same shares of every class."""
    test = image_set(np.repeat(np.arange(10), 20))
    options = {"alpha": alpha, "seed": 2}
    held = partition(thousand, "dirichlet-equal", 20, **options)
    parts = partition_test(test, thousand, "dirichlet-equal", 20, **options)
    assert [len(part) for part in parts] == [10] * 20
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(200))
    own, others = distances(class_shares(thousand, held), class_shares(test, parts))
    assert own < 0.6 * others


def test_test_images_of_pathological_clients_are_of_their_classes(thousand):
    test = image_set(np.repeat(np.arange(10), 20))
    own = partition(thousand, "pathological", 20, classes_per_client=3, seed=5)
    parts = partition_test(test, thousand, "pathological", 20, classes_per_client=3, seed=5)
    for train_part, test_part in zip(own, parts, strict=True):
        assert {*thousand.labels[train_part]} == {*test.labels[test_part]}


def test_test_images_of_owners_are_their_own():
    """Three of four owners take part; bob has one test image, zoe has no training image."""
    train = image_set([0] * 8, OWNERS * 2)
    test = image_set([0] * 6, ("zoe", "cem", "ann", "dan", "bob", "ann"))
    assert [p.tolist() for p in partition_test(test, train, "natural", 3)] == [[2, 5], [4], [1]]
