"""CIFAR-10 and CIFAR-100, from the Hugging Face hub, torchvision's folder or an .npz file."""

from __future__ import annotations

import io
import itertools
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .image_set import DataError, ImageSet, Source
from .split import hold_out

HUB_TIMEOUT = 5.0  # seconds


@dataclass(frozen=True)
class Cifar:
    """Where one of the two data sets lies, and how its parts are called there."""

    hub_id: str
    label_column: str
    torchvision_class: str
    folder: str


CIFAR10 = Cifar("uoft-cs/cifar10", "label", "CIFAR10", "cifar-10-batches-py")
CIFAR100 = Cifar("uoft-cs/cifar100", "fine_label", "CIFAR100", "cifar-100-python")

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels", "classes")
ENCODED = ("bytes", "offsets", "labels", "classes")


def load_cifar(cifar: Cifar, data_dir: str, image_size: int, seed: int) -> Source:
    """Load ``(N, 32, 32, 3)`` images, from the hub if `data_dir` is empty.

    Raises
    ------
    DataError
        If the hub cannot be reached, or `data_dir` holds none of the known forms.
    """
    if not data_dir:
        return _from_hub(cifar)
    path = Path(data_dir).expanduser()
    if path.is_dir():
        return _from_torchvision(cifar, path)
    if zipfile.is_zipfile(path):
        return _from_npz(path, seed)
    raise DataError(
        f"data-dir: {path} is neither a folder that holds {cifar.folder} nor an .npz file; correct "
        "it, or leave it empty to load the data set from the Hugging Face hub."
    )


def _from_hub(cifar: Cifar) -> Source:
    splits = _hub_splits(cifar)
    train, test = (
        ImageSet(
            _pixels(split["img"]),
            np.asarray(split[cifar.label_column], dtype=np.int64),
            tuple(split.features[cifar.label_column].names),
        )
        for split in (splits["train"], splits["test"])
    )
    return Source(train, test, flip=True)


def _hub_splits(cifar: Cifar) -> Any:
    """Return the hub's ``DatasetDict``: what an earlier run downloaded, else from the network."""
    from datasets import load_dataset
    from datasets.packaged_modules.cache.cache import Cache
    from huggingface_hub import HfApi

    name = cifar.hub_id.split("/")[1]
    try:
        return Cache(
            dataset_name=name, repo_id=cifar.hub_id, version="auto", hash="auto"
        ).as_dataset()
    except ValueError:
        pass  # It was never downloaded.
    try:
        # load_dataset alone would try an unreachable hub for half a minute.
        HfApi().dataset_info(cifar.hub_id, timeout=HUB_TIMEOUT)
        return load_dataset(cifar.hub_id)
    except Exception as error:  # Whatever the hub's library and its HTTP client raise.
        raise DataError(
            f"dataset: {cifar.hub_id} cannot be loaded from the Hugging Face hub "
            f"({type(error).__name__}); connect this machine to the network, set data-dir to a "
            f'folder that holds {cifar.folder} or to an .npz file, or choose dataset "digits".'
        ) from None


def _from_torchvision(cifar: Cifar, root: Path) -> Source:
    from torchvision import datasets

    try:
        # The files are pickles, which could run code when read. torchvision compares the MD5 sums
        # of all of them (`_check_integrity`, `_load_meta`) with the published ones before it
        # opens one, so that nothing but the published data set is ever unpickled.
        parts = [
            getattr(datasets, cifar.torchvision_class)(root, train=train, download=False)
            for train in (True, False)
        ]
    except RuntimeError:
        raise DataError(
            f"data-dir: {root} holds no {cifar.folder}, or one that is incomplete or altered; "
            "unpack the original archive there."
        ) from None
    train, test = (
        ImageSet(
            np.ascontiguousarray(part.data),
            np.asarray(part.targets, dtype=np.int64),
            tuple(part.classes),
        )
        for part in parts
    )
    return Source(train, test, flip=True)


def _from_npz(path: Path, seed: int) -> Source:
    """Read one of two forms: arrays of both parts, or encoded images without a test part."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception:  # What numpy, zip and zlib raise for damaged files and for pickled objects.
        raise DataError(
            f"data-dir: {path} is damaged or holds more than plain arrays; write it again with "
            "numpy.savez."
        ) from None
    if arrays.keys() >= set(ARRAYS):
        classes = tuple(map(str, arrays["classes"]))
        train, test = (
            ImageSet(arrays[f"{part}_images"], arrays[f"{part}_labels"].astype(np.int64), classes)
            for part in ("train", "test")
        )
    elif arrays.keys() >= set(ENCODED):
        train, test = hold_out(_decode(path, arrays), seed)
    else:
        raise DataError(
            f"data-dir: {path} must hold the arrays {', '.join(ARRAYS)}, or for encoded images "
            f"{', '.join(ENCODED)}; it holds {', '.join(arrays) or 'none'}."
        )
    return Source(train, test, flip=True)


def _decode(path: Path, arrays: dict[str, np.ndarray]) -> ImageSet:
    """Decode images that lie end to end in one array: image i from offset i to offset i + 1."""
    encoded, offsets = arrays["bytes"].tobytes(), arrays["offsets"].tolist()
    pictures = (
        Image.open(io.BytesIO(encoded[start:end])) for start, end in itertools.pairwise(offsets)
    )
    try:
        images = _pixels(pictures)
    except (OSError, ValueError, SyntaxError) as error:  # Pillow's errors, and unequal sizes.
        raise DataError(
            f"data-dir: the images in {path} cannot be decoded ({error}); write it again."
        ) from None
    return ImageSet(images, arrays["labels"].astype(np.int64), tuple(map(str, arrays["classes"])))


def _pixels(pictures: Iterable[Image.Image]) -> np.ndarray:
    """Return RGB pixels, ``(N, H, W, 3)`` uint8, of pictures of one size."""
    return np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
