"""Seeded splits into a training and a test part in which every class keeps its share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .image_set import DataError, ImageSet

CENTRAL_TEST_SHARE = 0.2


def split_client(
    labels: np.ndarray, test_share: float, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split one client's examples into its training and its test part.

    Parameters
    ----------
    labels : np.ndarray
        ``(N,)`` labels of the client's examples.
    test_share : float
        Share of the test part, above 0 and below 1. The number is rounded up; both parts get at
        least one example if there are two.
    seed : int
        The same seed gives the same split.

    Returns
    -------
    tuple[np.ndarray, np.ndarray]
        Sorted positions of the training and of the test part, together 0 to N - 1. A class with
        few examples goes to the training part first.

    Raises
    ------
    DataError
        If the share is out of range.
    """
    return _stratified_split([np.asarray(labels)], test_share, seed)


def hold_out(images: ImageSet, seed: int) -> tuple[ImageSet, ImageSet]:
    """Split a data set without a test part: 80 % to train on and a central test set of 20 %.

    Every class keeps its share and, as far as that allows, so does every owner.
    """
    strata = [images.labels]
    if images.owners is not None:
        pairs = zip(images.owners, images.labels, strict=True)
        owned_classes = np.array([f"{owner}/{label}" for owner, label in pairs])
        strata = [np.asarray(images.owners), owned_classes, images.labels]
    train, test = _stratified_split(strata, CENTRAL_TEST_SHARE, seed)
    return images.subset(train), images.subset(test)


def _stratified_split(
    strata: Sequence[np.ndarray], test_share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Take the test part from the front of an order in which the strata are evenly mixed.

    The last stratification is the exact one; earlier ones decide where it leaves a choice.
    """
    if not 0 < test_share < 1:
        raise DataError(f"test-share: {test_share} must be above 0 and below 1.")
    total = len(strata[0])
    order = np.random.default_rng(seed).permutation(total)
    for values in strata:
        order = _spread(order, values)
    # A product such as 0.07 * 100 lies a rounding error above the whole number it stands for.
    wanted = math.ceil(test_share * total - 1e-9)
    num_test = max(0, min(max(1, wanted), total - 1))
    return np.sort(order[num_test:]), np.sort(order[:num_test])


def _spread(order: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Reorder examples so that every prefix holds about the same share of each stratum.

    The k-th of a stratum's n examples gets the depth (k + 1/2) / n, and the shallow ones come
    first; equal depths, and each stratum in itself, keep the given order.
    """
    codes = np.unique(strata[order], return_inverse=True)[1]
    grouped = np.argsort(codes, kind="stable")
    sizes = np.bincount(codes)
    ranks = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    depths = np.empty(len(order))
    depths[grouped] = (ranks + 0.5) / np.repeat(sizes, sizes)
    return order[np.argsort(depths, kind="stable")]
