"""The order of an epoch: a permutation, or draws in which the classes are equally likely."""

import numpy as np
import pytest

from data import DataError, epoch_order

UNEVEN = np.repeat([0, 3, 7], [90, 9, 1])  # three of many classes


def test_shuffled_is_the_generators_permutation():
    order = epoch_order(UNEVEN, "shuffled", np.random.default_rng(5))
    assert np.array_equal(order, np.random.default_rng(5).permutation(100))


def test_balanced_classes_and_their_images_are_equally_likely():
    """30,000 draws: 10,000 of each class (deviation 82), 10,000 / n of each of its n images.

    The bounds are six deviations: of 111 draws (10.5), of 1,111 (32.7) and of 10,000 (81.6).
    """
    generator = np.random.default_rng(0)
    orders = [epoch_order(UNEVEN, "class-balanced", generator) for _ in range(300)]
    assert {len(order) for order in orders} == {100}
    drawn = np.bincount(np.concatenate(orders), minlength=100)
    assert np.abs(drawn[:90] - 10_000 / 90).max() < 6 * 10.5
    assert np.abs(drawn[90:99] - 10_000 / 9).max() < 6 * 32.7
    assert abs(drawn[99] - 10_000) < 6 * 81.6
    assert abs(drawn[:90].sum() - 10_000) < 6 * 81.6


def test_balanced_draws_repeat_with_the_generator():
    first, again, other = (
        epoch_order(UNEVEN, "class-balanced", np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_one_image_is_drawn():
    assert epoch_order(np.array([4]), "class-balanced", np.random.default_rng(0)).tolist() == [0]


def test_unknown_sampling():
    with pytest.raises(DataError) as caught:
        epoch_order(UNEVEN, "balanced", np.random.default_rng(0))
    assert str(caught.value) == "sampling: 'balanced' is not one of shuffled, class-balanced."
