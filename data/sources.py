"""The registry of data sources: a name, as in the setting `dataset`, and its loader."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from .cifar import CIFAR10, CIFAR100, load_cifar
from .digits import load_digits
from .femnist import load_femnist
from .folder import load_folder
from .image_set import DataError, Source

SourceLoader = Callable[[str, int, int], Source]

_LOADERS: dict[str, SourceLoader] = {
    "digits": load_digits,
    "cifar10": partial(load_cifar, CIFAR10),
    "cifar100": partial(load_cifar, CIFAR100),
    "femnist": load_femnist,
    "folder": load_folder,
}


def source_names() -> tuple[str, ...]:
    """Return the names `load_source` knows."""
    return tuple(_LOADERS)


def register_source(name: str, loader: SourceLoader) -> None:
    """Add a data source, for `load_source` and the setting `dataset`.

    Parameters
    ----------
    name : str
        A name that is not taken yet.
    loader : callable
        ``loader(data_dir, image_size, seed)`` returns a `Source`: `data_dir` is the setting
        data-dir (empty if it is not set), `image_size` the side in pixels a model takes, to
        which images of unequal size are to be brought, and `seed` that of every random choice.
        A user's mistake is to be raised as `DataError`.

    Raises
    ------
    DataError
        If the name is taken.
    """
    if name in _LOADERS:
        raise DataError(f"dataset: a source '{name}' exists already; register another name.")
    _LOADERS[name] = loader


def load_source(name: str, data_dir: str = "", *, image_size: int, seed: int = 0) -> Source:
    """Load a data set, decoded once.

    Parameters
    ----------
    name : str
        One of `source_names`.
    data_dir : str
        Folder or file that holds the data; empty for the source's own place.
    image_size : int
        Side in pixels to which a source of unequal images brings them. Images of one size keep
        it: they take less memory, and `BatchTransform` resizes each batch.
    seed : int
        Seed of the central test set, where one has to be held out.

    Raises
    ------
    DataError
        For an unknown name, and for data that are missing or faulty.
    """
    if name not in _LOADERS:
        near = difflib.get_close_matches(name, _LOADERS, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"choose {', '.join(_LOADERS)}."
        raise DataError(f"dataset: there is no source '{name}'; {hint}")
    source = _LOADERS[name](data_dir, image_size, seed)
    if not len(source.train):
        raise DataError(f"dataset: '{name}' holds no images to train on; add some.")
    # An empty test part scores nothing: there is none.
    return source if source.test is None or len(source.test) else replace(source, test=None)
