"""The digits, and the registry of sources."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from data import DataError, load_source, register_source, source_names


def test_digits_keep_their_pixels():
    """Every image is one of scikit-learn's, its levels 0..16 spread over 0..255."""
    source = load_source("digits", image_size=224)
    assert source.train.images.shape == (1437, 8, 8, 1)
    assert len(source.test) == 360
    ours = np.concatenate([source.train.images, source.test.images]).reshape(1797, 64)
    assert sorted(np.rint(ours * (16 / 255)).sum(1)) == sorted(load_digits().data.sum(1))
    assert (ours.min(), ours.max()) == (0, 255)


def test_the_test_part_of_the_digits_is_stratified():
    """Each digit has 174 to 183 images, of which a fifth is 35 to 37."""
    source = load_source("digits", image_size=8)
    assert set(np.bincount(source.test.labels)) <= {35, 36, 37}
    assert source.test.classes == tuple("0123456789")
    assert not source.flip


def test_the_seed_decides_what_is_held_out():
    first, again, other = (load_source("digits", image_size=8, seed=s).test for s in (0, 0, 1))
    assert np.array_equal(first.images, again.images)
    assert not np.array_equal(first.images, other.images)


def test_built_in_names():
    assert source_names()[:5] == ("digits", "cifar10", "cifar100", "femnist", "folder")


def test_a_name_is_registered_once():
    with pytest.raises(DataError, match="a source 'digits' exists already"):
        register_source("digits", lambda data_dir, image_size, seed: None)
