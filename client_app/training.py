"""Local training: some epochs of the plan's units on a client's own images."""

from __future__ import annotations

import math
import resource
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from data import BatchTransform, ImageSet
from models import AdapterModel
from settings import Settings


@dataclass(frozen=True)
class TrainingResult:
    """What local training reports.

    Attributes
    ----------
    metrics : dict[str, float]
        ``num-examples``, ``train-loss``, loss and accuracy of each exit (means over the last
        epoch), ``seconds`` and ``peak-bytes`` (the process's largest resident size so far).
    unchanged : list[str]
        Trained units that are bit for bit what they were: a sign that something is wrong.
    """

    metrics: dict[str, float]
    unchanged: list[str]


def client_seed(settings: Settings, server_round: int, client_key: str) -> int:
    """Derive the seed of a client's round, so that a resumed run draws the same numbers."""
    parts = [settings.seed, server_round, zlib.crc32(client_key.encode())]
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def learning_rate(settings: Settings, server_round: int) -> float:
    """Return the learning rate of a round (from 1): constant, or half a cosine to near zero."""
    if settings.schedule == "constant":
        return settings.learning_rate
    progress = (server_round - 1) / settings.rounds
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def make_optimizer(
    settings: Settings, trained: dict[str, nn.Parameter], rate: float
) -> torch.optim.Optimizer:
    """Build the optimiser; it starts afresh in every round, as clients keep no state.

    Heads (``<unit>.head...``) have a learning rate of their own: what modulates the frozen pass
    diverges at the rates that a fresh linear layer needs to learn in a few steps.
    """
    heads = {key for key in trained if key.split(".")[1] == "head"}
    groups = [
        {
            "params": [trained[key] for key in trained if key in heads],
            "lr": rate * settings.head_rate,
        },
        {"params": [trained[key] for key in trained if key not in heads], "lr": rate},
    ]
    parameters = [group for group in groups if group["params"]]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(
            parameters, lr=rate, weight_decay=settings.weight_decay, fused=True
        )
    return torch.optim.SGD(
        parameters,
        lr=rate,
        momentum=0.9 if settings.optimizer == "momentum" else 0.0,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def batches(
    images: ImageSet, transform: BatchTransform, batch_size: int, order: np.ndarray | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield transformed batches: images ``(B, 3, S, S)`` and labels ``(B,)``, in `order`."""
    order = np.arange(len(images)) if order is None else order
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        yield transform(images.images[chosen]), torch.from_numpy(images.labels[chosen])


def train_locally(
    model: AdapterModel,
    units: list[str],
    depth: int,
    images: ImageSet,
    transform: BatchTransform,
    settings: Settings,
    *,
    server_round: int,
    client_key: str,
) -> TrainingResult:
    """Train the units on the images; the model's adapters are changed in place.

    Gradients exist for these units alone, so autograd records nothing below the lowest of them,
    and blocks above the last exit within `depth` do not run.
    """
    start = time.perf_counter()
    model.train()
    model.set_trained(units)
    trained = {k: p for k, p in model.adapter_parameters().items() if p.requires_grad}
    before = {key: parameter.detach().clone() for key, parameter in trained.items()}
    parameters = list(trained.values())
    optimizer = make_optimizer(settings, trained, learning_rate(settings, server_round))
    seed = client_seed(settings, server_round, client_key)
    generator = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _ in range(settings.local_epochs):
            sums: dict[str, float] = {}
            order = generator.permutation(len(images))
            for inputs, labels in batches(images, transform, settings.batch_size, order):
                optimizer.zero_grad()
                logits = model(inputs, depth)
                loss = model.loss(logits, labels)
                loss.backward()
                if settings.clip_norm:
                    nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
                optimizer.step()
                _add_scores(sums, loss, logits, labels)
    changed = {
        key.split(".")[0] for key, old in before.items() if not torch.equal(old, trained[key])
    }
    metrics = {key: total / len(images) for key, total in sums.items()}
    metrics |= {
        "num-examples": len(images),
        "seconds": time.perf_counter() - start,
        "peak-bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    return TrainingResult(metrics, [unit for unit in units if unit not in changed])


@torch.no_grad()
def _add_scores(
    sums: dict[str, float], loss: Tensor, logits: dict[int, Tensor], labels: Tensor
) -> None:
    """Add a batch's loss and each exit's loss and correct predictions to running sums."""
    scores = {"train-loss": float(loss) * len(labels)}
    for exit_block, y in logits.items():
        total = nn.functional.cross_entropy(y, labels, reduction="sum")
        scores[f"train-loss-exit-{exit_block}"] = float(total)
        scores[f"train-accuracy-exit-{exit_block}"] = float((y.argmax(1) == labels).sum())
    for key, value in scores.items():
        sums[key] = sums.get(key, 0.0) + value
