"""Flower's simulation on Ray gives the bank of the in-process runtime, bit for bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import SMALL, Run

from run_simulation import run_on_ray
from settings import Settings


@pytest.mark.parametrize("method", ["exits", "accumulator"])
def test_ray_gives_the_bits_of_the_in_process_run(
    run_app: Callable[..., Any], method: str, tiny_vit: Path, tmp_path: Path
) -> None:
    here = run_app("here", method=method)
    output = tmp_path / "ray"
    values = {**SMALL, "method": method, "backbone": str(tiny_vit), "output-dir": str(output)}
    run_on_ray(Settings.from_dict(values))
    there = Run(output)
    assert list(there.bank()) == list(here.bank())
    for key, value in here.bank().items():
        assert there.bank()[key].tobytes() == value.tobytes()
    assert there.summary["accuracy"] == here.summary["accuracy"]
    assert there.summary["client-accuracy"] == here.summary["client-accuracy"]
    assert there.summary["bytes"]["up"] == here.summary["bytes"]["up"]
