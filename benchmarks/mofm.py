"""`mofm` and what it is compared with: accuracy at equal rounds, bytes and operations; memory.

``python benchmarks/mofm.py --backbone FOLDER --data FILE.npz [--arms A ...] [--alphas A ...]
[--seeds S ...] [--output FOLDER] [--change key=value ...]``, or ``--memory [--device cuda]``

CIFAR-100 among 20 clients, ten a round, 20 rounds of one local epoch, ViT-Tiny at 96 px, one exit;
Dirichlet partitions by `--alphas`, 0 for equal shares of every class. Clients score a test part of
their own, and the whole test set. Every run is a folder of `--output`; one that has finished is not
run again, and one that was stopped goes on. The runs follow each other, at the lowest priority.

Operations are counted by running a step of one image, forward and backward, for every set of
trained units that occurs; what is computed once and kept is counted once for each client.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from mofm_cost import RunCost, memory_table
from runs import finish_run

from server_app.history import bytes_by_round, clients_by_round, read_rows
from settings import Settings, SettingsError, load_toml

PROTOCOL: dict[str, Any] = {
    "method": "mofm",
    "image-size": 96,
    "dataset": "cifar100",
    "num-clients": 20,
    "clients-per-round": 10,
    "exits": "1",
    "tiers": "all depth=1.0 share=1",
    "rounds": 20,
    "stage-one-rounds": 0.7,
    "local-epochs": 1,
    "batch-size": 32,
    "optimizer": "adamw",
    "learning-rate": 0.001,
    "weight-decay": 1e-4,
    "test-pooled": True,
    "evaluate-every": 5,
    "report": False,
}
FEDAVG = {"activation": "all", "mofm-factors": "both"}
ARMS: dict[str, dict[str, Any]] = {
    "linear head": {"method": "exits"},
    "local LoRA": {"mofm-factors": "both", "stage-one-rounds": 0, "mofm-gate": "local"},
    "FedAvg-LoRA": FEDAVG,
    "FFA-LoRA": {"activation": "all"},
    "FedAvg-LoRA + fine-tuning": {**FEDAVG, "mofm-gate": "local"},
    "Ditto": {**FEDAVG, "mofm-gate": "local", "mofm-proximal": 0.1},
    "mofm": {},
    "mofm, both factors": {"mofm-factors": "both"},
    "mofm, all blocks": {"activation": "all"},
    "mofm, bottom-up": {"activation-order": "bottom-up"},
    "mofm, plateau": {"activation": "plateau", "activation-patience": 2},
    "mofm, no images held back": {"gate-share": 0.0},
    "mofm, private gate": {"mofm-gate": "private"},
    "mofm, one number": {"mofm-gate": "scalar"},
    "mofm, half and half": {"mofm-gate": "half"},
}
ONE_STAGE = ("FedAvg-LoRA", "FFA-LoRA")
MAIN = "mofm"


class Result:
    """A finished run: its summary, and what it had reached and spent by round."""

    def __init__(self, folder: Path, summary: dict[str, Any]) -> None:
        self.summary = summary
        clients = read_rows(folder / "clients.jsonl")
        metrics = read_rows(folder / "metrics.jsonl")
        self.accuracy = clients_by_round(clients)
        self.bytes = bytes_by_round(metrics)
        cost = RunCost(Settings.from_dict(load_toml(folder / "settings.toml")))
        self.operations = cost.by_round(clients)
        last = [row for row in clients if row["round"] == summary["rounds"]]
        weights = [row["local-weight"] for row in last if "local-weight" in row]
        self.local_weight = mean(weights) if weights else None

    @property
    def pooled(self) -> float:
        """Mean accuracy of the clients' models on the whole test set, or that of the only model."""
        of_clients = self.summary.get("client-accuracy-of", {}).get("pooled")
        return float((of_clients or self.summary["accuracy"])["mean"])

    def within(self, spent: Mapping[int, float], budget: float) -> float | None:
        """Return the clients' accuracy at the last evaluation before a budget is spent."""
        reached = [number for number in self.accuracy if spent.get(number, 0) <= budget]
        return self.accuracy[max(reached)] if reached else None


def table(results: Mapping[str, list[Result]]) -> Iterable[str]:
    """Write the lines of a table, an arm each: percentages and sums, means over the seeds."""
    yield (
        "| arm | own test | range | worst decile | global test | local weight | MB up | MB down "
        f"| TFLOP | own test within the bytes of {MAIN} | within its operations |"
    )
    yield f"| --- |{' ---: |' * 10}"
    budgets = results.get(MAIN, [])
    for arm, found in results.items():
        own = [100 * result.summary["client-accuracy"]["mean"] for result in found]
        within_bytes, within_operations = [], []
        for result, budget in zip(found, budgets, strict=False):
            within_bytes.append(result.within(result.bytes, max(budget.bytes.values())))
            limit = max(budget.operations.values())
            within_operations.append(result.within(result.operations, limit))
        worst = [100 * result.summary["client-accuracy"]["worst-decile"] for result in found]
        cells = [
            arm,
            f"{mean(own):.1f}",
            f"{min(own):.1f} to {max(own):.1f}",
            f"{mean(worst):.1f}",
            f"{100 * mean(result.pooled for result in found):.1f}",
            _mean_of([result.local_weight for result in found], 1, 2),
            f"{mean(result.summary['bytes']['up'] for result in found) / 1e6:.2f}",
            f"{mean(result.summary['bytes']['down'] for result in found) / 1e6:.2f}",
            f"{mean(max(result.operations.values()) for result in found) / 1e12:.1f}",
            _mean_of(within_bytes, 100, 1),
            _mean_of(within_operations, 100, 1),
        ]
        yield f"| {' | '.join(cells)} |"


def _mean_of(values: list[float | None], factor: float, digits: int) -> str:
    """Write a mean, or nothing where a value is missing."""
    known = [value for value in values if value is not None]
    return f"{factor * mean(known):.{digits}f}" if values and len(known) == len(values) else ""


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--backbone")
    parser.add_argument("--data")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--alphas", nargs="+", type=float, default=(0.1, 0.5, 0.0))
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--output", type=Path, default=Path("runs/mofm"))
    parser.add_argument("--change", nargs="+", default=(), metavar="KEY=VALUE")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    if not options.memory and not (options.backbone and options.data):
        parser.error("give --backbone and --data, or --memory.")
    return options


def main() -> int:
    """Print the table of memory, or run what is missing and print a table for each alpha."""
    # So that a run ends with the command, however that is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = parse()
    if options.memory:
        print("\n".join(memory_table(options.device)))
        return 0
    given = {"backbone": options.backbone, "data-dir": options.data}
    changes = dict(change.partition("=")[::2] for change in options.change)
    for alpha in options.alphas:
        spread = {"partition": "dirichlet", "alpha": alpha} if alpha else {"partition": "iid"}
        results: dict[str, list[Result]] = {}
        for seed, arm in itertools.product(options.seeds, options.arms):
            name = "".join(c if c.isalnum() else "-" for c in arm)
            folder = options.output.resolve() / f"{name}-alpha{alpha:g}-seed{seed}"
            values = {**PROTOCOL, **given, **spread, **ARMS[arm], **changes, "seed": seed}
            if arm in ONE_STAGE:
                values["stage-one-rounds"] = values["rounds"]
            values["state-dir"] = f"{folder}-own"  # so that a run that was stopped can go on
            try:
                complete = Settings.from_dict(values).to_dict()
            except SettingsError as error:
                sys.exit(str(error))
            # As the settings read them, so that a run's own file can be compared.
            summary = finish_run(folder, {key: complete[key] for key in values})
            results.setdefault(arm, []).append(Result(folder, summary))
        print(f"\n{'alpha ' + format(alpha, 'g') if alpha else 'IID'}\n")
        print("\n".join(table(results)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
