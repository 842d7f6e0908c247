"""The server's part of `hyper-attention`: seconds of a round, and bytes of its clients' rows.

``python benchmarks/hypernetwork.py [--rounds 20]``

ViT-Tiny's shape, rank 4, the default hypernetwork; ten clients a round among 100, 1,000 and 100,000
that the server knows. A round makes the ten clients' tensors, carries what they changed back to
hypernetwork and rows, and steps both. Medians. Beside it stands the hypernetwork's bare step: the
same network, forward and backward, for ten rows.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from models import Hypernetwork, HypernetworkTrainer
from strategies.client_rows import ClientRows

BLOCKS, WIDTH, RANK, SAMPLED = 12, 192, 4, 10
REGISTERED = (100, 1_000, 100_000)


def round_of(trainer: HypernetworkTrainer, rows: ClientRows, keys: list[str]) -> None:
    """Make tensors for some clients, and learn from changes of a like size."""
    before = rows.get(keys)
    made = trainer.generate(before)
    changes = {unit: np.full_like(vectors, 1e-3) for unit, vectors in made.items()}
    gradients = trainer.pull(before, changes)
    trainer.step()
    for key, row, gradient in zip(keys, before, gradients, strict=True):
        rows.put(key, row - 0.1 * gradient)


def bare_step(network: Hypernetwork) -> None:
    """Run the network forward and backward for random rows."""
    made = network(torch.randn(SAMPLED, network.embedding))
    torch.stack([tensor.sum() for tensor in made.values()]).sum().backward()


def seconds(call: object, count: int) -> float:
    """Return the median seconds of a call."""
    assert callable(call)
    times = []
    for _ in range(count):
        clock = time.perf_counter()
        call()
        times.append(time.perf_counter() - clock)
    return statistics.median(times)


def main() -> int:
    """Print a line for each number of registered clients."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    shapes = {f"personal{block}": (3, WIDTH, RANK) for block in range(1, BLOCKS + 1)}
    network = Hypernetwork(shapes)
    trainer = HypernetworkTrainer(network, rate=0.1)
    generator = np.random.default_rng(0)
    print(f"{'clients known':>14}{'ms a round':>12}{'/ bare step':>12}{'rows, MB':>10}")
    for registered in REGISTERED:
        rows = ClientRows(network.embedding, 0)
        keys = [str(number) for number in range(registered)]
        for key, row in zip(keys, rows.get(keys), strict=True):
            rows.put(key, row)  # as when every client has trained
        size = sum(value.nbytes for value in rows.state().values()) / 1e6

        def one_round(rows: ClientRows = rows, keys: list[str] = keys) -> None:
            chosen = generator.integers(len(keys), size=SAMPLED)
            round_of(trainer, rows, [keys[number] for number in chosen])

        one_round()
        bare = seconds(lambda: bare_step(network), options.rounds)
        found = seconds(one_round, options.rounds)
        print(f"{registered:>14,}{1000 * found:>12.1f}{found / bare:>12.2f}{size:>10.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
