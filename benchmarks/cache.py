"""What kept tokens save: the time of a training step by phase, and of whole runs.

``python benchmarks/cache.py [--batch B] [--rounds N] [--image-size S] [--blocks P ...]
[--adapter KIND] [--adapter-targets LIST] [--device cuda] [--runs N]``

A step is what a client of `layerwise` does once per batch: with kept tokens it begins at the block
that is trained, or behind its MLP, without them at the pixels. `bottom-up` ends at the head of that
block, `top-down` at the head after the last. Both kinds alternate, and figures are medians. The
first epoch of a phase fills the cache, and is not measured here; in the whole runs it is a part of
the time.

The runs are of 12 phases on the built-in backbone and digits, in-process and in turn, with and
without a cache; ``--runs 0`` leaves them out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from step import compare, vit_tiny
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from client_app.feature_cache import FeatureBudget
from client_app.predictor import Predictor
from data import BatchTransform, ImageSet, Part
from models import AdapterModel, AdapterSpec, Backbone, build_model, parse_targets

SIMULATION = Path(__file__).parents[1] / "run_simulation.py"
CLASSES = 100
RUN = [
    "method=layerwise",
    "adapter-rank=8",
    "rounds=24",
    "local-epochs=3",
    "num-clients=10",
    "clients-per-round=10",
    "learning-rate=0.01",
    "evaluate-every=24",
    "report=false",
    "tiers=all depth=1.0 share=1",
]
ORDERS = {"bottom-up": "exits=12", "top-down": "exits=12,"}


def make_part(size: int, side: int) -> Part:
    """Return random images that need no resizing, as many as a batch has."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (size, side, side, 3), dtype=np.uint8)
    labels = generator.integers(0, CLASSES, size)
    return Part.whole(ImageSet(pixels, labels, tuple(map(str, range(CLASSES)))))


def make_step(
    model: AdapterModel,
    part: Part,
    transform: BatchTransform,
    block: int,
    depth: int,
    *,
    kept: bool,
) -> Callable[[], None]:
    """Return a function that trains a block and the head after block `depth` for one batch."""
    units = [f"block{block}", f"head{depth}"]
    predictor = Predictor(model, budget=FeatureBudget(10**11) if kept else None)
    model.set_trained(units)
    trained = [p for p in model.adapter_parameters().values() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    model.missing = frozenset(f"head{exit_block}" for exit_block in model.exits) - set(units)
    tokens = predictor.open_tokens(part, transform, units)
    order = np.random.default_rng(1).permutation(len(part))

    def step() -> None:
        for logits, labels in predictor.batches(
            part, transform, depth, len(part), order, tokens=tokens
        ):
            optimizer.zero_grad()
            model.loss(logits, labels).backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()

    return step


def time_steps(backbone: Backbone, options: argparse.Namespace) -> None:
    """Print a row for each order and block."""
    side, device = backbone.image_size, options.device
    part = make_part(options.batch, side)
    transform = BatchTransform(side, backbone.mean, backbone.std, device=device)
    exits = tuple(range(1, backbone.depth + 1))
    targets = parse_targets(options.adapter_targets, options.adapter)
    spec = AdapterSpec(options.adapter, 8, targets=targets)
    model = build_model("layerwise", backbone, exits, CLASSES, adapter=spec).to(device).train()
    print(f"{'order':<11}{'block':>6}{'from pixels ms':>16}{'kept ms':>10}{'ratio':>8}")
    for order in ORDERS:
        for block in options.blocks:
            depth = block if order == "bottom-up" else backbone.depth
            steps = [make_step(model, part, transform, block, depth, kept=k) for k in (True, False)]
            for step in steps:
                step()
            kept, ratio = compare(steps[0], steps[1], options.rounds, device)
            anew = kept * ratio
            print(
                f"{order:<11}{block:>6}{1000 * anew:>16.1f}{1000 * kept:>10.1f}{ratio:>8.1f}",
                flush=True,
            )


def time_runs(options: argparse.Namespace) -> None:
    """Print the seconds that clients trained in whole runs, with and without a cache."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0"}
    print(f"\n{'run':<11}{'no cache s':>12}{'cache s':>10}{'ratio':>8}")
    for order, exits in ORDERS.items():
        seconds: dict[int, list[float]] = {0: [], 1000: []}
        for _ in range(options.runs):
            for megabytes, found in seconds.items():
                with tempfile.TemporaryDirectory() as folder:
                    given = [f"layer-order={order}", exits, f"cache-megabytes={megabytes}"]
                    given.append(f"adapter={options.adapter}")
                    given.append(f"adapter-targets={options.adapter_targets}")
                    command = [sys.executable, str(SIMULATION), *RUN, *given]
                    command.append(f"output-dir={folder}")
                    subprocess.run(command, env=environment, check=True, capture_output=True)
                    rows = (Path(folder) / "metrics.jsonl").read_text().splitlines()
                    parts = [json.loads(row).get("seconds", {}) for row in rows]
                    found.append(sum(part.get("train", 0.0) for part in parts))
        anew, kept = (statistics.median(found) for found in seconds.values())
        ratio = statistics.median(a / k for a, k in zip(*seconds.values(), strict=True))
        print(f"{order:<11}{anew:>12.1f}{kept:>10.1f}{ratio:>8.2f}", flush=True)


def main() -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--image-size", type=int, default=0)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--blocks", type=int, nargs="+", default=[2, 6, 9, 12])
    parser.add_argument("--adapter", default="parallel")
    parser.add_argument("--adapter-targets", default="")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    backbone = vit_tiny(options.image_size).to(options.device)
    kind = f"adapter {options.adapter} {options.adapter_targets}"
    where = f"{options.device}, {options.threads} threads, {kind}"
    print(f"ViT-Tiny/16, {backbone.image_size} px, batch {options.batch}, {where}")
    time_steps(backbone, options)
    if options.runs:
        time_runs(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
