"""Bytes per tier and round: ReeFL, heads alone, adapters of every kind, personal attention.

``python benchmarks/bytes.py``

One real round of four clients, a tier each, for every row: DeiT-S shapes (random weights, as bytes
do not depend on them), four exits, 100 classes, fp32. Bytes are those of the client's training
messages, with names and all metadata; parameters are held against the counts of ReeFL's code.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from flwr.common.logger import FLOWER_LOGGER
from transformers import ViTConfig, ViTImageProcessor, ViTModel

sys.path.insert(0, str(Path(__file__).parents[1]))

from run_simulation import run_in_process
from settings import Settings

DEPTHS, CLASSES, IMAGES, WIDTH = (3, 6, 9, 12), 100, 2, 384
SETTINGS: dict[str, Any] = {
    "exits": "4",
    "tiers": "; ".join(f"exit{d} depth={d} clients={n}" for n, d in enumerate(DEPTHS)),
    "dataset": "cifar100",
    "partition": "iid",
    "client-test": "central",
    "num-clients": len(DEPTHS),
    "clients-per-round": len(DEPTHS),
    "rounds": 1,
    "local-epochs": 1,
    "report": False,
}
REGIMES: dict[str, dict[str, Any]] = {
    "reefl": {"method": "reefl"},
    "heads (exits, depthfl)": {"method": "exits"},
    "heads + lora": {"method": "exits", "adapter": "lora", "adapter-rank": 32},
    "heads + parallel": {"method": "exits", "adapter": "parallel", "adapter-rank": 32},
    "heads + serial": {"method": "exits", "adapter": "serial", "adapter-rank": 32},
    "heads + ssf": {"method": "exits", "adapter": "ssf"},
    "heads + full": {"method": "exits", "adapter": "full"},
    "hyper-attention, B": {"method": "hyper-attention", "attention-rank": 4},
    "hyper-attention, whole": {
        "method": "hyper-attention",
        "attention-form": "projections",
        "hyper-attention-zero-start": False,
        "hyper-attention-max-parameters": 10**9,
    },
}
REEFL, HEAD = 469_914, 39_268
PER_BLOCK = {"lora": 49_152, "parallel": 49_984, "serial": 49_984, "ssf": 8_448, "full": 1_774_464}
BESIDE_BLOCKS = {"ssf": 768, "full": 371_328}  # on or in the embeddings
PER_HEAD = {"ssf": 768}


def expected(regime: dict[str, Any], depth: int) -> int:
    """Return the parameters that a tier trains, counted from the published shapes."""
    if regime["method"] == "reefl":
        return REEFL
    if regime["method"] == "hyper-attention":
        heads = HEAD * sum(block <= depth for block in DEPTHS)
        return heads + 3 * WIDTH * depth * regime.get("attention-rank", WIDTH)
    kind = regime.get("adapter", "none")
    exits = sum(block <= depth for block in DEPTHS)
    heads = exits * (HEAD + PER_HEAD.get(kind, 0))
    return heads + BESIDE_BLOCKS.get(kind, 0) + depth * PER_BLOCK.get(kind, 0)


def write_inputs(folder: Path) -> None:
    """Write a ViT of DeiT-S's shapes and a few pictures of every class."""
    config = ViTConfig(hidden_size=WIDTH, num_attention_heads=6, intermediate_size=1536)
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder / "vit")
    ViTImageProcessor().save_pretrained(folder / "vit")
    count = IMAGES * len(DEPTHS)
    parts: dict[str, Any] = {
        f"{part}_{name}": value
        for part in ("train", "test")
        for name, value in (
            ("images", np.zeros((count, 32, 32, 3), np.uint8)),
            ("labels", np.arange(count)),
        )
    }
    np.savez(folder / "images.npz", **parts, classes=[f"class {c}" for c in range(CLASSES)])


def run(folder: Path, regime: dict[str, Any]) -> list[tuple[int, int, int]]:
    """Run a round; return each tier's trained parameters and its client's bytes up and down."""
    output = folder / "run"
    values = {
        **SETTINGS,
        **regime,
        "backbone": str(folder / "vit"),
        "data-dir": str(folder / "images.npz"),
        "output-dir": str(output),
    }
    with contextlib.redirect_stdout(io.StringIO()):
        run_in_process(Settings.from_dict(values))
    trained = json.loads((output / "summary.json").read_text())["trainable-parameters"]
    rows = map(json.loads, (output / "clients.jsonl").read_text().splitlines())
    sent = {r["tier"]: (r["bytes-up"], r["bytes-down"]) for r in rows if r["phase"] == "train"}
    return [(trained[tier], *sent[tier]) for tier in trained]


def main() -> int:
    """Print a table; exit with 1 when a number of parameters is not the published one."""
    FLOWER_LOGGER.setLevel("ERROR")
    failed = False
    print("| trained | blocks | parameters | published | bytes up | bytes down | up / own |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as place:
        write_inputs(Path(place))
        for name, regime in REGIMES.items():
            for depth, (count, up, down) in zip(DEPTHS, run(Path(place), regime), strict=True):
                published = expected(regime, depth)
                failed |= count != published
                print(
                    f"| {name} | {depth} | {count:,} | {published:,} | {up:,} | {down:,} | "
                    f"{up / (4 * count):.4f} |",
                    flush=True,
                )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
