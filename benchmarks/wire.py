"""The wire: aggregation against built-in FedAvg, and bytes and objects against the formula.

``python benchmarks/wire.py [--replies 100] [--rounds 7]``

A reply holds 1.2 MB of adapters: 12 blocks of 8 tensors each. Flower's own `FedAvg` gets them as
its ClientApps usually send them, one Array per tensor; `AdapterFedAvg` gets one pack per block.
Both start from replies in memory and end with the new arrays; the checks of each are included.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.serde import recorddict_to_proto
from flwr.serverapp.strategy import FedAvg

sys.path.insert(0, str(Path(__file__).parents[1]))

from server_app.inprocess import InProcessGrid
from strategies import AdapterFedAvg, DepthPlanner, Profile, plain_record, record_bytes
from strategies.tiers import Tier

BLOCKS, TENSORS, SHAPE = 12, 8, (50, 62)
WANTED_RATIO, WANTED_OVERHEAD = 15, 1.03


def adapters(generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Draw 96 tensors of 3,100 numbers each: 1.19 MB."""
    return {
        f"block{block}.adapter.{number}": generator.normal(size=SHAPE).astype(np.float32)
        for block in range(1, BLOCKS + 1)
        for number in range(TENSORS)
    }


def make_strategy(nodes: int) -> AdapterFedAvg:
    """Build the strategy with profiles that are known already, so that no node is asked."""
    tier = Tier("all", BLOCKS, BLOCKS, 1.0)
    planner = DepthPlanner([tier], [f"block{b}" for b in range(1, BLOCKS + 1)])
    strategy = AdapterFedAvg(planner=planner, train_nodes=nodes, min_available_nodes=nodes)
    strategy.registry.profiles = {n + 1: Profile(n + 1, str(n), "all", 1) for n in range(nodes)}
    return strategy


def nested_objects(content: RecordDict) -> int:
    """Count the objects a SuperLink stores for a message's content."""
    seen = set()

    def visit(item: object) -> None:
        seen.add(item.object_id)  # type: ignore[attr-defined]
        for child in (item.children or {}).values():  # type: ignore[attr-defined]
            visit(child)

    visit(content)
    return len(seen)


def main() -> int:
    """Print the figures; exit with 1 when one misses what is wanted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--replies", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    start = adapters(generator)
    grid = InProcessGrid(lambda *_: None, options.replies, {})  # type: ignore[arg-type]
    strategy = make_strategy(options.replies)
    asked = list(strategy.configure_train(1, plain_record(start), ConfigRecord(), grid))
    assert strategy.bank is not None
    layout = strategy.bank.layout
    usual: list[Message] = []
    packed: list[Message] = []
    for number, message in enumerate(asked):
        tensors = {key: value + generator.normal() for key, value in start.items()}
        tensors = {key: value.astype(np.float32) for key, value in tensors.items()}
        metrics = MetricRecord({"num-examples": number + 1, "train-loss": 0.5})
        vectors = layout.flatten(tensors, layout.units)
        packs = ArrayRecord({u: layout.to_array(u, v) for u, v in vectors.items()})
        for replies, arrays in ((usual, plain_record(tensors)), (packed, packs)):
            content = RecordDict({"arrays": arrays, "metrics": metrics})
            replies.append(Message(content, reply_to=message))
    theirs, ours = [], []
    for _ in range(options.rounds):
        clock = time.perf_counter()
        expected, _ = FedAvg().aggregate_train(1, usual)
        theirs.append(time.perf_counter() - clock)
        clock = time.perf_counter()
        result, _ = strategy.aggregate_train(1, packed)
        ours.append(time.perf_counter() - clock)
    assert expected is not None
    assert result is not None
    for key in start:
        np.testing.assert_allclose(result[key].numpy(), expected[key].numpy(), atol=1e-5)
    ratio = statistics.median(a / b for a, b in zip(theirs, ours, strict=True))
    print(f"aggregating {options.replies} replies of 1.19 MB, medians of {options.rounds}")
    print(f"  FedAvg, 96 arrays a reply     {1000 * statistics.median(theirs):8.1f} ms")
    print(f"  AdapterFedAvg, 12 packs       {1000 * statistics.median(ours):8.1f} ms")
    print(f"  ratio                         {ratio:8.1f}    (wanted: {WANTED_RATIO} or more)")
    own = 4 * sum(value.size for value in start.values())
    print(f"{'one reply':<30}{'bytes':>12}{'/ own':>8}{'counted':>12}{'objects':>9}")
    overheads = []
    for name, reply in (("96 arrays", usual[0]), ("12 packs", packed[0])):
        sent = recorddict_to_proto(reply.content).ByteSize()
        overheads.append(sent / own)
        counted, objects = record_bytes(reply.content), nested_objects(reply.content)
        print(f"  {name:<28}{sent:>12,}{sent / own:>8.4f}{counted:>12,}{objects:>9}")
    # An Array is an object and its data at least another; so are the content and its two records.
    formula = 2 * BLOCKS + 3
    print(f"  formula: tensors' own {own:,} bytes; 2 x {BLOCKS} + 3 = {formula} objects")
    return int(ratio < WANTED_RATIO or overheads[1] > WANTED_OVERHEAD)


if __name__ == "__main__":
    sys.exit(main())
