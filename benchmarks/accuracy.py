"""Accuracy of several methods on one protocol: per exit, on the clients, and the bytes it took.

``python benchmarks/accuracy.py --backbone FOLDER --data FILE.npz [--tune] [--methods M ...]
[--alphas A ...] [--seeds S ...] [--output FOLDER] [--change key=value ...]``

CIFAR-100 among 40 clients of equal size, ten a round, in four tiers of 3, 6, 9 and 12 blocks; 12
rounds of one local epoch at 96 px. Every run is a folder of `--output`. One that has finished is
not run again, and one that was stopped goes on, so the command may be stopped at any time. The
runs follow each other in single processes of one thread, at the lowest priority.

With `--tune` every method first gets four runs of half the rounds, with rates of a small grid,
alpha 1 and a seed of their own. The clients' accuracy on held-out parts of their training images
decides, never the test images. Methods with the heads of `exits` take its rates. The choice goes
to `rates.json` in the output folder, where it is read from then on.
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

sys.path.insert(0, str(Path(__file__).parents[1]))

from runs import finish_run

from settings import Settings, SettingsError

METHODS = ("exits", "accumulator", "reefl", "depthfl", "inclusivefl", "scalefl", "exclusivefl")
ALPHAS, SEEDS = (0.1, 1.0), (0, 1, 2)
PROTOCOL: dict[str, Any] = {
    "image-size": 96,
    "dataset": "cifar100",
    "partition": "dirichlet-equal",
    "num-clients": 40,
    "clients-per-round": 10,
    "exits": "4",
    "tiers": "; ".join(f"exit{depth} depth={depth} share=0.25" for depth in (3, 6, 9, 12)),
    "rounds": 12,
    "local-epochs": 1,
    "batch-size": 32,
    "optimizer": "adamw",
    "evaluate-every": 1000,  # after the last round alone
    "report": False,
}
# The published ramps end after 300 of 1000 rounds.
OPTIONS: dict[str, dict[str, Any]] = {
    "reefl": {"reefl-ramp-rounds": 4},
    "depthfl": {"depthfl-ramp-rounds": 4},
}
TUNING = {"alpha": 1.0, "seed": 1000}
# Methods that train the heads of `exits`, and take its rates.
TUNED_AS = dict.fromkeys(("depthfl", "inclusivefl", "exclusivefl"), "exits")
# What is not a head learns at the rate itself, heads so many times faster. A method that has heads
# alone spends its trials on theirs.
MODULATING = ("accumulator", "reefl")
RATES = [(rate, factor) for rate in (0.001, 0.002) for factor in (10.0, 40.0)]
HEAD_RATES = [(0.001, factor) for factor in (10.0, 20.0, 40.0, 80.0)]


def tune(method: str, output: Path, values: Mapping[str, Any]) -> dict[str, float]:
    """Return the best of a method's trials, each of half the rounds, by the clients' accuracy."""
    heads_alone = method not in MODULATING and values.get("adapter", "none") == "none"
    trials = HEAD_RATES if heads_alone else RATES
    scores = {}
    for rate, factor in trials:
        given = {**values, "method": method, **OPTIONS.get(method, {}), **TUNING}
        given |= {"learning-rate": rate, "head-rate": factor, "rounds": values["rounds"] // 2}
        name = f"tune-{method}-{rate:g}-{factor:g}"
        scores[rate, factor] = finish_run(output / name, given)["client-accuracy"]["mean"]
    best = max(scores, key=lambda trial: scores[trial])
    for trial, score in scores.items():
        mark = " <" if trial == best else ""
        print(
            f"  {method}: learning-rate {trial[0]:g}, head-rate {trial[1]:g}: {score:.4f}{mark}",
            flush=True,
        )
    return {"learning-rate": best[0], "head-rate": best[1]}


def row(method: str, summaries: list[dict[str, Any]]) -> str:
    """Write a line of the table: percentages, means over the seeds, and the range of one."""
    of_exits = [summary["accuracy"] for summary in summaries]
    of_clients = [summary["client-accuracy"] for summary in summaries]
    means = [100 * scores["mean"] for scores in of_exits]
    cells = [
        f"`{method}`",
        *(f"{100 * mean(scores[key] for scores in of_exits):.1f}" for key in of_exits[0]),
        f"{min(means):.1f} to {max(means):.1f}",
        f"{100 * mean(scores['mean'] for scores in of_clients):.1f}",
        f"{100 * mean(scores['worst-decile'] for scores in of_clients):.1f}",
        f"{mean(summary['bytes']['up'] for summary in summaries) / 1e6:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def table(summaries: Mapping[str, list[dict[str, Any]]]) -> Iterable[str]:
    """Write the lines of a table, a method each."""
    exits = [key for key in next(iter(summaries.values()))[0]["accuracy"] if key != "mean"]
    yield f"| method | {' | '.join(exits)} | mean | range | clients | worst decile | MB up |"
    yield f"| --- |{' ---: |' * (len(exits) + 5)}"
    for method, found in summaries.items():
        yield row(method, found)


def parse() -> tuple[argparse.Namespace, dict[str, Any]]:
    """Read the command line; return the options and the settings of the protocol."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--alphas", nargs="*", type=float, default=ALPHAS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--output", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--change", nargs="+", default=(), metavar="KEY=VALUE")
    options = parser.parse_args()
    given = {"backbone": options.backbone, "data-dir": options.data}
    changes = dict(change.partition("=")[::2] for change in options.change)
    try:
        # As the settings read them, so that a run's own file can be compared.
        complete = Settings.from_dict({**PROTOCOL, **given, **changes}).to_dict()
    except SettingsError as error:
        parser.error(str(error))
    return options, {key: complete[key] for key in {**PROTOCOL, **given, **changes}}


def main() -> int:
    """Tune if asked to, run what is missing, and print a table for each alpha."""
    # So that a run ends with the command, however that is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options, protocol = parse()
    output = options.output.resolve()
    rates_file = output / "rates.json"
    rates = json.loads(rates_file.read_text()) if rates_file.exists() else {}
    for method in options.methods if options.tune else ():
        chosen = tune(TUNED_AS.get(method, method), output, protocol)
        # Read again: other methods may be tuned at the same time.
        rates = json.loads(rates_file.read_text()) if rates_file.exists() else {}
        rates[method] = chosen
        rates_file.write_text(json.dumps(rates, indent=1) + "\n")
    if missing := [method for method in options.methods if method not in rates]:
        sys.exit(f"{rates_file} has no learning rates for {', '.join(missing)}; add --tune.")
    for alpha in options.alphas:
        summaries: dict[str, list[dict[str, Any]]] = {}
        for seed, method in itertools.product(options.seeds, options.methods):
            values = {**protocol, "method": method, **OPTIONS.get(method, {}), **rates[method]}
            folder = output / f"{method}-alpha{alpha:g}-seed{seed}"
            found = finish_run(folder, {**values, "alpha": alpha, "seed": seed})
            summaries.setdefault(method, []).append(found)
        print(f"\nalpha {alpha:g}, seeds {', '.join(map(str, options.seeds))}\n")
        print("\n".join(table(summaries)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
