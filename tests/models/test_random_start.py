"""Backbones that start from random weights."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from models import ModelError, load_backbone


@pytest.fixture
def shape(tiny_vit: Path, tmp_path: Path) -> Path:
    """The tiny ViT's folder without its weights."""
    folder = tmp_path / "shape"
    shutil.copytree(tiny_vit, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


def test_weights_are_those_of_the_seed_and_need_no_file(tiny_vit: Path, shape: Path) -> None:
    first, again = load_backbone(str(shape), 0, 1), load_backbone(str(tiny_vit), 0, 1)
    other = load_backbone(str(shape), 0, 2)
    for mine, same, different in zip(*(b.parameters() for b in (first, again, other)), strict=True):
        assert torch.equal(mine, same)
        assert mine.ndim == 1 or not torch.equal(mine, different)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert first.fingerprint != load_backbone(str(tiny_vit)).fingerprint
    with pytest.raises(ModelError, match="no weights"):
        load_backbone(str(shape))


def test_weights_have_the_spread_of_their_layer(shape: Path) -> None:
    """One over the root of the inputs: 24 for attention, 48 for the second layer of the MLP."""
    block = load_backbone(str(shape), 0, 5).blocks[2]
    for name, inputs in (("self_attention.q_proj", 24), ("feed_forward.fc2", 48)):
        layer = block.get_submodule(name)
        assert float(layer.weight.std()) == pytest.approx(inputs**-0.5, rel=0.1)
        assert not layer.bias.any()
    assert torch.equal(block.norm1.weight, torch.ones(24))
    assert not block.norm1.bias.any()


def test_the_numbers_are_numpys(shape: Path) -> None:
    """The first weight by name is the class token, of width 24."""
    token = load_backbone(str(shape), 0, 9).embed.cls_token
    drawn = np.random.default_rng(9).standard_normal((1, 1, 24), dtype=np.float32)
    torch.testing.assert_close(token, torch.from_numpy(drawn / np.float32(24**0.5)))


def test_the_dtype_of_the_files_is_not_that_of_the_weights(shape: Path) -> None:
    """A folder whose weights were stored in half precision."""
    config = json.loads((shape / "config.json").read_text())
    (shape / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))
    backbone = load_backbone(str(shape), 0, 1)
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.float32}
