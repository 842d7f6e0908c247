"""Cost of a training step, as a multiple of a no-grad forward pass of the same blocks.

``python benchmarks/step.py [--backbone NAME --image-size S] [--batch B ...] [--threads T]
[--method M ...] [--adapter KIND ...] [--adapter-rank R] [--device cuda [--bf16]]``

A step is what a client runs: forward, loss over its exits, backward, clipping, AdamW. With frozen
weights the backward pass through a block costs one forward pass, so the limits are 1 for frozen
exits (no backward at all) and 2 for the accumulator (its gradient crosses every block); what is
wanted of a method stands in `LIMITS`, for frozen blocks. At each depth the model is that of a tier
which trains all its blocks. Without `--backbone` a ViT-Tiny/16 at 224 px is measured; its speed
does not depend on its weights, so they are random.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

sys.path.insert(0, str(Path(__file__).parents[1]))

from models import (
    ADAPTERS,
    METHODS,
    AdapterModel,
    AdapterSpec,
    Backbone,
    build_model,
    load_backbone,
)

VIT_TINY = "ViT-Tiny/16"
LIMITS = {"exits": 1.1, "depthfl": 1.1, "accumulator": 2.4, "reefl": 2.4}
CLASSES = 100


def vit_tiny(image_size: int = 0) -> Backbone:
    """Build a ViT-Tiny/16 with random weights; 0 for the usual 224 px."""
    config = ViTConfig(
        hidden_size=192,
        num_attention_heads=3,
        intermediate_size=768,
        image_size=image_size or 224,
    )
    return Backbone.of(ViTModel(config, add_pooling_layer=False))


def forward_blocks(backbone: Backbone, images: Tensor, depth: int, bf16: bool) -> Tensor:
    """Run the first `depth` frozen blocks without recording anything."""
    with torch.no_grad(), torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        tokens = backbone.embed(images)
        for block in list(backbone.blocks)[:depth]:
            tokens = block(tokens)
    return tokens


def make_step(
    model: AdapterModel, images: Tensor, labels: Tensor, depth: int, bf16: bool = False
) -> Callable[[], None]:
    """Return a function that trains one step, as client_app/training.py does."""
    model.set_trained(list(model.units))
    model.begin_round(1)
    parameters = list(model.adapter_parameters().values())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            logits = model(images, depth)
        model.loss({block: y.float() for block, y in logits.items()}, labels).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return step


def compare(
    baseline: Callable[[], object], subject: Callable[[], object], rounds: int, device: str
) -> tuple[float, float]:
    """Return the median seconds of the baseline and of the ratio; the two alternate."""
    times, ratios = [], []
    for _ in range(rounds):
        start = now(device)
        baseline()
        middle = now(device)
        subject()
        times.append(middle - start)
        ratios.append((now(device) - middle) / times[-1])
    return statistics.median(times), statistics.median(ratios)


def now(device: str) -> float:
    """Return the time when the device has done all that it was given."""
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peak_megabytes(step: Callable[[], None], device: str) -> str:
    """Return what a step takes on a GPU at most; on the CPU torch counts nothing."""
    if device == "cpu":
        return ""
    torch.cuda.reset_peak_memory_stats(device)
    step()
    return f"{torch.cuda.max_memory_allocated(device) / 1e6:.0f}"


def main() -> int:
    """Print a table; exit with 1 when a ratio is above its limit at full depth on a CPU."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--backbone", default=VIT_TINY)
    parser.add_argument("--image-size", type=int, default=0)
    parser.add_argument("--batch", type=int, nargs="+", default=[32])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--method", nargs="+", default=list(LIMITS), choices=METHODS)
    parser.add_argument("--adapter", nargs="+", default=["none"], choices=ADAPTERS)
    parser.add_argument("--adapter-rank", type=int, default=AdapterSpec.rank)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.backbone == VIT_TINY:
        backbone = vit_tiny(options.image_size)
    else:
        backbone = load_backbone(options.backbone, options.image_size)
    backbone.to(options.device)
    side, device = backbone.image_size, options.device
    exits = tuple(range(backbone.depth // 4, backbone.depth + 1, backbone.depth // 4))
    failed = False
    for batch in options.batch:
        images = torch.randn(batch, 3, side, side, device=device)
        labels = torch.randint(0, CLASSES, (batch,), device=device)
        where = f"{device}{', bf16' if options.bf16 else ''}, {options.threads} threads"
        print(f"{options.backbone}, {side} px, batch {batch}, {where}")
        columns = f"{'depth':>6}{'forward ms':>12}{'step / forward':>16}{'limit':>8}{'peak MB':>9}"
        print(f"{'method':<14}{'adapter':<10}{columns}")
        for method, kind, depth in itertools.product(options.method, options.adapter, exits):
            adapter = AdapterSpec(kind, options.adapter_rank)
            own = METHODS[method].tier_options(exits, depth)
            model = build_model(method, backbone, exits, CLASSES, adapter=adapter, **own).to(device)
            step = make_step(model, images, labels, depth, options.bf16)
            step()
            forward = partial(forward_blocks, model.backbone, images, depth, options.bf16)
            seconds, ratio = compare(forward, step, options.rounds, device)
            limit = LIMITS.get(method) if kind == "none" else None
            if limit and depth == backbone.depth and device == "cpu":
                failed |= ratio > limit
            print(
                f"{method:<14}{kind:<10}{depth:>6}{1000 * seconds:>12.1f}{ratio:>16.2f}"
                f"{limit or '':>8}{peak_megabytes(step, device):>9}",
                flush=True,
            )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
