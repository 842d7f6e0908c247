"""Exported adapters: read back, read by plain peft, and described in a model card."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig, PeftModel
from safetensors.numpy import load_file
from support import Run
from transformers import AutoModel

from models import (
    ADAPTERS,
    AdapterModel,
    AdapterSpec,
    FixedFeaturesModel,
    ModelError,
    build_model,
    load_backbone,
    load_exported,
    write_exported,
)

LORA = AdapterSpec("lora", 4, scaling=3.0, targets=("q", "v", "o", "fc2"))
OTHER_FILES = {"README.md", "adapters.json", "exits.safetensors"}
PEFT_FILES = {"adapter_config.json", "adapter_model.safetensors"}


def build(
    folder: Path, spec: AdapterSpec, method: str = "exits", exits: tuple[int, ...] = (2, 4)
) -> AdapterModel:
    """A model with all adapters away from their start; blocks 5 and 6 are above its exits."""
    model = build_model(method, load_backbone(str(folder)), exits, 3, adapter=spec)
    generator = torch.Generator().manual_seed(1)
    for tensor in model.adapter_parameters().values():
        tensor.data += 0.1 * torch.randn(tensor.shape, generator=generator)
    return model.eval()


def describe(model: AdapterModel, folder: Path, method: str = "exits") -> dict[str, Any]:
    return {
        "method": method,
        "backbone": str(folder),
        "image-size": 16,
        "exits": ",".join(map(str, model.exits)) + ",",
        "adapter": asdict(model.adapter),
        "options": {},
        "classes": ["cat", "dog", "elk"],
    }


def images(side: int = 16) -> torch.Tensor:
    return torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("kind", "targets"),
    [*((kind, ()) for kind in ADAPTERS), ("lora", ("q", "fc1")), ("serial", ("mlp",))],
)
@pytest.mark.parametrize("method", ["exits", "accumulator"])
def test_what_is_read_back_is_what_was_written(
    tiny_vit: Path, tmp_path: Path, kind: str, targets: tuple[str, ...], method: str
) -> None:
    model = build(tiny_vit, AdapterSpec(kind, 4, 0.5, targets), method)
    write_exported(tmp_path, model.adapter_arrays(), describe(model, tiny_vit, method), {})
    files = {path.name for path in tmp_path.iterdir()}
    assert files == OTHER_FILES | (PEFT_FILES if kind == "lora" else set())
    found = load_exported(tmp_path)
    assert found.model.adapter == model.adapter
    for e, logits in model(images()).items():
        assert torch.equal(found.model(images())[e], logits)


@pytest.mark.filterwarnings("error::UserWarning")  # peft warns of tensors that are missing
@pytest.mark.parametrize("backbone", ["tiny_vit", "tiny_deit"])
def test_plain_peft_gives_the_same_class_tokens(
    backbone: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(backbone)
    model = build(folder, LORA)
    assert isinstance(model, FixedFeaturesModel)
    write_exported(tmp_path, model.adapter_arrays(), describe(model, folder), {})
    plain = AutoModel.from_pretrained(folder, add_pooling_layer=False)
    theirs = PeftModel.from_pretrained(plain, tmp_path).eval()
    with torch.no_grad():
        states = theirs(pixel_values=images(), output_hidden_states=True).hidden_states
    features = model.features(images())
    for place, e in enumerate(model.exits):
        torch.testing.assert_close(states[e][:, 0], features[:, place])
    untouched = load_backbone(str(folder)).embed(images())
    for block in load_backbone(str(folder)).blocks[:4]:
        untouched = block(untouched)
    assert not torch.allclose(untouched[:, 0], features[:, 1], atol=0.1)


def test_pefts_files_are_as_peft_writes_them(tiny_vit: Path, tmp_path: Path) -> None:
    """The same names, shapes and scale as peft's own export of the same configuration."""
    model = build(tiny_vit, LORA)
    write_exported(tmp_path / "ours", model.adapter_arrays(), describe(model, tiny_vit), {})
    config = LoraConfig.from_pretrained(tmp_path / "ours")
    assert (config.r, config.lora_alpha, config.bias) == (4, 12, "none")
    plain = AutoModel.from_pretrained(tiny_vit, add_pooling_layer=False)
    PeftModel(plain, config).save_pretrained(tmp_path / "theirs")
    ours, theirs = (
        load_file(tmp_path / f / "adapter_model.safetensors") for f in ("ours", "theirs")
    )
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    assert len(ours) == 4 * 4 * 2


def test_files_of_other_adapters_do_not_stay(tiny_vit: Path, tmp_path: Path) -> None:
    for spec in (LORA, AdapterSpec("ssf")):
        model = build(tiny_vit, spec)
        write_exported(tmp_path, model.adapter_arrays(), describe(model, tiny_vit), {})
    assert {path.name for path in tmp_path.iterdir()} == OTHER_FILES


def test_damaged_lora_gets_a_sentence(tiny_vit: Path, tmp_path: Path) -> None:
    model = build(tiny_vit, LORA)
    description = describe(model, tiny_vit)
    tensors = model.adapter_arrays()
    del tensors["block2.adapter.v.B"]
    write_exported(tmp_path, tensors, description, {})
    with pytest.raises(ModelError, match="lack 'block2\\.adapter\\.v\\.B'"):
        load_exported(tmp_path)
    description["adapter"] = {**description["adapter"], "rank": 3}
    write_exported(tmp_path, model.adapter_arrays(), description, {})
    with pytest.raises(ModelError, match="has shape \\(4, 24\\), the model's is \\(3, 24\\)"):
        load_exported(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(
        ModelError, match="adapter_model\\.safetensors cannot be read as safetensors"
    ):
        load_exported(tmp_path)


def test_the_card_says_what_the_hub_wants_to_know(tiny_vit: Path, tmp_path: Path) -> None:
    model = build(tiny_vit, LORA)
    description = describe(model, tiny_vit)
    write_exported(tmp_path, model.adapter_arrays(), description, {2: 0.5, 4: 0.8761})
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.to_dict() == {
        "library_name": "peft",
        "pipeline_tag": "image-classification",
        "tags": ["fedgraft", "flower", "federated-learning", "early-exit", "lora"],
    }
    assert "| accuracy after block 2 | 50.0 % |" in card.text
    assert "| accuracy after block 4 | 87.6 % |" in card.text
    assert "3 classes, in the order of the labels: cat, dog, elk." in card.text
    # A path on this machine helps nobody.
    assert str(tiny_vit.parent) not in card.content
    assert (
        json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"]
        is None
    )

    description["backbone"] = "facebook/deit-small-patch16-224"
    write_exported(tmp_path, model.adapter_arrays(), description, {})
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model == description["backbone"]
    assert "accuracy" not in card.text
    config = LoraConfig.from_pretrained(tmp_path)
    assert config.base_model_name_or_path == description["backbone"]

    plain = {**description, "adapter": asdict(AdapterSpec()), "backbone": "builtin"}
    write_exported(tmp_path, {}, plain, {})
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.library_name, card.data.base_model) == ("fedgraft", None)
    assert "peft" not in card.content


def test_the_cards_code_runs(
    tiny_vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(tiny_vit, LORA)
    folder = tmp_path / "adapters"
    write_exported(folder, model.adapter_arrays(), describe(model, tiny_vit), {})
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"^```python\n(.*?)^```", (folder / "README.md").read_text(), re.S | re.M)
    assert len(examples) == 2
    photos = np.zeros((2, 16, 16, 3), np.uint8)
    space: dict[str, Any] = {"photos": photos, "pixels": images(32)}
    for example in examples:
        # Installed, the package is `fedgraft.models`; here it stands at the top level.
        code = example.replace("from fedgraft.", "from ").replace('"..."', repr(str(tiny_vit)))
        exec(code, space)
    assert [answer.exit for answer in space["answers"]] == [4, 4]
    assert space["tokens"].shape == (4, 17, 24)  # 16 patches of a larger image


def test_a_run_with_lora_leaves_these_files(run_app: Callable[..., Run]) -> None:
    run = run_app(rounds=1, method="exits", adapter="lora", adapter_rank=2, adapter_alpha=3)
    folder = run.output / "adapters"
    assert {path.name for path in folder.iterdir()} == OTHER_FILES | PEFT_FILES
    assert {key.split(".")[1] for key in load_file(folder / "exits.safetensors")} == {"head"}
    config = LoraConfig.from_pretrained(folder)
    assert (config.r, config.lora_alpha, len(config.target_modules)) == (2, 3, 2 * 6)
    card = (folder / "README.md").read_text()
    for e in (2, 4, 6):
        assert (
            f"| accuracy after block {e} | {100 * run.summary['accuracy'][str(e)]:.1f} % |" in card
        )
