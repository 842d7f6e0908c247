"""split_client: sizes, strata, seeds."""

import numpy as np
import pytest

from data import split_client


def test_every_class_keeps_its_share():
    """Of 50, 30 and 20 examples, a fifth is 10, 6 and 4."""
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    train, test = split_client(labels, 0.2, seed=0)
    assert np.bincount(labels[test]).tolist() == [10, 6, 4]
    assert np.bincount(labels[train]).tolist() == [40, 24, 16]


@pytest.mark.parametrize(
    ("total", "share", "num_test"),
    [(0, 0.2, 0), (1, 0.2, 0), (2, 0.01, 1), (2, 0.99, 1), (7, 0.2, 2), (100, 0.07, 7)],
)
def test_sizes(total, share, num_test):
    """The test part is rounded up, and neither part is empty from two examples on."""
    train, test = split_client(np.zeros(total, dtype=np.int64), share, seed=0)
    assert (len(train), len(test)) == (total - num_test, num_test)


@pytest.mark.parametrize("seed", range(5))
def test_parts_are_sorted_disjoint_and_complete(seed):
    labels = np.random.default_rng(seed).integers(0, 7, 123)
    train, test = split_client(labels, 0.3, seed=seed)
    assert np.all(np.diff(train) > 0)
    assert np.all(np.diff(test) > 0)
    assert sorted([*train, *test]) == list(range(123))


@pytest.mark.parametrize("seed", range(20))
def test_a_rare_class_is_trained_on(seed):
    """The only example of class 1 never goes to the test part, as class 0 can spare two."""
    labels = np.array([0] * 9 + [1])
    assert 9 in split_client(labels, 0.2, seed=seed)[0]


def test_the_seed_decides():
    labels = np.zeros(100, dtype=np.int64)
    first, again, other = (split_client(labels, 0.2, seed=seed)[1] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
