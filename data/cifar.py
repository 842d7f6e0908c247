"""CIFAR-10 and CIFAR-100, from the Hugging Face hub, torchvision's folder or an .npz file."""

from __future__ import annotations

import io
import itertools
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from .hub import load_hub_splits
from .image_set import DataError, ImageSet, Source
from .split import hold_out


@dataclass(frozen=True)
class Cifar:
    """Where one of the two data sets lies, how its parts are called there, and its statistics."""

    hub_id: str
    label_column: str
    torchvision_class: str
    folder: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


CIFAR10 = Cifar(
    "uoft-cs/cifar10",
    "label",
    "CIFAR10",
    "cifar-10-batches-py",
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)
CIFAR100 = Cifar(
    "uoft-cs/cifar100",
    "fine_label",
    "CIFAR100",
    "cifar-100-python",
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
)

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels", "classes")
ENCODED = ("bytes", "offsets", "labels", "classes")


def load_cifar(cifar: Cifar, data_dir: str, image_size: int, seed: int) -> Source:
    """Load ``(N, 32, 32, 3)`` images, from the hub if `data_dir` is empty.

    Raises
    ------
    DataError
        If the hub cannot be reached, or `data_dir` holds none of the known forms.
    """
    train, test = _load_parts(cifar, data_dir, seed)
    return Source(train, test, flip=True, mean=cifar.mean, std=cifar.std)


def _load_parts(cifar: Cifar, data_dir: str, seed: int) -> tuple[ImageSet, ImageSet]:
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


def _from_hub(cifar: Cifar) -> tuple[ImageSet, ImageSet]:
    splits = load_hub_splits(cifar.hub_id, f"a folder that holds {cifar.folder} or to an .npz file")
    train, test = (
        ImageSet(
            _pixels(split["img"]),
            np.asarray(split[cifar.label_column], dtype=np.int64),
            tuple(split.features[cifar.label_column].names),
        )
        for split in (splits["train"], splits["test"])
    )
    return train, test


def _from_torchvision(cifar: Cifar, root: Path) -> tuple[ImageSet, ImageSet]:
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
    return train, test


def _from_npz(path: Path, seed: int) -> tuple[ImageSet, ImageSet]:
    """Read one of two forms: arrays of both parts, or encoded images without a test part."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception:  # What numpy, zip and zlib raise for damaged files and for pickled objects.
        raise DataError(
            f"data-dir: {path} is damaged or holds more than plain arrays; write it again with "
            "numpy.savez."
        ) from None
    for name, array in arrays.items():
        if name.endswith(("labels", "offsets")) and array.dtype.kind not in "iu":
            raise DataError(
                f"data-dir: {name} in {path} are {array.dtype}, not whole numbers; write it again."
            )
        if name in ("offsets", "classes") and array.ndim != 1:
            raise DataError(f"data-dir: {name} in {path} are no list; write it again.")
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
    return train, test


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
