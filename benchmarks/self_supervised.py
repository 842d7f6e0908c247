"""Training without labels, layer by layer and otherwise: what linear classifiers make of it.

``python benchmarks/self_supervised.py --data FILE.npz [--arms A ...] [--seeds S ...]
[--output FOLDER] [--change key=value ...]``

A ViT of the built-in backbone's shape, from random weights, learns CIFAR-10's images by SimCLR
among 10 clients, 4 a round, in 36 rounds of one local epoch: 3 rounds for each of its 12 blocks in
the layer-wise arms, and as many in all for the others. `none` trains nothing. Then linear
classifiers are fitted on 5,000 labelled images, and the whole model is fine-tuned on them.

Every run is a folder of `--output`. One that has finished is not run again, and one that was
stopped goes on, so the command may be stopped at any time. Runs follow each other in single
processes of one thread, at the lowest priority.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from runs import finish_run

from client_app.training import make_predictor
from data import Part
from server_app.downstream import Downstream
from settings import Settings, SettingsError
from wiring import class_names, get_source, get_transform, make_model

NONE = "none"
ARMS: dict[str, dict[str, Any]] = {
    "layer-wise": {"layer-order": "bottom-up"},
    "depth-dropout": {"layer-order": "bottom-up", "depth-budget": 6},
    "progressive": {"layer-order": "progressive"},
    "end-to-end": {"layer-order": "bottom-up", "window": 12},
    NONE: {},
}
PROTOCOL: dict[str, Any] = {
    "method": "layerwise",
    "objective": "simclr",
    "backbone": "builtin",
    "backbone-start": "random",
    "adapter": "full",
    "exits": "12",
    "tiers": "all depth=1.0 share=1",
    "dataset": "cifar10",
    "partition": "iid",
    "client-test": "central",
    "num-clients": 10,
    "clients-per-round": 4,
    "rounds": 36,
    "local-epochs": 1,
    "batch-size": 64,
    "learning-rate": 0.001,
    "schedule": "constant",
    "downstream-images": 5000,
    "downstream-epochs": 10,
    "evaluate-every": 1000,  # after the last round alone
    "report": False,
}


def untrained(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run that trains nothing would have in its summary."""
    settings = Settings.from_dict(dict(values))
    source, classes = get_source(settings, settings.data_dir), len(class_names(settings))
    downstream = Downstream(settings, source, classes)
    start = make_model(settings, classes).adapter_arrays()
    assert source.test is not None
    downstream.take(start)
    transform = get_transform(downstream.settings, source, training=False)
    predictor = make_predictor(downstream.model, downstream.settings)
    scores = predictor.score(Part.whole(source.test), transform)
    tuned = downstream.fine_tune(start)
    found: dict[str, Any] = {"linear": {str(e): share for e, share in scores.accuracy.items()}}
    if tuned is not None:
        found["fine-tune"] = tuned
    return {"downstream": found, "bytes": {"up": 0, "down": 0}, "seconds": 0.0}


def row(arm: str, summaries: list[dict[str, Any]]) -> str:
    """Write a line of the table: percentages and means over the seeds."""
    found = [summary["downstream"] for summary in summaries]
    cells = [
        f"`{arm}`",
        *(f"{100 * mean(f['linear'][b] for f in found):.1f}" for b in _shown(found[0]["linear"])),
        f"{100 * mean(f['fine-tune'] for f in found):.1f}" if "fine-tune" in found[0] else "-",
        f"{mean(summary['bytes']['up'] for summary in summaries) / 1e6:.1f}",
        f"{mean(summary['bytes']['down'] for summary in summaries) / 1e6:.1f}",
        f"{mean(summary['seconds'] for summary in summaries) / 60:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def _shown(linear: Mapping[str, float]) -> list[str]:
    """Return every third exit, as published (layers 3, 6 and 12)."""
    return list(linear)[2::3]


def main() -> int:
    """Run what is missing, and print the table."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=(0,))
    parser.add_argument("--output", type=Path, default=Path("runs/self-supervised"))
    parser.add_argument("--change", nargs="+", default=(), metavar="KEY=VALUE")
    options = parser.parse_args()
    changes = dict(change.partition("=")[::2] for change in options.change)
    summaries: dict[str, list[dict[str, Any]]] = {}
    for seed, arm in itertools.product(options.seeds, options.arms):
        given = {**PROTOCOL, "data-dir": options.data, **ARMS[arm], "seed": seed, **changes}
        try:
            complete = Settings.from_dict(given).to_dict()
        except SettingsError as error:
            parser.error(str(error))
        values = {key: complete[key] for key in given}
        folder = options.output.resolve() / f"{arm}-seed{seed}"
        found = untrained(values) if arm == NONE else finish_run(folder, values)
        summaries.setdefault(arm, []).append(found)
    exits = _shown(next(iter(summaries.values()))[0]["downstream"]["linear"])
    print(f"| arm | {' | '.join(exits)} | fine-tune | MB up | MB down | minutes |")
    print(f"| --- |{' ---: |' * (len(exits) + 4)}")
    for arm, of_arm in summaries.items():
        print(row(arm, of_arm), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
