"""Layer-wise training against its cheap competitors: accuracy at equal rounds and at equal bytes.

``python benchmarks/layerwise.py --backbone FOLDER --data FILE.npz [--rows NAME ...]
[--seeds S ...] [--output FOLDER] [--change key=value ...]``

CIFAR-100 among 20 clients of equal size, ten a round, all of one tier; adapters of rank 16, 96 px.
The first table gives every row 36 rounds. In the second each has as many as the bytes of
`top-down` pay for, from 2 (or one for each phase) to 72, with its own cosine. Rows of both say what
training takes at its peak, so that equals in memory can be compared. Gradient checkpointing has no
row: it computes the numbers of `end to end`, in more time and less memory.

Every run is a folder of `--output`. One that has finished is not run again, and one that was
stopped goes on, so the command may be stopped at any time. Learning rates are given and not tuned.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from runs import finish_run

sys.path.insert(0, str(Path(__file__).parents[1]))

from settings import Settings, SettingsError

SEEDS = (0, 1, 2)
ROUNDS, FEWEST, MOST = 36, 2, 72
BLOCKS = 12
PAYS = "top-down"  # the row whose bytes the others get in the second table
PROTOCOL: dict[str, Any] = {
    "image-size": 96,
    "dataset": "cifar100",
    "partition": "dirichlet-equal",
    "alpha": 1.0,
    "num-clients": 20,
    "clients-per-round": 10,
    "tiers": "all depth=1.0 share=1",
    "exits": "12,",
    "adapter": "parallel",
    "adapter-rank": 16,
    "local-epochs": 1,
    "batch-size": 32,
    "optimizer": "adamw",
    "learning-rate": 0.002,
    "head-rate": 10.0,
    "evaluate-every": 1000,  # after the last round alone
    "report": False,
}
LAYERWISE = {"method": "layerwise"}
ROWS: dict[str, dict[str, Any]] = {
    "linear probe": {"method": "exits", "adapter": "none"},
    "last block": {"method": "exits", "tiers": "all depth=1.0 trained=1 share=1"},
    "top 4 blocks": {"method": "exits", "tiers": "all depth=1.0 trained=4 share=1"},
    "end to end": {**LAYERWISE, "window": 12},
    "top-down": LAYERWISE,
    "top-down, window 4": {**LAYERWISE, "window": 4},
    "bottom-up": {**LAYERWISE, "layer-order": "bottom-up", "exits": "12"},
    "bottom-up, final head": {**LAYERWISE, "layer-order": "bottom-up"},
    "progressive": {**LAYERWISE, "layer-order": "progressive", "exits": "12"},
}


def affordable(name: str, found: Mapping[str, Any], paid: Mapping[str, Any]) -> int:
    """Return the rounds that the bytes of one summary pay for at the price of a row's own."""
    row = ROWS[name]
    phases = BLOCKS // row.get("window", 1) if row["method"] == "layerwise" else FEWEST
    wanted = round(ROUNDS * paid["bytes"]["up"] / found["bytes"]["up"])
    return min(max(wanted, phases, FEWEST), MOST)


def table(summaries: Mapping[str, list[dict[str, Any]]]) -> Iterable[str]:
    """Write the lines of a table: percentages of the last exit, means over the seeds."""
    yield "| | rounds | accuracy | range | clients | MB up | peak MB |"
    yield f"| --- |{' ---: |' * 6}"
    for name, found in summaries.items():
        scores = [100 * summary["accuracy"]["12"] for summary in found]
        cells = [
            name,
            f"{found[0]['rounds']}",
            f"{mean(scores):.1f}",
            f"{min(scores):.1f} to {max(scores):.1f}",
            f"{100 * mean(summary['client-accuracy']['mean'] for summary in found):.1f}",
            f"{mean(summary['bytes']['up'] for summary in found) / 1e6:.1f}",
            f"{max(found[0]['peak-train-bytes'].values()) / 1e6:.0f}",
        ]
        yield f"| {' | '.join(cells)} |"


def parse() -> tuple[argparse.Namespace, dict[str, Any]]:
    """Read the command line; return the options and the settings of the protocol."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--output", type=Path, default=Path("runs/layerwise"))
    parser.add_argument("--change", nargs="+", default=(), metavar="KEY=VALUE")
    options = parser.parse_args()
    given = {"backbone": options.backbone, "data-dir": options.data}
    return options, {**PROTOCOL, **given, **dict(c.partition("=")[::2] for c in options.change)}


def main() -> int:
    """Run what is missing, and print both tables."""
    # So that a run ends with the command, however that is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options, protocol = parse()
    output = options.output.resolve()

    def summary(name: str, seed: int, rounds: int) -> dict[str, Any]:
        values = {**protocol, **ROWS[name], "seed": seed, "rounds": rounds}
        try:
            # As the settings read them, so that a run's own file can be compared.
            complete = Settings.from_dict(values).to_dict()
        except SettingsError as error:
            sys.exit(str(error))
        folder = f"{name.replace(', ', '-').replace(' ', '-')}-rounds{rounds}-seed{seed}"
        return finish_run(output / folder, {key: complete[key] for key in values})

    def rows(rounds: Mapping[str, int]) -> dict[str, list[dict[str, Any]]]:
        # Seed by seed, so that a command that is stopped leaves whole seeds.
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in rounds}
        for seed in options.seeds:
            for name, number in rounds.items():
                found[name].append(summary(name, seed, number))
        return found

    alike = rows(dict.fromkeys(options.rows, ROUNDS))
    print(f"\nequal rounds, seeds {', '.join(map(str, options.seeds))}\n")
    print("\n".join(table(alike)), flush=True)
    paid = summary(PAYS, options.seeds[0], ROUNDS)
    paid_for = rows({name: affordable(name, found[0], paid) for name, found in alike.items()})
    print(f"\nequal bytes up, seeds {', '.join(map(str, options.seeds))}\n")
    print("\n".join(table(paid_for)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
