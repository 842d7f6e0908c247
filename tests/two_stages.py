"""Runs of `mofm` in two stages, small enough for seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from support import SMALL

from settings import Settings

ONE_TIER = "all depth=6 share=1"
# k = 2, 4, 6, 6 of 6 blocks, then two rounds of stage 2; D = 24, C = 10, r = 4, m = 4.
TWO_STAGES: dict[str, Any] = {
    "method": "mofm",
    "exits": "1",
    "tiers": ONE_TIER,
    "rounds": 6,
    "stage_one_rounds": 4,
    "activation_start": 1,
    "activation_ramp": 0.75,
    "mofm_rank": 4,
    "mofm_gate_width": 4,
    "clients_per_round": 3,
    "test_share": 0.6,
    "learning_rate": 0.01,
}


def make_settings(backbone: Path, output: Path, **values: Any) -> Settings:
    given = {key.replace("_", "-"): value for key, value in {**TWO_STAGES, **values}.items()}
    base = {**SMALL, "backbone": str(backbone), "output-dir": str(output)}
    return Settings.from_dict({**base, **given})


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return list(first) == list(second) and all(
        first[key].tobytes() == second[key].tobytes() for key in first
    )
