"""What every source delivers: decoded images with labels, as a training and a test part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np


class DataError(ValueError):
    """A user's mistake in the data; the message says in one sentence what is wrong, what to do."""


# Compared and hashed by identity: arrays have no single truth value, and caches key on the set.
@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images, decoded once.

    Attributes
    ----------
    images : np.ndarray
        ``(N, H, W, C)`` uint8, with ``C`` 1 (gray) or 3 (RGB).
    labels : np.ndarray
        ``(N,)`` int64, positions in `classes`.
    classes : tuple[str, ...]
        Names of the classes, none twice; a class may have no image.
    owners : tuple[str, ...] or None
        ``(N,)`` names of the clients the images belong to, where the data know them.

    Raises
    ------
    DataError
        If one of these does not hold.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    owners: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check shapes, types and labels, so that a faulty source fails here, not in training."""
        shape = self.images.shape
        if self.images.dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3):
            raise DataError(
                f"images must be uint8 of shape (N, H, W, 1 or 3), not {self.images.dtype} of "
                f"shape {shape}; convert them in the source."
            )
        if self.labels.dtype != np.int64 or self.labels.shape != shape[:1]:
            raise DataError(
                f"labels must be int64 of shape ({len(self)},), one per image, not "
                f"{self.labels.dtype} of shape {self.labels.shape}; convert them in the source."
            )
        if len(set(self.classes)) != len(self.classes):
            raise DataError(f"a class is named twice in {self.classes}; rename one of them.")
        if len(self) and not 0 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise DataError(
                f"labels run from {self.labels.min()} to {self.labels.max()}, but "
                f"{len(self.classes)} classes allow 0 to {len(self.classes) - 1}; correct the "
                "labels or the list of classes."
            )
        if self.owners is not None and len(self.owners) != len(self):
            raise DataError(
                f"{len(self.owners)} owners for {len(self)} images; name one owner per image, "
                "or none at all."
            )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def subset(self, indices: np.ndarray | Sequence[int]) -> ImageSet:
        """Return the images at these positions, in this order, with the same classes."""
        positions = np.asarray(indices, dtype=np.int64)
        return ImageSet(
            self.images[positions],
            self.labels[positions],
            self.classes,
            None if self.owners is None else tuple(self.owners[i] for i in positions),
        )

    def with_classes(self, classes: Sequence[str]) -> ImageSet:
        """Return the same images with labels that count in `classes`.

        Parameters
        ----------
        classes : sequence of str
            The classes of the whole federation in its order; these images may show only some.

        Raises
        ------
        DataError
            If one of the present classes is not among them.
        """
        if missing := sorted(set(self.classes).difference(classes)):
            raise DataError(
                f"classes: the data hold '{missing[0]}', which is not among "
                f"{', '.join(classes)}; add it to the setting, or rename or remove it in the data."
            )
        positions = np.array([list(classes).index(name) for name in self.classes], dtype=np.int64)
        return replace(self, labels=positions[self.labels], classes=tuple(classes))


# Compared and hashed by identity, as the set is.
@dataclass(frozen=True, eq=False)
class Part:
    """Some images of a set, by position: what one client holds. Nothing is copied.

    Attributes
    ----------
    images : ImageSet
    positions : np.ndarray
        ``(N,)`` int64, positions in `images`.
    """

    images: ImageSet
    positions: np.ndarray

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.positions)

    @property
    def labels(self) -> np.ndarray:
        """The labels, ``(N,)`` int64."""
        return self.images.labels[self.positions]

    @classmethod
    def whole(cls, images: ImageSet) -> Part:
        """Return all images of a set."""
        return cls(images, np.arange(len(images)))


@dataclass(frozen=True)
class Source:
    """A data set as its loader delivers it.

    Attributes
    ----------
    train : ImageSet
        What is partitioned among the clients.
    test : ImageSet or None
        The server's test set; None where the data have none and could not spare one.
    flip : bool
        Whether an image mirrored left to right keeps its label (a digit or a letter does not).
    crop_scale : tuple[float, float]
        Smallest and largest share of an image's area that a random crop shows.
    mean, std : tuple[float, ...] or None
        The data set's own statistics per channel, of pixels in 0..1, where it has published ones.
    """

    train: ImageSet
    test: ImageSet | None
    flip: bool
    crop_scale: tuple[float, float] = (0.08, 1.0)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def with_classes(self, classes: Sequence[str]) -> Source:
        """Return the same data with labels that count in `classes`; see `ImageSet`."""
        test = None if self.test is None else self.test.with_classes(classes)
        return replace(self, train=self.train.with_classes(classes), test=test)
