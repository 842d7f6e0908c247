"""The example of docs/adding-a-data-set.md runs as it is written."""

import re
from pathlib import Path

import numpy as np
import pytest

from data import DataError, load_source

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-data-set.md"


def test_the_example_registers_a_source(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((30, 64, 64, 1), np.uint8))
    np.save(tmp_path / "labels.npy", np.repeat([0, 1, 2], 10).astype(np.int8))
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    exec(example, {})
    source = load_source("welds", str(tmp_path), image_size=224)
    assert np.bincount(source.train.labels).tolist() == [8, 8, 8]
    assert np.bincount(source.test.labels).tolist() == [2, 2, 2]
    with pytest.raises(DataError, match=r"holds no images\.npy; set it to"):
        load_source("welds", "", image_size=224)
