"""Exported adapters from disk: a real run's, the command on them, and what wrong files are told."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file
from support import ROOT, Run

import models
from models import AnytimeClassifier, ModelError, build_model, load_backbone
from models.predict import main
from settings import Settings, load_toml
from wiring import get_source

CLASSES = ["cat", "dog", "elk"]


@pytest.fixture
def exported(tiny_vit: Path, tmp_path: Path) -> Path:
    """A folder as a run leaves it, of a model with exits after blocks 2, 4 and 6."""
    model = build_model("accumulator", load_backbone(str(tiny_vit)), (2, 4, 6), 3, seed=5)
    folder = tmp_path / "adapters"
    folder.mkdir()
    save_file(model.adapter_arrays(), folder / "adapters.safetensors")
    write(
        folder,
        {
            "method": "accumulator",
            "backbone": str(tiny_vit),
            "image-size": 16,
            "exits": "3",
            "adapter": "none",
            "adapter-rank": 32,
            "options": {"sharing": "shared", "size": "bottleneck"},
            "classes": CLASSES,
        },
    )
    return folder


def write(folder: Path, description: Any) -> None:
    (folder / "adapters.json").write_text(json.dumps(description))


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "adapters.json").read_text())


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five images: two of a class, two of another, one beside them; and what is no image."""
    folder = tmp_path / "photos"
    generator = np.random.default_rng(0)
    for name in ("cat/1.png", "cat/2.JPG", "dog/3.bmp", "dog/4.png", "other.png"):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(file)
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_text("no image")
    return folder


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


def tensors(change: Callable[[dict[str, np.ndarray]], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        found = load_file(folder / "adapters.safetensors")
        change(found)
        save_file(found, folder / "adapters.safetensors")

    return apply


WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (shutil.rmtree, "no file .*adapters.json; give the folder adapters/"),
    "no tensors": (lambda f: (f / "adapters.safetensors").unlink(), "no file .*safetensors"),
    "no JSON": (lambda f: (f / "adapters.json").write_text("{"), "is no JSON"),
    "binary": (lambda f: (f / "adapters.json").write_bytes(b"\xff\x00"), "is no JSON"),
    "a list": (lambda f: write(f, [1]), "does not describe adapters"),
    "a later format": (changed(format=2), "format 2, this version reads 1"),
    "no method": (without("method"), "lacks 'method'"),
    "no classes": (without("classes"), "lacks 'classes'"),
    "a size in words": (changed(image_size="16"), "'16', which is no int"),
    "a size of zero": (changed(image_size=0), "'image-size' .* is below 1"),
    "another size": (changed(image_size=20), "not a multiple of the backbone's patch size"),
    "a foreign method": (changed(method="lora"), "method: 'lora' is unknown"),
    "a foreign adapter": (changed(adapter="lora"), "adapter: 'lora' is unknown"),
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
        lambda f: (f / "adapters.safetensors").write_bytes(b"PK\x03\x04 a pickle"),
        "cannot be read as safetensors",
    ),
    "a tensor less": (tensors(lambda t: t.pop("shared.tokens.query")), "lacks 'shared.tokens.q"),
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

    save_tensors({"x": torch.zeros(1, dtype=torch.bfloat16)}, exported / "adapters.safetensors")
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        AnytimeClassifier.load(exported)


def test_the_command_in_the_repository(exported: Path, photos: Path) -> None:
    done = run_command("models.predict", str(photos), "--adapters", str(exported), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    files = ["cat/1.png", "cat/2.JPG", "dog/3.bmp", "dog/4.png", "other.png"]
    classifier = AnytimeClassifier.load(exported)
    pictures = [Image.open(photos / name) for name in files]
    for line, name, answer in zip(lines, files, classifier.predict(pictures), strict=False):
        assert line.split() == [name, answer.name, f"{answer.confidence:.3f}", "exit", "6"]
    assert re.fullmatch(
        r"5 images: 0 at exit 2, 0 at exit 4, 5 at exit 6; \d+\.\d\d ms per image", lines[5]
    )
    found = zip(files[:4], classifier.predict(pictures[:4]), strict=True)
    right = [name.startswith(answer.name) for name, answer in found]
    assert lines[6:] == [f"accuracy {25 * sum(right):.1f} % by the names of their folders"]


def test_the_command_where_it_is_installed(tmp_path: Path) -> None:
    """As `fedgraft.models`, from another folder."""
    (tmp_path / "site/fedgraft").mkdir(parents=True)
    (tmp_path / "site/fedgraft/models").symlink_to(Path(models.__file__).parent)
    options = ["--adapters", str(tmp_path / "gone"), "--measure"]
    done = run_command("fedgraft.models.predict", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: adapters: there is no file")
    assert done.stderr.count("\n") == 1


def run_command(module: str, *options: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *options],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(cwd / "site")},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    "budget", [["--exit", "4"], ["--confidence", "0"], ["--milliseconds", "9"]]
)
def test_the_commands_json(exported: Path, photos: Path, capsys: Any, budget: list[str]) -> None:
    arguments = [str(photos), "--adapters", str(exported), "--json", "--batch-size", "2", *budget]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    names = [row["file"] for row in found["images"]]
    assert names == ["cat/1.png", "cat/2.JPG", "dog/3.bmp", "dog/4.png", "other.png"]
    exits = [row["exit"] for row in found["images"]]
    assert found["summary"]["images"] == 5
    assert found["summary"]["exits"] == {e: exits.count(int(e)) for e in ("2", "4", "6")}
    assert found["summary"]["milliseconds"] > 0
    pictures = [Image.open(photos / name) for name in names]
    for row, picture in zip(found["images"], pictures, strict=True):
        (alone,) = AnytimeClassifier.load(exported).predict([picture], exit=row["exit"])
        assert row["class"] == alone.name
        assert row["confidence"] == pytest.approx(alone.confidence, abs=1e-5)
    right = [row["file"].startswith(row["class"]) for row in found["images"][:4]]
    assert found["summary"]["accuracy"] == sum(right) / 4
    if budget[0] != "--milliseconds":
        assert set(exits) == {4 if budget[0] == "--exit" else 2}


def test_the_commands_table(exported: Path, capsys: Any) -> None:
    assert main(["--adapters", str(exported), "--measure", "--batch-size", "1"]) == 0
    title, header, *rows = capsys.readouterr().out.splitlines()
    assert title == "per image, batches of 1, on cpu with 1 threads"
    assert header.split() == ["exit", "MFLOPs", "ms"]
    assert [row.split()[0] for row in rows] == ["2", "4", "6"]
    assert main(["--adapters", str(exported), "--measure", "--json"]) == 0
    profile = json.loads(capsys.readouterr().out)
    assert profile["batch-size"] == 32
    costs = AnytimeClassifier.load(exported).measure(32)
    assert [c["flops"] for c in profile["exits"].values()] == [c.flops for c in costs.values()]


def test_images_without_classes_have_no_accuracy(exported: Path, photos: Path, capsys: Any) -> None:
    for name in ("cat", "dog"):
        shutil.rmtree(photos / name)
    assert main([str(photos), "--adapters", str(exported)]) == 0
    assert "accuracy" not in capsys.readouterr().out


MISTAKES = {
    "nothing to do": ([], "give either a folder of images or --measure."),
    "both": (["{photos}", "--measure"], "give either a folder"),
    "no folder": (["{photos}/gone"], "there is no folder"),
    "a file": (["{photos}/other.png"], "there is no folder"),
    "no images": (["{adapters}"], "holds no images"),
    "unreadable": (["{photos}/broken"], "torn.png cannot be read as an image"),
    "deep colour": (["{photos}/deep"], "more than 8 bits"),
    "no exit there": (["{photos}", "--exit", "3"], "choose one of 2, 4, 6"),
    "no probability": (["{photos}", "--confidence", "1.5"], "1.5 is no probability"),
    "no time": (["{photos}", "--milliseconds", "0"], "0.0 is no budget"),
    "no batch": (["{photos}", "--batch-size", "-1"], "batch-size: -1 runs nothing"),
    "no backbone": (["{photos}", "--backbone", "/gone/vit"], "no model in /gone/vit"),
    "no adapters": (["{photos}", "--adapters", "{photos}"], "no file .*adapters.json"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_the_commands_mistakes(exported: Path, photos: Path, capsys: Any, case: str) -> None:
    for name in ("broken", "deep"):
        (photos / name).mkdir()
    (photos / "broken/torn.png").write_bytes(b"\x89PNG\r\n")
    Image.new("I;16", (4, 4)).save(photos / "deep/deep.png")
    options, sentence = MISTAKES[case]
    given = [option.format(photos=photos, adapters=exported) for option in options]
    # The first of two --adapters is the default of this test.
    assert main(["--adapters", str(exported), *given]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert re.search(sentence, error)


def test_two_budgets_are_refused(exported: Path, photos: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(photos), "--adapters", str(exported), "--exit", "2", "--confidence", "0.5"])
    assert caught.value.code == 2
    assert "not allowed with argument" in capsys.readouterr().err
