"""Runs of the benchmarks of accuracy: made once, gone on with after a stop, and then read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from settings import load_toml

SIMULATION = Path(__file__).parents[1] / "run_simulation.py"


def finish_run(folder: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the summary of a run, which is run, continued or read as far as it got before."""
    values = {**values, "output-dir": str(folder)}
    summary, written = folder / "summary.json", folder / "settings.toml"
    if written.exists():
        earlier = load_toml(written)
        changed = [key for key, value in values.items() if earlier.get(key) != value]
        if changed:
            sys.exit(
                f"{folder} holds a run with another {' and '.join(changed)}; remove it, or give "
                "another --output."
            )
        if (folder / "checkpoint").exists():
            values["resume"] = str(folder)
    if not summary.exists():
        print(f"{folder.name} ...", file=sys.stderr, flush=True)
        command = ["nice", "-n", "19", sys.executable, str(SIMULATION)]
        done = subprocess.run(
            [*command, *(f"{key}={_text(value)}" for key, value in values.items())],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0"},
            check=False,
        )
        if done.returncode:
            sys.exit(f"{folder.name}: {done.stderr.strip()}")
    return dict(json.loads(summary.read_text()))


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
