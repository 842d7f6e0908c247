"""In which order a client's images are trained on."""

from __future__ import annotations

import numpy as np

from .image_set import DataError

SAMPLINGS = ("shuffled", "class-balanced")


def epoch_order(labels: np.ndarray, sampling: str, generator: np.random.Generator) -> np.ndarray:
    """Draw the positions of an epoch.

    Parameters
    ----------
    labels : np.ndarray
        ``(N,)`` labels of the images, at least one.
    sampling : str
        ``shuffled``: every image once. ``class-balanced``: as many draws with replacement, in
        which every class that is present is equally likely, and every image of a class.
    generator : np.random.Generator
        Where the numbers come from.

    Returns
    -------
    np.ndarray
        ``(N,)`` int64, positions in `labels`.

    Raises
    ------
    DataError
        For an unknown kind of sampling.
    """
    if sampling == "shuffled":
        return generator.permutation(len(labels))
    if sampling != "class-balanced":
        raise DataError(f"sampling: '{sampling}' is not one of {', '.join(SAMPLINGS)}.")
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    chances = 1 / (len(counts) * counts[classes])
    return generator.choice(len(labels), size=len(labels), p=chances)
