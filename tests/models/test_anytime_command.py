"""The command of anytime inference, as a process and called: what it prints, and its mistakes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support import ROOT

import models
from models import AnytimeClassifier
from models.predict import main


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
