"""Memory of a training step: measured, predicted, and what the specification measured.

``python benchmarks/memory.py [--threads T] [--batch B] [--on-shapes] [--device cuda]``

A ViT-S/16 at 224 px (197 tokens) with random weights, 100 classes, fp32, SGD. The unit of saved and
peak is that of the tokens of a batch, 4 B N D bytes. Weights are those that the step reads; the app
holds more with `full`, whose trained copies stand beside the frozen originals. `at the MLP` has one
bottleneck a block; a cache keeps of it what the bottleneck reads and adds to, so a step reads no
weights but its own. Then the counters of layer-wise rounds, for 12 blocks and a budget of 6.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import ViTConfig, ViTModel

sys.path.insert(0, str(Path(__file__).parents[1]))

from models import (
    AdapterModel,
    AdapterSpec,
    Backbone,
    State,
    build_model,
    count_step,
    measure_step,
    predict_step,
    training_flops,
)
from models.cost import round_shares
from models.memory import StepMemory, make_step

CLASSES, BLOCKS, BUDGET = 100, 12, 6
MIB = 2**20


@dataclass(frozen=True)
class Row:
    """A configuration.

    Attributes
    ----------
    name : str
    adapter : AdapterSpec
    blocks : Sequence[int]
        Those that are trained; the head is, too.
    depth : int
        Blocks that run.
    cached : bool
        Whether the state before the lowest of them, or in it, is kept.
    published : str
        Peak in units and total in MiB of the specification, where it has the configuration.
    """

    name: str
    adapter: AdapterSpec
    blocks: Sequence[int]
    depth: int = BLOCKS
    cached: bool = False
    published: str = ""


LORA, SERIAL, FULL = AdapterSpec("lora", 8), AdapterSpec("serial", 48), AdapterSpec("full")
BEHIND, BESIDE = (AdapterSpec(kind, 48, targets=("mlp",)) for kind in ("serial", "parallel"))
EVERY, TOP = range(1, BLOCKS + 1), (BLOCKS,)
ROWS = (
    Row("end to end", FULL, EVERY, published="197.6, 1926"),
    Row("LoRA, rank 8 on q and v", LORA, EVERY, published="164.8, 1624"),
    Row("serial, width 48", SERIAL, EVERY),
    Row("serial at the MLP", BEHIND, EVERY, published="133.1, 1332"),
    Row("layer-wise, block 2", FULL, (2,), 2, published="21.3, 298"),
    Row("layer-wise, block 6", FULL, (6,), 6, published="21.3, 298"),
    Row("layer-wise, block 12", FULL, TOP, published="21.3, 298"),
    Row("layer-wise, cached", FULL, TOP, cached=True, published="20.3, 204"),
    Row("layer-wise LoRA, cached", LORA, TOP, cached=True, published="21.1, 211"),
    Row("layer-wise serial, cached", SERIAL, TOP, cached=True),
    Row("layer-wise parallel at the MLP, cached", BESIDE, TOP, cached=True, published="9.0, 99"),
    Row("layer-wise serial at the MLP, cached", BEHIND, TOP, cached=True, published="3.3, 49"),
    Row("serial at the MLP, block 12", BEHIND, TOP, published="10.0, 194"),
    Row("serial at the MLP, block 6 of 12, final head", BEHIND, (6,), published="70.4, 752"),
    Row("serial at the MLP, blocks 9 to 12", BEHIND, range(9, 13), published="42.9, 498"),
    Row("linear probe", AdapterSpec(), (), published="10.0, 194"),
)


def vit_small() -> Backbone:
    """Build a ViT-S/16 with random weights."""
    config = ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536)
    return Backbone.of(ViTModel(config, add_pooling_layer=False))


def prepare(row: Row, backbone: Backbone) -> tuple[AdapterModel, list[str]]:
    """Build the model of a row; return it with the units that are trained."""
    method = "exits" if row.adapter.kind == "none" else "layerwise"
    model = build_model(method, backbone, (row.depth,), CLASSES, adapter=row.adapter)
    units = [f"block{block}" for block in row.blocks] or [f"block{row.depth}"]
    heads = [unit for unit in model.units if unit.startswith("head")]
    ends = ["embed"] if "embed" in model.units and 1 in row.blocks else []
    model.train().set_trained(trained := [*ends, *units, *heads])
    return model, trained


def weight_bytes(row: Row, model: AdapterModel) -> int:
    """Count what the step reads: all blocks, or with a cache the trained ones, and the adapters."""
    backbone, trained = model.backbone, model.adapter_parameters()
    used = backbone.parameters()
    if row.cached:
        blocks = [block for block in row.blocks if not model.enters(block)]
        used = (p for block in blocks for p in backbone.blocks[block - 1].parameters())
    own = [
        parameter
        for key, parameter in trained.items()
        if not row.cached or key.startswith(("head", *(f"block{b}." for b in row.blocks)))
    ]
    if row.adapter.kind == "full":  # in the place of the frozen ones
        own = [parameter for key, parameter in trained.items() if key.startswith("head")]
    return 4 * sum(p.numel() for p in (*used, *own))


def measure(
    row: Row, model: AdapterModel, units: list[str], options: argparse.Namespace
) -> StepMemory:
    """Run a step and measure it, or count it on shapes."""
    if options.on_shapes:
        return count_step(
            model, units, options.batch, row.depth, optimizer="sgd", cached=row.cached
        )
    block = model.lowest_block(units) if row.cached else 1
    shape = (3, 224, 224) if block == 1 else (197, 384)
    drawn = torch.randn(options.batch, *shape, device=options.device)
    inputs: Tensor | State = drawn
    if row.cached:
        with torch.no_grad():
            inputs = model.enter((drawn,), block)
    labels = torch.randint(0, CLASSES, (options.batch,), device=options.device)
    step = make_step(model, inputs, labels, row.depth, optimizer="sgd", block=block)
    step()
    return measure_step(step, options.device)


def main() -> int:
    """Print both tables; exit with 1 when prediction and measurement differ by 5 % or more."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--on-shapes", action="store_true", help="compute nothing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    backbone = vit_small().to(options.device)
    unit = 4 * options.batch * 197 * 384
    columns = "weights MiB | saved | peak | predicted | total MiB | times less | published"
    print(f"| trained | {columns} |\n| --- | {'---: | ' * 6}--- |")
    failed, whole = False, 0
    for row in ROWS:
        model, units = prepare(row, backbone)
        found = measure(row, model.to(options.device), units, options)
        told = predict_step(
            model, units, options.batch, row.depth, optimizer="sgd", cached=row.cached
        )
        weights = weight_bytes(row, model)
        total = weights + told.inputs + found.peak
        whole = whole or total
        failed |= abs(told.activations / found.peak - 1) >= 0.05
        print(
            f"| {row.name} | {weights / MIB:.1f} | {found.saved / unit:.1f} "
            f"| {found.peak / unit:.1f} | {told.activations / unit:.1f} | {total / MIB:.0f} "
            f"| {whole / total:.1f} | {row.published} |",
            flush=True,
        )
    print_shares(backbone)
    return int(failed)


def print_shares(backbone: Backbone) -> None:
    """Print what rounds of layer-wise training cost, by counting layers and operations."""
    model = build_model("layerwise", backbone, tuple(EVERY), CLASSES, adapter=FULL)
    heads = {unit for unit in model.units if unit.startswith("head")}

    def flops(blocks: Sequence[int], *further: str) -> int:
        head = f"head{blocks[-1]}"
        model.missing = frozenset(heads - {head})
        units = [*(f"block{block}" for block in blocks), head, *further]
        return training_flops(model, units, blocks[-1])

    whole = flops(EVERY, "embed")
    print("\n| round | communication | computation | counted |\n| --- | ---: | ---: | ---: |")
    for name, phase, present in (
        ("first phase", 1, 1),
        ("last phase", BLOCKS, BLOCKS),
        (f"last phase, budget of {BUDGET}", BLOCKS, BUDGET),
    ):
        model.skipped = frozenset(range(2, 2 + phase - present))
        share = round_shares(BLOCKS, present)
        print(
            f"| {name} | {share.communication:.1%} | {share.computation:.1%} "
            f"| {flops([phase]) / whole:.1%} |"
        )


if __name__ == "__main__":
    sys.exit(main())
