"""Files that are wrong in one way each, by the name that the table of bad input calls them."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import load_file, save_file

Tensors = dict[str, np.ndarray]
STATE, BANK = "checkpoint/round-00003/state.json", "checkpoint/round-00003/bank.safetensors"

CONFIGS: dict[str, bytes] = {
    "words.toml": b"rounds 3",
    "binary.toml": b"\xff\xfe\x00",
    "table.toml": b"[run]\nrounds = 3",
    "json.toml": b'{"rounds": 3}',
    "same-key.toml": b"rounds = 3\nrounds = 4",
    "list.toml": b"rounds = [3, 6]",
    "date.toml": b"rounds = 2020-05-27",
    "text.toml": b'rounds = "three"',
    "python-name.toml": b"local_epochs = 2",
    "dotted.toml": b'"a.b" = 3',
    "deep.toml": b"a = " + b"[" * 5000,
}

# What an .npz holds in the place of a sound array; None leaves the array out.
ARRAYS: dict[str, dict[str, Any]] = {
    "keys": {"train_images": None},
    "pickle": {"train_images": np.array([{"any": "object"}], dtype=object)},
    "floats": {"train_images": np.zeros((6, 4, 4, 3))},
    "labels-beyond": {"train_labels": np.array([0, 1, 2, 3, 4, 5])},
    "labels-of-text": {"train_labels": np.array(list("abcdef"))},
    "labels-with-fractions": {"train_labels": np.arange(6) / 5},
    "labels-nested": {"train_labels": np.zeros((6, 1), dtype=np.int64)},
    "one-name": {"classes": np.array("a")},
    "no-images": {"train_images": np.zeros((0, 4, 4, 3), np.uint8), "train_labels": np.arange(0)},
}

# LEAF's files: what `user_data` holds, or another text.
LEAF: dict[str, Any] = {
    "torn": "{",
    "list": [1],
    "no-users": {"user_data": {}},
    "small": {"user_data": {"ann": {"x": [[0.5]], "y": [1]}}},
    "bright": {"user_data": {"ann": {"x": [[255] * 784], "y": [1]}}},
    "label": {"user_data": {"ann": {"x": [[0.5] * 784], "y": [62]}}},
    "two-writers": {"user_data": {u: {"x": [[0.5] * 784] * 9, "y": [1] * 9} for u in ("a", "b")}},
}


def write_configs(folder: Path) -> None:
    """Write settings files."""
    folder.mkdir()
    for name, content in CONFIGS.items():
        (folder / name).write_bytes(content)


def write_data(folder: Path) -> None:
    """Write folders of images, .npz files and LEAF's JSON."""
    for place in ("one-class/ape", "two/ape", "two/bee", "torn/ape", "flat", "few/a", "few/b"):
        (folder / place).mkdir(parents=True)
        for number in range(1 if place.startswith("few") else 8):
            Image.new("RGB", (4, 4)).save(folder / place / f"{number}.png")
    (folder / "torn/ape/0.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "empty").mkdir()
    sound = {
        "train_images": np.zeros((6, 4, 4, 3), np.uint8),
        "train_labels": np.array([0, 0, 1, 1, 0, 1]),
        "test_images": np.zeros((2, 4, 4, 3), np.uint8),
        "test_labels": np.array([0, 1]),
        "classes": np.array(["ape", "bee"]),
    }
    for name, changes in ARRAYS.items():
        arrays = {key: value for key, value in (sound | changes).items() if value is not None}
        np.savez(folder / f"{name}.npz", **arrays)
    offsets = np.array([0.0, 2.5])
    np.savez(folder / "offsets.npz", bytes=np.zeros(9, np.uint8), offsets=offsets, labels=[0],
             classes=["a"])  # fmt: skip
    (folder / "junk.npz").write_bytes(b"no archive")
    (folder / "altered/cifar-10-batches-py").mkdir(parents=True)
    batch = folder / "altered/cifar-10-batches-py/data_batch_1"
    batch.write_bytes(pickle.dumps({"data": 1}))
    for name, content in LEAF.items():
        (folder / f"leaf-{name}").mkdir()
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"leaf-{name}/users.json").write_text(text)
    (folder / "parquet").mkdir()
    (folder / "parquet/train.parquet").write_bytes(b"PAR1")


def write_backbones(folder: Path, vit: Path) -> None:
    """Write copies of a ViT with one file removed or changed."""
    config = json.loads((vit / "config.json").read_text())
    pixels = json.loads((vit / "preprocessor_config.json").read_text())
    weights = (vit / "model.safetensors").read_bytes()
    changed: dict[str, dict[str, Any]] = {
        "no-config": {"config.json": None},
        "torn-config": {"config.json": b"{"},
        "bert": {"config.json": {"model_type": "bert"}},
        "unknown-type": {"config.json": {"model_type": "quantum"}},
        "untyped": {"config.json": {}},
        "own-code": {"config.json": {"model_type": "x", "auto_map": {"AutoConfig": "code.C"}}},
        "wider": {"config.json": {**config, "hidden_size": 48}},
        "deeper": {"config.json": {**config, "num_hidden_layers": 7}},
        "no-weights": {"model.safetensors": None},
        "pickle": {"model.safetensors": None, "pytorch_model.bin": pickle.dumps({"a": 1})},
        "torn-weights": {"model.safetensors": weights[:-100]},
        "renamed-pickle": {"model.safetensors": pickle.dumps({"a": 1})},
        "no-pixels": {"preprocessor_config.json": None},
        "zero-std": {"preprocessor_config.json": {**pixels, "image_std": [0, 0, 0]}},
    }
    for name, files in changed.items():
        shutil.copytree(vit, folder / name)
        for file, content in files.items():
            if content is None:
                (folder / name / file).unlink()
            else:
                raw = content if isinstance(content, bytes) else json.dumps(content).encode()
                (folder / name / file).write_bytes(raw)


def edit_state(**values: Any) -> Callable[[Path], object]:
    """Change fields of the last checkpoint's state.json."""

    def edit(run: Path) -> None:
        state = json.loads((run / STATE).read_text())
        (run / STATE).write_text(json.dumps({**state, **values}))

    return edit


def edit_bank(change: Callable[[Tensors, str], Tensors]) -> Callable[[Path], object]:
    """Change tensors of the last checkpoint; `change` also gets the first key."""

    def edit(run: Path) -> None:
        tensors = load_file(run / BANK)
        save_file(change(tensors, min(tensors)), run / BANK)

    return edit


def replace(file: str, content: bytes) -> Callable[[Path], object]:
    """Put other bytes in the place of a file."""
    return lambda run: (run / file).write_bytes(content)


RUNS: dict[str, Callable[[Path], object]] = {
    "sound": lambda run: None,
    "format": edit_state(format=2),
    "round-0": edit_state(round=0),
    "no-settings": edit_state(settings=3),
    "foreign": replace(STATE, b'{"epoch": 3}'),
    "no-json": replace(STATE, b"\x80\x04"),
    "list": replace(STATE, b"[]"),
    "no-state": lambda run: (run / STATE).unlink(),
    "torn": replace(BANK, b"torn"),
    "pickle": replace(BANK, pickle.dumps({"a": np.ones(3)})),
    "tensor-missing": edit_bank(lambda t, key: {k: v for k, v in t.items() if k != key}),
    "tensor-foreign": edit_bank(lambda t, _: {**t, "block9.x": np.zeros(2, np.float32)}),
    "shape": edit_bank(lambda t, key: {**t, key: np.zeros(3, np.float32)}),
    "dtype": edit_bank(lambda t, key: {**t, key: t[key].astype(np.float64)}),
    "nan": edit_bank(lambda t, key: {**t, key: t[key] * np.float32("nan")}),
    "no-metrics": lambda run: (run / "metrics.jsonl").unlink(),
    "no-clients": lambda run: (run / "clients.jsonl").unlink(),
    "metrics-binary": replace("metrics.jsonl", b"\xff\xfe"),
    "metrics-foreign": replace("metrics.jsonl", b'{"epoch": 1}\n'),
    "no-checkpoint": lambda run: shutil.rmtree(run / "checkpoint"),
    "no-summary": lambda run: (run / "summary.json").unlink(),
    "summary-foreign": replace("summary.json", b"[]"),
    "settings-binary": replace("settings.toml", b"\xff"),
}


def write_runs(folder: Path, run: Path) -> None:
    """Write copies of a finished run of three rounds, with its last checkpoint alone."""
    for name, spoil in RUNS.items():
        shutil.copytree(run, folder / name)
        shutil.rmtree(folder / name / "checkpoint/round-00002")
        spoil(folder / name)
    shutil.copytree(run, folder / "torn-with-one-before")
    (folder / "torn-with-one-before" / BANK).write_bytes(b"torn")
    (folder / "not-a-run/checkpoint").mkdir(parents=True)
    (folder / "file").write_text("a file in the way")
