"""Whole runs in each wire dtype: what they reach, and what they send."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support import SMALL, Run

from run_simulation import run_in_process
from settings import Settings, load_toml
from strategies import BYTES_PER_NUMBER
from wiring import get_layout, make_model

RunApp = Callable[..., Run]
VALUES = {"method": "exits", "adapter": "parallel", "learning_rate": 0.01}
MARGIN = 0.03  # of an accuracy of about 0.6, on 360 images
# What each form adds to the numbers of a unit and of a tensor (docs/wire-format.md).
EXTRA = {"fp32": (128, 0), "fp16": (0, 0), "bf16": (0, 0), "int8": (4, 8)}
NAMES = 500  # bytes of metrics and of the names of all that is sent, at most


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, tiny_vit: Path) -> Run:
    """The run in fp32."""
    output = tmp_path_factory.mktemp("fp32") / "run"
    values = {key.replace("_", "-"): value for key, value in VALUES.items()}
    base = {**SMALL, "backbone": str(tiny_vit), "output-dir": str(output)}
    run_in_process(Settings.from_dict({**base, **values}))
    return Run(output)


def check_bytes(run: Run) -> None:
    """Every training reply is its units in the run's form, and a little beside."""
    settings = Settings.from_dict(load_toml(run.output / "settings.toml"))
    layout = get_layout(make_model(settings, 10))
    lowest, highest = {"small": 1, "medium": 3, "large": 1}, {"small": 2, "medium": 4, "large": 6}
    by_unit, by_tensor = EXTRA[settings.wire_dtype]
    trained = [row for row in run.clients if row["phase"] == "train"]
    for row in trained:
        blocks = range(lowest[row["tier"]], highest[row["tier"]] + 1)
        units = [layout.units[f"block{block}"] for block in blocks]
        numbers = sum(slots[-1].stop for slots in units)
        payload = (
            BYTES_PER_NUMBER[settings.wire_dtype] * numbers
            + by_unit * len(units)
            + by_tensor * sum(map(len, units))
        )
        assert payload < row["bytes-up"] < payload + NAMES
    for row in run.metrics[1:]:
        sent = [r["bytes-up"] for r in trained if r["round"] == row["round"]]
        assert row["bytes-up"] == sum(sent)
        assert len(sent) == 4


def test_fp32_is_as_long_as_it_says(full: Run) -> None:
    check_bytes(full)


@pytest.mark.parametrize("wire_dtype", ["fp16", "bf16", "int8"])
def test_a_run_in_fewer_bits_learns_as_well(run_app: RunApp, full: Run, wire_dtype: str) -> None:
    run = run_app(**VALUES, wire_dtype=wire_dtype)
    check_bytes(run)
    assert not any(row["refused"] for row in run.clients)
    assert full.summary["accuracy"]["mean"] > 0.4
    for found, expected in (
        (run.summary["accuracy"]["mean"], full.summary["accuracy"]["mean"]),
        (run.summary["client-accuracy"]["mean"], full.summary["client-accuracy"]["mean"]),
    ):
        assert found == pytest.approx(expected, abs=MARGIN)
    minimum = full.summary["bytes"]["minimum-up"] / run.summary["bytes"]["minimum-up"]
    assert minimum == 4 / BYTES_PER_NUMBER[wire_dtype]
    # The bank itself stays fp32, and other than that of the run in fp32.
    assert {value.dtype for value in run.bank().values()} == {np.dtype(np.float32)}
    assert any(value.tobytes() != full.bank()[key].tobytes() for key, value in run.bank().items())
