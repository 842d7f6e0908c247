"""Handwritten digits: 1,797 gray images of 8 x 8 pixels that come with scikit-learn."""

from __future__ import annotations

import numpy as np

from .image_set import DataError, ImageSet, Source
from .split import hold_out


def load_digits(data_dir: str, image_size: int, seed: int) -> Source:
    """Load scikit-learn's digits, ``(N, 8, 8, 1)``, and hold out a fifth as the test set."""
    if data_dir:
        raise DataError(
            f'data-dir: dataset "digits" comes with scikit-learn and reads nothing from '
            f'{data_dir}; leave data-dir empty, or choose dataset "folder" for own images.'
        )
    from sklearn import datasets

    digits = datasets.load_digits()
    # scikit-learn counts 17 levels, 0 to 16.
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    classes = tuple(str(name) for name in digits.target_names)
    train, test = hold_out(ImageSet(images, digits.target.astype(np.int64), classes), seed)
    return Source(train, test, flip=False)
