"""Clients per second of a simulated round: this app, a plain Flower app, and the limit of the CPU.

``python benchmarks/simulation.py [--clients 20 200] [--images 8 32] [--runs RUN ...]``

All train the same adapters (LoRA of rank 8 on q and v of every block, and a head) on a ViT-Tiny at
96 px, 10 clients in a round, one epoch, one thread per client:

* the limit: the bare training step on ready tensors, in as many processes as train at a time;
* ``plain``: a Flower app as tutorials write it (`plain_flower_app.py`), on Ray;
* ``ray``, ``inprocess``: this app, the latter three times, in one process with its limit;
* ``cached``: this app in-process with frozen exits alone, whose features are kept.

Speed does not depend on weights and pictures, so both are random. A figure is 10 over the median
time of a round, the first two left out; the limit is measured right before and after each run, as
the speed of a shared machine changes within minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PER_ROUND, WARM_UP, CORES = 10, 2, os.cpu_count() or 1
WANTED = {("ray", 32): 0.85, ("ray", 8): 0.70, ("inprocess", 32): 0.95, ("inprocess", 8): 0.95}
SETTINGS = {
    "image-size": 96,
    "dataset": "cifar100",
    "partition": "iid",
    "clients-per-round": PER_ROUND,
    "local-epochs": 1,
    "schedule": "constant",
    "head-rate": 1.0,
    "tiers": "all depth=1.0 share=1",
    "checkpoint-every": 1000,
}
METHODS: dict[str, dict[str, Any]] = {
    "adapters": {
        "method": "exits",
        "exits": "1",
        "adapter": "lora",
        "adapter-rank": 8,
        "adapter-alpha": 16.0,
    },
    "frozen": {"method": "exits", "exits": "1"},
}


def write_inputs(folder: Path, clients: int, images: int) -> None:
    """Write a ViT-Tiny/16 and labelled pictures, of which each client trains on `images`."""
    import numpy as np
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    config = ViTConfig(hidden_size=192, num_attention_heads=3, intermediate_size=768)
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder / "vit")
    ViTImageProcessor().save_pretrained(folder / "vit")
    generator = np.random.default_rng(0)
    total = clients * images * 5 // 4  # a fifth of each client's pictures is its test part
    parts: dict[str, Any] = {
        f"{part}_{name}": value
        for part, count in (("train", total), ("test", 100))
        for name, value in (
            ("images", generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)),
            ("labels", np.arange(count) % 100),
        )
    }
    np.savez(folder / "images.npz", **parts, classes=[f"class {c}" for c in range(100)])


def app_settings(folder: Path, method: str, clients: int, rounds: int) -> list[str]:
    """Write the settings of a run of this app as `key=value`."""
    values: dict[str, Any] = {
        **SETTINGS,
        **METHODS[method],
        "backbone": folder / "vit",
        "data-dir": folder / "images.npz",
        "num-clients": clients,
        "rounds": rounds,
        "evaluate-every": rounds,
        "output-dir": folder / "run",
    }
    return [f"{key}={value}" for key, value in values.items()]


def run_app(folder: Path, runtime: str, method: str, clients: int, rounds: int) -> list[float]:
    """Run this app; return the seconds of every round's training and aggregation."""
    command = [sys.executable, str(ROOT / "run_simulation.py"), "--runtime", runtime]
    _run([*command, *app_settings(folder, method, clients, rounds)])
    return _seconds(folder)


def run_plain(folder: Path, clients: int, rounds: int) -> list[float]:
    """Run the plain Flower app on Ray; return the seconds of every round."""
    command = [sys.executable, str(ROOT / "benchmarks" / "plain_flower_app.py"), str(folder)]
    return list(json.loads(_run([*command, str(clients), str(rounds)]).splitlines()[-1]))


def run_limit(images: int, processes: int) -> float:
    """Run the bare step in some processes at a time; return clients per second of all together."""
    steps = str(480 // images + WARM_UP)
    command = [sys.executable, __file__, "--bare", steps, "--images", str(images)]
    started = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=_environment(),
        )
        for _ in range(processes)
    ]
    return sum(1 / float(process.communicate()[0]) for process in started)


def run_pairs(folder: Path, images: int, clients: int, rounds: int) -> tuple[float, float]:
    """Run this app in-process and the bare step before and after it, in one process, three times.

    Returns
    -------
    tuple[float, float]
        Medians: clients per second of the app, and of the step.
    """
    command = [sys.executable, __file__, "--pairs", str(folder), "--images", str(images)]
    out = _run([*command, "--clients", str(clients), "--rounds", str(rounds)])
    app, bare = (statistics.median(times) for times in json.loads(out.splitlines()[-1]))
    return 1 / app, 1 / bare


def time_pairs(folder: Path, images: int, clients: int, rounds: int) -> list[list[float]]:
    """Return seconds a client of three runs, and of the bare step before and after each."""
    from run_simulation import run_in_process
    from settings import Settings

    steps = 240 // images + WARM_UP
    found = [time_bare_step(images, steps)]
    app, bare = [], []
    for _ in range(3):
        with contextlib.redirect_stdout(io.StringIO()):
            words = app_settings(folder, "adapters", clients, rounds)
            run_in_process(Settings.from_dict(dict(w.split("=", 1) for w in words)))
        app.append(1 / _rate(_seconds(folder)))
        found.append(time_bare_step(images, steps))
        bare.append((found[-2] + found[-1]) / 2)
    return [app, bare]


def time_bare_step(images: int, steps: int) -> float:
    """Return the median seconds of one client's training: forward, backward, clipping, AdamW."""
    import torch
    from step import make_step, vit_tiny

    from models import AdapterSpec, build_model

    torch.set_num_threads(1)
    backbone = vit_tiny(96)
    model = build_model("exits", backbone, (backbone.depth,), 100, adapter=AdapterSpec("lora", 8))
    pixels = torch.randn(images, 3, backbone.image_size, backbone.image_size)
    step = make_step(model, pixels, torch.arange(images) % 100, backbone.depth)
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times[WARM_UP:])


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0"}


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=_environment(), check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def _seconds(folder: Path) -> list[float]:
    """Read the seconds of every round's training and aggregation."""
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").open()]
    return [row["seconds"]["train"] for row in rows if "seconds" in row]


def _rate(times: list[float]) -> float:
    return PER_ROUND / statistics.median(times[WARM_UP:])


def measure(run: str, folder: Path, images: int, clients: int, rounds: int) -> tuple[float, float]:
    """Return clients per second of a run, and of its limit."""
    if run == "inprocess":
        return run_pairs(folder, images, clients, rounds)
    processes = CORES if run in ("plain", "ray") else 1
    before = run_limit(images, processes)
    if run == "plain":
        times = run_plain(folder, clients, rounds)
    elif run == "cached":
        # Each round meets ten clients: enough of them that most are known.
        times = run_app(folder, "inprocess", "frozen", clients, 3 * clients)
    else:
        times = run_app(folder, run, "adapters", clients, rounds)
    return _rate(times), (before + run_limit(images, processes)) / 2


def main() -> int:
    """Print a table; exit with 1 when a share of the limit is below what is wanted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[20, 200])
    parser.add_argument("--images", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--rounds", type=int, default=24)
    names = ("plain", "ray", "inprocess", "cached")
    parser.add_argument("--runs", nargs="+", default=names, choices=names)
    parser.add_argument("--bare", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--pairs", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        print(time_bare_step(options.images[0], options.bare))
        return 0
    if options.pairs:
        one = options.images[0], options.clients[0], options.rounds
        print(json.dumps(time_pairs(options.pairs, *one)))
        return 0
    failed = False
    columns = f"{'clients/s':>10}{'limit':>8}{'share':>8}{'wanted':>8}"
    print(f"{'images':>6} {'clients':>7} {'run':<10}{columns}")
    for images in options.images:
        for clients in options.clients:
            with tempfile.TemporaryDirectory() as place:
                folder = Path(place)
                write_inputs(folder, clients, images)
                for run in options.runs:
                    rate, limit = measure(run, folder, images, clients, options.rounds)
                    wanted = WANTED.get((run, images))
                    failed |= wanted is not None and rate / limit < wanted
                    print(
                        f"{images:>6} {clients:>7} {run:<10}{rate:>10.2f}{limit:>8.2f}"
                        f"{rate / limit:>8.2f}{wanted or '':>8}",
                        flush=True,
                    )
    return int(failed)


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
    sys.exit(main())
