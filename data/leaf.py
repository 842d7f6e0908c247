"""JSON files as the benchmark LEAF writes them: the images of each user as lists of numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .image_set import DataError, ImageSet


def read_leaf(folder: Path, classes: tuple[str, ...], side: int) -> ImageSet:
    """Read all ``*.json`` of a folder, in the order of their names.

    Each holds ``{"user_data": {user: {"x": images, "y": labels}}}``: an image is a list of
    ``side * side`` gray levels from 0 to 1, row by row, a label a position in `classes`.

    Returns
    -------
    ImageSet
        Images ``(N, side, side, 1)``, owned by the users.

    Raises
    ------
    DataError
        If there is no such file, or one that holds something else.

    References
    ----------
    Caldas et al., "LEAF: A Benchmark for Federated Settings", 2018.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise DataError(f"data-dir: {folder} holds no .json files; put those of LEAF there.")
    images, labels, owners = [], [], []
    for path in files:
        for user, part in _users(path):
            levels, numbers = _arrays(part, f"user '{user}' of {path}", len(classes), side)
            images.append(np.rint(levels * 255).astype(np.uint8))
            labels.append(numbers)
            owners += [user] * len(numbers)
    if not owners:
        raise DataError(f"data-dir: the .json files in {folder} name no user; write them again.")
    return ImageSet(
        np.concatenate(images).reshape(-1, side, side, 1),
        np.concatenate(labels),
        classes,
        tuple(owners),
    )


def _users(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield each user of a file with what it holds of the user."""
    try:
        users = json.loads(path.read_bytes())["user_data"].items()
    # No JSON, no text, no such key, another type at the top or below it.
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DataError(
            f"data-dir: {path} is damaged or not in LEAF's form, a JSON object with user_data; "
            "write it again."
        ) from None
    yield from users


def _arrays(part: Any, place: str, num_classes: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a user's gray levels ``(N, side * side)`` and labels ``(N,)`` int64, checked."""
    try:
        levels = np.array(part["x"], dtype=np.float32)
        labels = np.array(part["y"])
        fits = labels.ndim == 1 and levels.shape == (len(labels), side * side) and len(labels) > 0
    except (KeyError, TypeError, ValueError, OverflowError):  # unequal lists, text, huge numbers
        fits = False
    if not fits:
        raise DataError(
            f"data-dir: {place} does not hold x with {side * side} numbers per image and y with "
            "one label per image; write the file again."
        )
    if not (levels.min() >= 0 and levels.max() <= 1):  # so that NaN fails, too
        raise DataError(
            f"data-dir: {place} has gray levels that are not from 0 to 1; divide them by the "
            "largest that can occur."
        )
    if labels.dtype.kind not in "iu" or not 0 <= labels.min() <= labels.max() < num_classes:
        raise DataError(
            f"data-dir: {place} has labels that are not whole numbers from 0 to "
            f"{num_classes - 1}; write the file again."
        )
    return levels, labels.astype(np.int64)
