"""FEMNIST, characters by many writers: from the Hugging Face hub, its files, or LEAF's JSON."""

from __future__ import annotations

import io
import string
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .hub import load_hub_splits
from .image_set import DataError, ImageSet, Source
from .leaf import read_leaf
from .split import hold_out

HUB_ID = "flwrlabs/femnist"
COLUMNS = ("image", "writer_id", "character")
CLASSES = (*string.digits, *string.ascii_uppercase, *string.ascii_lowercase)
SIDE = 28  # pixels
FORMS = "a folder of LEAF's JSON files or of the hub's parquet files"


def load_femnist(data_dir: str, image_size: int, seed: int) -> Source:
    """Load ``(N, 28, 28, 1)`` images whose owners are the writers.

    Parameters
    ----------
    data_dir : str
        A folder of LEAF: ``train/*.json`` and ``test/*.json``, else ``all_data/*.json``, else
        ``*.json``. Or a folder that holds the hub's parquet files at any depth. If it is empty
        the hub is asked.
    image_size : int
        Not used: all images have one size.
    seed : int
        Seed of the test part, a fifth, that is held out where there is none.

    Returns
    -------
    Source
        The test part of LEAF holds the test images of all writers.

    Raises
    ------
    DataError
        If the hub cannot be reached, or `data_dir` holds none of these forms or faulty files.

    References
    ----------
    Caldas et al., "LEAF: A Benchmark for Federated Settings", 2018.
    """
    train, test = _load_parts(data_dir)
    if test is None:
        train, test = hold_out(train, seed)
    # The statistics are MNIST's: published FEMNIST protocols use them, although its paper is
    # white and its ink black.
    return Source(train, test, flip=False, crop_scale=(0.05, 1.0), mean=(0.1307,), std=(0.3081,))


def _load_parts(data_dir: str) -> tuple[ImageSet, ImageSet | None]:
    """Return the training part and, where the form has one, the test part."""
    if not data_dir:
        splits = load_hub_splits(HUB_ID, FORMS)
        return _from_table(splits["train"].with_format("arrow")[:], HUB_ID), None
    root = Path(data_dir).expanduser()
    if not root.is_dir():
        raise DataError(f"data-dir: there is no folder {root}; expected is {FORMS}.")
    if files := sorted(root.rglob("*.parquet")):
        return _from_parquet(root, files), None
    if not (root / "train").is_dir():
        all_data = root / "all_data"
        return read_leaf(all_data if all_data.is_dir() else root, CLASSES, SIDE), None
    train, test = root / "train", root / "test"
    return (
        read_leaf(train, CLASSES, SIDE),
        read_leaf(test, CLASSES, SIDE) if test.is_dir() else None,
    )


def _from_parquet(root: Path, files: list[Path]) -> ImageSet:
    from pyarrow import ArrowException, parquet

    try:
        table = parquet.read_table(files, columns=list(COLUMNS))
    except (ArrowException, OSError):
        raise DataError(
            f"data-dir: the parquet files in {root} are damaged or lack one of the columns "
            f"{', '.join(COLUMNS)}; download {HUB_ID} again."
        ) from None
    return _from_table(table, str(root))


def _from_table(table: Any, place: str) -> ImageSet:
    """Decode a pyarrow table with the hub's columns, in which images are encoded files."""
    images = np.empty((len(table), SIDE, SIDE, 1), dtype=np.uint8)
    try:
        for row, image in enumerate(table["image"]):
            images[row, :, :, 0] = _decode(image["bytes"].as_py())
        labels = np.asarray(table["character"], dtype=np.int64)
        writers = tuple(map(str, table["writer_id"].to_pylist()))
    # Pillow's errors, another size, another type of a column.
    except (OSError, SyntaxError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"data-dir: the images and labels in {place} cannot be read ({error}); download "
            f"{HUB_ID} again."
        ) from None
    return ImageSet(images, labels, CLASSES, writers)


def _decode(encoded: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(encoded)) as picture:
        if picture.size != (SIDE, SIDE):
            raise ValueError(f"an image has the size {picture.size}, not {(SIDE, SIDE)}")
        return np.asarray(picture.convert("L"))
