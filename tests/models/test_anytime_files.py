"""Exported adapters from disk: a real run's, and what wrong files are told."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file
from support import ROOT, Run

from models import AnytimeClassifier, ModelError
from settings import Settings, load_toml
from wiring import get_source

CLASSES = ["cat", "dog", "elk"]


def write(folder: Path, description: Any) -> None:
    (folder / "adapters.json").write_text(json.dumps(description))


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "adapters.json").read_text())


def test_a_runs_adapters_score_what_the_run_reports(run_app: Callable[..., Run]) -> None:
    """The test set through `predict` has the accuracies of summary.json, exit by exit."""
    run = run_app(rounds=1)
    settings = Settings.from_dict(load_toml(run.output / "settings.toml"))
    classifier = AnytimeClassifier.load(run.output / "adapters")
    test = get_source(settings, "").test
    assert test is not None
    assert classifier.classes == test.classes
    for exit_block in classifier.exits:
        answers = classifier.predict(test.images, exit=exit_block)
        right = np.mean([a.label == label for a, label in zip(answers, test.labels, strict=True)])
        assert right == pytest.approx(run.summary["accuracy"][str(exit_block)], abs=1e-9)


def test_the_pages_example_runs(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (example,) = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs/anytime.md").read_text(), re.DOTALL | re.MULTILINE
    )
    shutil.copytree(exported, tmp_path / "runs/latest/adapters")
    Image.new("L", (30, 20)).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    # Installed, the package is `fedgraft.models`; here it stands at the top level.
    exec(example.replace("from fedgraft.", "from "), space)
    assert [len(space[name]) for name in ("full", "early", "quick", "sure")] == [4, 4, 1, 1]
    assert {a.exit for a in space["early"]} == {2}
    assert list(space["costs"]) == [2, 4, 6]
    assert capsys.readouterr().out.split()[0] in CLASSES


def test_another_place_of_the_backbone(exported: Path, tiny_vit: Path) -> None:
    write(exported, {**read(exported), "backbone": "/gone/vit"})
    with pytest.raises(ModelError, match="no model in /gone/vit"):
        AnytimeClassifier.load(exported)
    images = np.full((1, 16, 16, 3), 90, np.uint8)
    elsewhere = AnytimeClassifier.load(str(exported), str(tiny_vit)).predict(images)
    write(exported, {**read(exported), "backbone": str(tiny_vit)})
    assert elsewhere == AnytimeClassifier.load(exported).predict(images)


def test_the_data_sets_normalisation_is_used_where_it_is_exported(exported: Path) -> None:
    """Pixel 64 at mean 0.5 and deviation 0.25 is pixel 128 at mean 1 and deviation 0.5."""
    dark, light = (np.full((1, 16, 16, 3), value, np.uint8) for value in (64, 128))
    (expected,) = AnytimeClassifier.load(exported).predict(dark)
    write(exported, {**read(exported), "mean": [1.0], "std": [0.5]})
    classifier = AnytimeClassifier.load(exported)
    (found,) = classifier.predict(light)
    assert (found.label, found.exit) == (expected.label, expected.exit)
    assert found.confidence == pytest.approx(expected.confidence, abs=1e-6)
    (other,) = classifier.predict(dark)
    assert other.confidence != pytest.approx(expected.confidence, abs=1e-6)


def without(key: str) -> Callable[[Path], None]:
    return lambda folder: write(folder, {k: v for k, v in read(folder).items() if k != key})


def changed(**values: Any) -> Callable[[Path], None]:
    given = {key.replace("_", "-"): value for key, value in values.items()}
    return lambda folder: write(folder, {**read(folder), **given})


def adapter(**values: Any) -> Callable[[Path], None]:
    """Change fields of the adapter, or without any empty it."""
    return lambda folder: changed(adapter={**read(folder)["adapter"], **values} if values else {})(
        folder
    )


def tensors(change: Callable[[dict[str, np.ndarray]], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        found = load_file(folder / "exits.safetensors")
        change(found)
        save_file(found, folder / "exits.safetensors")

    return apply


WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (shutil.rmtree, "no file .*adapters.json; give the folder adapters/"),
    "no tensors": (lambda f: (f / "exits.safetensors").unlink(), "no file .*safetensors"),
    "no JSON": (lambda f: (f / "adapters.json").write_text("{"), "is no JSON"),
    "binary": (lambda f: (f / "adapters.json").write_bytes(b"\xff\x00"), "is no JSON"),
    "a list": (lambda f: write(f, [1]), "does not describe adapters"),
    "an earlier format": (changed(format=1), "format 1, this version reads 3"),
    "no method": (without("method"), "lacks 'method'"),
    "no classes": (without("classes"), "lacks 'classes'"),
    "a size in words": (changed(image_size="16"), "'16', which is no int"),
    "a size of zero": (changed(image_size=0), "'image-size' .* is below 1"),
    "a seed in words": (changed(backbone_seed="1"), "'backbone-seed' .* is no number"),
    "another size": (changed(image_size=20), "not a multiple of the backbone's patch size"),
    "a foreign method": (changed(method="lora"), "method: 'lora' is unknown"),
    "an adapter's name": (changed(adapter="lora"), "'adapter' .* is 'lora', which is no dict"),
    "a foreign adapter": (adapter(kind="magic"), "adapter: 'magic' is unknown"),
    "an adapter less": (adapter(), "lacks 'kind'"),
    "a rank in words": (adapter(rank="4"), "'rank' .* is '4', which is no int"),
    "a rank of zero": (adapter(rank=0), "adapter-rank: 0 leaves no adapter"),
    "an endless scale": (adapter(scaling=float("inf")), "'scaling' .* is not finite"),
    "a foreign target": (adapter(targets=["q", 7]), "'7' is no linear layer of a block"),
    "no LoRA": (adapter(kind="lora"), "no file .*adapter_model.safetensors"),
    "a foreign option": (changed(options={"colour": 1}), "options in .* are none of the method"),
    "a foreign size": (changed(options={"size": "huge"}), "none of the method .*'huge'"),
    "exits in words": (changed(exits="all"), "exits: 'all' is neither"),
    "exits too deep": (changed(exits="2,9"), "there is no block 9"),
    "numbers as classes": (changed(classes=[1, 2, 3]), "are not names"),
    "a class twice": (changed(classes=["a", "a", "b"]), "are not names, each once"),
    "other classes": (changed(classes=["a", "b"]), "check the backbone and the classes"),
    "half a normalisation": (changed(std=[0.5, 0.5]), "'std' is not one number or three"),
    "no deviation": (changed(std=[0]), "'std' is not one number or three"),
    "another backbone": (changed(backbone="builtin", image_size=32), "check the backbone"),
    "a mean in words": (changed(mean=["0.5"]), "'mean' is not one number or three"),
    "a torn file": (
        lambda f: (f / "exits.safetensors").write_bytes(b"PK\x03\x04 a pickle"),
        "cannot be read as safetensors",
    ),
    "a tensor less": (tensors(lambda t: t.pop("shared.tokens.query")), "lack 'shared.tokens.q"),
    "a tensor more": (tensors(lambda t: t.update(x=t["shared.tokens.query"])), "'x' is no adapter"),
    "not finite": (
        tensors(lambda t: t["shared.tokens.query"].fill(np.nan)),
        "'shared.tokens.query' .* other than finite floats",
    ),
    "integers": (
        tensors(lambda t: t.update({"shared.tokens.query": np.zeros((1, 24), np.int64)})),
        "other than finite floats",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files_get_a_sentence(exported: Path, case: str) -> None:
    change, sentence = WRONG[case]
    change(exported)
    with pytest.raises(ModelError, match=sentence) as caught:
        AnytimeClassifier.load(exported)
    assert "\n" not in str(caught.value)


def test_bfloat16_and_an_unknown_device_get_a_sentence(exported: Path) -> None:
    with pytest.raises(ModelError, match="device: 'abacus' cannot be used here"):
        AnytimeClassifier.load(exported, device="abacus")
    from safetensors.torch import save_file as save_tensors

    save_tensors({"x": torch.zeros(1, dtype=torch.bfloat16)}, exported / "exits.safetensors")
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        AnytimeClassifier.load(exported)
