"""What `make run` promises, at full length, and the same methods on real weights and data."""

from pathlib import Path
from typing import Any

import pytest
from support import Run

from run_simulation import run_in_process
from settings import Settings, load_toml

ROOT = Path(__file__).parents[2]


def run(output: Path, **values: Any) -> Run:
    given = {key.replace("_", "-"): value for key, value in values.items()}
    run_in_process(Settings.from_dict({**given, "output-dir": str(output)}))
    return Run(output)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["accumulator", "exits"])
def test_the_default_run_learns_the_digits(tmp_path: Path, method: str) -> None:
    """At least 90 % at the last exit, which is better than the first."""
    accuracy = run(tmp_path, method=method).summary["accuracy"]
    assert accuracy["12"] >= 0.9
    assert accuracy["12"] > accuracy["3"]


def test_a_few_rounds_on_the_builtin_backbone_are_far_above_chance(tmp_path: Path) -> None:
    accuracy = run(tmp_path, rounds=3, evaluate_every=3).summary["accuracy"]
    assert accuracy["12"] > 0.6


@pytest.mark.slow
def test_a_real_vit_learns_real_images(tmp_path: Path, shared: Path) -> None:
    """Three rounds of ViT-Tiny on the CIFAR-100 subset: ten times better than chance (1 %)."""
    values = load_toml(ROOT / "configs" / "cifar100.toml")
    values |= {
        "method": "exits",
        "backbone": str(shared / "data" / "vit_tiny_patch16_224_in1k"),
        "data-dir": str(shared / "data" / "cifar100_13k.npz"),
        "rounds": 3,
    }
    assert run(tmp_path, **values).summary["accuracy"]["mean"] > 0.1
