"""ImageSet and Source: subsets, and labels in another order of classes."""

import numpy as np
import pytest

from data import DataError, ImageSet, Source


def three_images(owners=None):
    images = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1)
    return ImageSet(images, np.array([0, 1, 1]), ("cat", "dog"), owners)


def test_subset_takes_positions_in_order():
    part = three_images(owners=("ann", "bob", "cem")).subset([2, 0])
    assert part.images.ravel().tolist() == [2, 0]
    assert part.labels.tolist() == [1, 0]
    assert part.owners == ("cem", "ann")
    assert part.classes == ("cat", "dog")
    assert len(part) == 2


def test_subset_may_be_empty():
    assert len(three_images().subset([])) == 0


def test_sets_are_keys_of_caches():
    images = three_images()
    assert {images: 1}[images] == 1
    assert images != three_images()


def test_with_classes_counts_labels_in_the_given_order():
    source = Source(three_images(), three_images().subset([0]), flip=True)
    renamed = source.with_classes(("dog", "eel", "cat"))
    assert renamed.train.labels.tolist() == [2, 0, 0]
    assert renamed.test.labels.tolist() == [2]
    assert renamed.test.classes == ("dog", "eel", "cat")
    assert renamed.flip


def test_with_classes_refuses_a_class_it_would_lose():
    with pytest.raises(DataError, match="the data hold 'cat', which is not among dog, eel"):
        three_images().with_classes(("dog", "eel"))
