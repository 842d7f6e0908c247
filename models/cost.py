"""What an answer costs at each exit and what training costs: operations counted, time measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from .backbone import ModelError
from .base import AdapterModel
from .memory import step_on_shapes

WARM_UP = 1
REPEATS = 5


@dataclass(frozen=True)
class ExitCost:
    """The way of one image from the prepared input to the answer of an exit.

    Attributes
    ----------
    flops : int
        Operations of all matrix products and convolutions, a multiply-add counted as 2; earlier
        exits and the method's own modules are part of the way.
    milliseconds : float
        Time of the whole batch, divided by its images.
    """

    flops: int
    milliseconds: float


@torch.no_grad()
def exit_costs(model: AdapterModel, batch_size: int = 1) -> dict[int, ExitCost]:
    """Count and measure a pass, on the model's device and with torch's current threads.

    The time is the median of `REPEATS` passes after a warm-up. Nothing of the model changes, and
    no random number is drawn.

    Parameters
    ----------
    batch_size : int (default: 1)
        Images in the batch whose time is measured.

    Returns
    -------
    dict[int, ExitCost]
        Per image and by exit, ascending; both figures grow from exit to exit.
    """
    check_batch_size(batch_size)
    training = {module for module in model.modules() if module.training}
    model.eval()
    try:
        flops = _count(model)
        for _ in range(WARM_UP):
            _time(model, batch_size)
        passes = [_time(model, batch_size) for _ in range(REPEATS)]
    finally:
        for module in training:
            module.training = True
    return {
        e: ExitCost(flops[e], statistics.median(times[e] for times in passes) / batch_size)
        for e in model.exits
    }


def anytime_profile(model: AdapterModel, batch_size: int = 1) -> dict[str, Any]:
    """Describe the costs of all exits, per image, in a form that JSON can hold."""
    return {
        "device": model.device.type,
        "threads": torch.get_num_threads(),
        "batch-size": batch_size,
        "exits": {
            str(e): {"flops": cost.flops, "milliseconds": round(cost.milliseconds, 4)}
            for e, cost in exit_costs(model, batch_size).items()
        },
    }


def training_flops(
    model: AdapterModel, units: Collection[str], depth: int | None = None, *, cached: bool = False
) -> int:
    """Count the operations of a training step per image: forward, and backward as far as it goes.

    Nothing is computed. `units` are those that are trained; with `cached`, the state before
    the lowest of their blocks, or in it, is kept, and nothing runs below it.
    """
    shapes, step = step_on_shapes(model, units, 1, depth, cached=cached)
    with shapes, FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        step()
    return counter.get_total_flops()


@dataclass(frozen=True)
class RoundShares:
    """What a client's round costs, as shares of training and exchanging every layer."""

    communication: float
    computation: float


def round_shares(layers: int, present: int, trained: int = 1) -> RoundShares:
    """Count a round of layer-wise training in layers, all alike; embeddings and heads left out.

    Parameters
    ----------
    layers : int
        L of the whole model.
    present : int
        Layers that the client fetches and runs.
    trained : int
        The uppermost of these, which it trains and sends; backward costs twice as much as forward.

    References
    ----------
    P. Guo et al., "Federated Layer-wise Learning", arXiv 2309.05213, whose figures these are.
    """
    return RoundShares((present + trained) / (2 * layers), (present + 2 * trained) / (3 * layers))


def check_batch_size(batch_size: int) -> None:
    """Raise a `ModelError` for a batch without images."""
    if batch_size < 1:
        raise ModelError(f"batch-size: {batch_size} runs nothing; set it to 1 or more.")


def _blank(model: AdapterModel, count: int) -> torch.Tensor:
    side = model.backbone.image_size
    return torch.zeros(count, 3, side, side, device=model.device)


def _count(model: AdapterModel) -> dict[int, int]:
    """Return the operations of one image up to each exit."""
    # torch has no formula for its fused attention on the CPU and counts it as nothing; the plain
    # form is two matrix products, which it counts.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        return {e: counter.get_total_flops() for e, _ in model.exits_of(_blank(model, 1))}


def _time(model: AdapterModel, count: int) -> dict[int, float]:
    """Return the milliseconds of one pass up to each exit."""
    images, times = _blank(model, count), {}
    start = time.perf_counter()
    for e, logits in model.exits_of(images):
        logits.cpu()  # an answer counts when it is here: this waits for a GPU
        times[e] = 1000 * (time.perf_counter() - start)
    return times
