"""The backbone against transformers' own forward pass, and what wrong input is told."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from support import with_other_weights
from transformers import AutoModel

from models import Backbone, ModelError, load_backbone


def run_blocks(backbone: Backbone, images: torch.Tensor) -> list[torch.Tensor]:
    tokens = [backbone.embed(images)]
    for block in backbone.blocks:
        tokens.append(block(tokens[-1]))
    return tokens


@pytest.mark.parametrize("kind", ["tiny_vit", "tiny_deit"])
def test_blocks_give_what_transformers_gives(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    backbone = load_backbone(str(folder))
    images = torch.randn(2, 3, 16, 16)
    theirs = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    with torch.no_grad():
        expected = theirs(images, output_hidden_states=True)
    ours = run_blocks(backbone, images)
    for mine, other in zip(ours[:-1], expected.hidden_states[:-1], strict=True):
        torch.testing.assert_close(mine, other)
    torch.testing.assert_close(backbone.norm(ours[-1]), expected.last_hidden_state)


@pytest.mark.parametrize("kind", ["tiny_vit", "tiny_deit"])
def test_another_size_is_what_transformers_interpolates(
    kind: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(kind)
    images = torch.randn(2, 3, 40, 40)
    theirs = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    with torch.no_grad():
        expected = theirs(images, interpolate_pos_encoding=True).last_hidden_state
    backbone = load_backbone(str(folder), 40)
    torch.testing.assert_close(backbone.norm(run_blocks(backbone, images)[-1]), expected)


def test_everything_is_frozen_and_stays_in_evaluation_mode(tiny_vit: Path) -> None:
    backbone = load_backbone(str(tiny_vit)).train()
    assert not backbone.training
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_facts_come_from_the_files(tiny_vit: Path) -> None:
    backbone = load_backbone(str(tiny_vit))
    assert (backbone.depth, backbone.width, backbone.image_size) == (6, 24, 16)
    assert (backbone.mean, backbone.std) == ((0.5,) * 3, (0.25,) * 3)
    per_block = 4 * (24 * 24 + 24) + 2 * 24 * 48 + 48 + 24 + 4 * 24
    embedding = 3 * 64 * 24 + 24 + 24 + 5 * 24
    assert backbone.num_parameters() == 6 * per_block + embedding + 2 * 24


def test_it_is_loaded_once_per_process(tiny_vit: Path) -> None:
    assert load_backbone(str(tiny_vit)) is load_backbone(str(tiny_vit))


def test_the_builtin_backbone_is_small_and_pretrained() -> None:
    """Its own weights, not a fresh initialisation: class tokens of different images differ."""
    backbone = load_backbone("builtin")
    assert (backbone.depth, backbone.width, backbone.image_size) == (12, 96, 32)
    weights = Path(__file__).parents[2] / "models" / "builtin" / "model.safetensors"
    assert weights.stat().st_size <= 3_000_000
    with torch.no_grad():
        tokens = run_blocks(backbone, torch.randn(8, 3, 32, 32).clamp(-1, 1))[-1][:, 0]
    assert tokens.std(dim=0).mean() > 0.1 * tokens.std()


WRONG = {
    "missing folder": ("/no/such/folder", 0, "no model in /no/such/folder"),
    "empty folder": ("{tmp}", 0, "config.json is missing"),
    "size below a patch": ("{vit}", 4, "not a multiple of the backbone's patch size 8; try 8"),
    "size between patches": ("{vit}", 30, "try 32"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_backbones_get_a_sentence(case: str, tiny_vit: Path, tmp_path: Path) -> None:
    name, size, sentence = WRONG[case]
    with pytest.raises(ModelError, match=sentence):
        load_backbone(name.format(tmp=tmp_path, vit=tiny_vit), size)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="of type 'bert'; give a ViT or a DeiT"):
        load_backbone(str(tmp_path))


def test_a_folder_without_weights_is_refused(tiny_vit: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((tiny_vit / "config.json").read_text())
    with pytest.raises(ModelError, match="holds no weights as"):
        load_backbone(str(tmp_path))


def test_incomplete_weights_are_refused(tiny_vit: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text((tiny_vit / name).read_text())
    tensors = load_file(tiny_vit / "model.safetensors")
    lost = next(key for key in tensors if "layer.3" in key or "layers.3" in key)
    save_file({k: v for k, v in tensors.items() if k != lost}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="lacks weights"):
        load_backbone(str(tmp_path))


def test_an_offline_hub_gets_one_sentence_and_no_hang() -> None:
    code = (
        "from models import ModelError, load_backbone\n"
        "try:\n    load_backbone('nobody/no-such-model')\n"
        "except ModelError as error:\n    print(error)\n"
    )
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": "."},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.count("\n") == 1
    assert "could not be downloaded" in done.stdout
    assert "Traceback" not in done.stderr
    assert time.monotonic() - start < 60


def test_the_fingerprint_tells_weights_and_not_sizes(tiny_vit: Path, tmp_path: Path) -> None:
    backbone = load_backbone(str(tiny_vit))
    assert load_backbone(str(tiny_vit), 32).fingerprint == backbone.fingerprint
    other = with_other_weights(tiny_vit, tmp_path / "other")
    assert load_backbone(str(other)).fingerprint != backbone.fingerprint
