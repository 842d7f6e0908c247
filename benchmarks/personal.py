"""Personal attention: accuracy on each client's own test part, by who makes its attention.

``python benchmarks/personal.py --backbone FOLDER --cifar10 FILE.npz --cifar100 FILE.npz [--tune]
[--cases C ...] [--methods M ...] [--seeds S ...] [--output FOLDER] [--change key=value ...]``

20 clients share 4,000 images, half of each client's for its test; ten a round, 30 rounds of one
local epoch, ViT-Tiny at 64 px, LoRA's B of rank 4 in q, k and v. Cases: 2 of 10 and 10 of 100
classes a client, and Dirichlet 0.1 and 0.3 over the 100. `shared-attention` is FedAvg of the same
tensors, and gives two rows: as it is, and after five epochs on each client.

A run is a folder of `--output`; one that finished is not run again. With `--tune` each method first
gets a grid of rates, half the rounds each, on the case of 10 of 100 classes with a seed of its
own; `rates.json` in the output folder keeps the best.
"""

from __future__ import annotations

import argparse
import itertools
import json
import signal
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from runs import finish_run

from data import load_source
from settings import Settings, SettingsError

METHODS = ("hyper-attention", "local-attention", "shared-attention")
CASES: dict[str, dict[str, Any]] = {
    "2-of-10": {"dataset": "cifar10", "partition": "pathological", "classes-per-client": 2},
    "10-of-100": {"dataset": "cifar100", "partition": "pathological", "classes-per-client": 10},
    "dirichlet-0.1": {"dataset": "cifar100", "partition": "dirichlet-equal", "alpha": 0.1},
    "dirichlet-0.3": {"dataset": "cifar100", "partition": "dirichlet-equal", "alpha": 0.3},
}
SEEDS, IMAGES = (0, 1, 2), 4000
PROTOCOL: dict[str, Any] = {
    "image-size": 64,
    "num-clients": 20,
    "clients-per-round": 10,
    "exits": "1",
    "tiers": "all depth=1.0 share=1",
    "test-share": 0.5,
    "rounds": 30,
    "local-epochs": 1,
    "batch-size": 32,
    "optimizer": "adamw",
    "evaluate-every": 1000,  # after the last round alone
    "report": False,
}
OPTIONS: dict[str, dict[str, Any]] = {"shared-attention": {"personalise-epochs": 5}}
TUNING_CASE, TUNING_SEED = "10-of-100", 1000
LOCAL_RATES = [(rate, factor) for rate in (0.001, 0.004) for factor in (2.5, 10.0)]
SERVER_RATES = (0.1, 1.0)


def write_images(dataset: str, file: Path, folder: Path) -> Path:
    """Write the first of a data set's images, class by class alike, as a file of its own."""
    written = folder / f"{dataset}.npz"
    if written.exists():
        return written
    source = load_source(dataset, str(file), image_size=32, seed=0)
    classes = len(source.train.classes)
    labels = np.asarray(source.train.labels)
    chosen = [np.flatnonzero(labels == c)[: IMAGES // classes] for c in range(classes)]
    positions = np.sort(np.concatenate(chosen))
    assert source.test is not None
    test = slice(0, 1000)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(
        written,
        train_images=source.train.images[positions],
        train_labels=labels[positions],
        test_images=source.test.images[test],
        test_labels=np.asarray(source.test.labels)[test],
        classes=np.asarray(source.train.classes),
    )
    return written


def tune(method: str, output: Path, values: Mapping[str, Any]) -> dict[str, float]:
    """Return the best rates of a method, by the clients' accuracy after half the rounds."""
    scores = {}
    servers = SERVER_RATES if method == "hyper-attention" else (None,)
    for (rate, factor), server in itertools.product(LOCAL_RATES, servers):
        rates = {"learning-rate": rate, "head-rate": factor}
        rates |= {} if server is None else {"hyper-attention-rate": server}
        given = {**values, **CASES[TUNING_CASE], "method": method, "seed": TUNING_SEED, **rates}
        given["rounds"] = values["rounds"] // 2
        name = "-".join(["tune", method, *(f"{value:g}" for value in rates.values())])
        scores[tuple(rates.items())] = finish_run(output / name, given)["client-accuracy"]["mean"]
    best = max(scores, key=lambda trial: scores[trial])
    for trial, score in scores.items():
        print(f"  {method}: {dict(trial)}: {score:.4f}{' <' if trial == best else ''}", flush=True)
    return dict(best)


def rows(method: str, summaries: list[dict[str, Any]]) -> Iterable[str]:
    """Write the lines of a method: percentages, means over the seeds and their range."""
    found = {f"`{method}`": [summary["client-accuracy"] for summary in summaries]}
    if "personalisation" in summaries[0]:
        tuned = [summary["personalisation"]["after"] for summary in summaries]
        found[f"`{method}`, then fine-tuned"] = tuned
    megabytes = mean(summary["bytes"]["up"] for summary in summaries) / 1e6
    for name, of_seeds in found.items():
        means = [100 * scores["mean"] for scores in of_seeds]
        worst = 100 * mean(scores["worst-decile"] for scores in of_seeds)
        spread = f"{min(means):.1f} to {max(means):.1f}"
        yield f"| {name} | {mean(means):.1f} | {spread} | {worst:.1f} | {megabytes:.1f} |"


def main() -> int:
    """Tune if asked to, run what is missing, and print a table for each case."""
    # So that a run ends with the command, however that is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--cifar10", type=Path, required=True)
    parser.add_argument("--cifar100", type=Path, required=True)
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--output", type=Path, default=Path("runs/personal"))
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--change", nargs="+", default=(), metavar="KEY=VALUE")
    options = parser.parse_args()
    output = options.output.resolve()
    changes = dict(change.partition("=")[::2] for change in options.change)
    protocol = {**PROTOCOL, "backbone": options.backbone, **changes}
    files = {
        name: str(write_images(name, getattr(options, name), output / "images"))
        for name in ("cifar10", "cifar100")
    }

    def complete(values: Mapping[str, Any]) -> dict[str, Any]:
        """Return values as the settings read them, so that a run's file can be compared."""
        given = {**values, "data-dir": files[values["dataset"]]}
        try:
            read = Settings.from_dict(given).to_dict()
        except SettingsError as error:
            parser.error(str(error))
        return {key: read[key] for key in given}

    rates_file = output / "rates.json"
    rates = json.loads(rates_file.read_text()) if rates_file.exists() else {}
    if options.tune:
        values = complete({**protocol, **CASES[TUNING_CASE]})
        for method in options.methods:
            rates[method] = tune(method, output, values)
            rates_file.write_text(json.dumps(rates, indent=1) + "\n")
    if missing := [method for method in options.methods if method not in rates]:
        sys.exit(f"{rates_file} has no learning rates for {', '.join(missing)}; add --tune.")
    for case in options.cases:
        print(f"\n{case}, seeds {', '.join(map(str, options.seeds))}\n")
        print("| method | mean of clients | range | worst decile | MB up |")
        print("| --- | ---: | ---: | ---: | ---: |")
        for method in options.methods:
            summaries = []
            for seed in options.seeds:
                values = {**protocol, **CASES[case], **OPTIONS.get(method, {}), **rates[method]}
                given = complete({**values, "method": method, "seed": seed})
                summaries.append(finish_run(output / f"{case}-{method}-seed{seed}", given))
            print("\n".join(rows(method, summaries)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
