"""Local training: some epochs of the plan's units on a client's own images."""

from __future__ import annotations

import math
import resource
import time
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from client_app.dyn import DynTerm
from client_app.experts import ExpertPredictor, expert_passes, validation
from client_app.feature_cache import FeatureBudget
from client_app.predictor import Predictor
from data import BatchTransform, Part, epoch_order
from models import AdapterModel, MofmModel
from settings import Settings
from wiring import Cut, absent_prefixes, get_cut, make_model, uses_bfloat16

KEPT_OPTIMIZERS = 8


@dataclass(frozen=True)
class TrainingResult:
    """What local training reports.

    Attributes
    ----------
    metrics : dict[str, float]
        ``num-examples``, ``train-loss``, loss and accuracy of each exit (means over the last
        epoch), ``seconds`` and ``peak-bytes`` (the largest memory so far: of the process, or on a
        GPU of torch's tensors).
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
    """Return the learning rate of a round (from 1): constant, or half a cosine to near zero.

    The first round has the whole rate. Where published code counts the same cosine from round 1
    on (ReeFL's), its rates are those of this schedule one round later.
    """
    # After the last round, what is left to learn (about clients held out) begins anew.
    if settings.schedule == "constant" or server_round > settings.rounds:
        return settings.learning_rate
    progress = (server_round - 1) / settings.rounds
    cosine = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
    return max(settings.minimum_rate, cosine)


def make_optimizer(settings: Settings, trained: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    """Build an optimiser; `restart` gives it its learning rate.

    Heads (``<unit>.head...``) have a learning rate of their own: what modulates the frozen pass
    diverges at the rates that a fresh linear layer needs to learn in a few steps.
    """
    heads = {key for key in trained if key.split(".")[1] == "head"}
    groups = [
        {"params": [trained[key] for key in trained if key in heads], "factor": settings.head_rate},
        {"params": [trained[key] for key in trained if key not in heads], "factor": 1.0},
    ]
    filled = [group for group in groups if group["params"]]
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(filled, lr=rate, weight_decay=decay, fused=True)
    momentum = 0.9 if settings.optimizer == "momentum" else 0.0
    return torch.optim.SGD(filled, lr=rate, momentum=momentum, weight_decay=decay, fused=True)


def restart(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Make a used optimiser like a new one: clients keep no state between rounds."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, Tensor):
                value.zero_()


class Trainer:
    """Trains a process's model for one client after the other; its objects are kept between them.

    Parameters
    ----------
    model : AdapterModel
        Changed in place.
    settings : Settings

    Attributes
    ----------
    predictor : Predictor
        The same model, for evaluation too.
    initial : dict[str, np.ndarray]
        Initial tensors, by key, of the units that a message may leave out.
    """

    def __init__(self, model: AdapterModel, settings: Settings) -> None:
        self.model = model
        self.settings = settings
        self.predictor = make_predictor(model, settings)
        units = [unit for unit in model.units if unit.startswith(absent_prefixes(settings))]
        self.initial = model.adapter_arrays(units)
        # By trained keys; a method that trains other units in each phase would pile them up.
        self._optimizer = lru_cache(maxsize=KEPT_OPTIMIZERS)(self._make_optimizer)

    def _make_optimizer(self, keys: tuple[str, ...]) -> torch.optim.Optimizer:
        parameters = self.model.adapter_parameters()
        return make_optimizer(self.settings, {key: parameters[key] for key in keys})

    def _passes(
        self, units: list[str], part: Part, client_key: str
    ) -> list[tuple[list[str], Part]]:
        """Return the passes of an epoch: what each trains, and on which images."""
        if not isinstance(self.model, MofmModel):
            return [(units, part)]
        seed = client_seed(self.settings, 0, client_key)  # the same in every round
        return expert_passes(self.model, units, part, self.settings, seed)

    def _clip(self, trained: list[nn.Parameter]) -> None:
        if self.settings.clip_value:
            nn.utils.clip_grad_value_(trained, self.settings.clip_value)
        if self.settings.clip_norm:
            nn.utils.clip_grad_norm_(trained, self.settings.clip_norm)

    def validate(
        self, part: Part, transform: BatchTransform, depth: int, client_key: str
    ) -> dict[str, float]:
        """Score the model that came, where the server wants that; see `client_app/experts.py`."""
        seed = client_seed(self.settings, 0, client_key)
        return validation(self.predictor, part, transform, depth, self.settings, seed)

    def train(
        self,
        units: list[str],
        depth: int,
        part: Part,
        transform: BatchTransform,
        *,
        server_round: int,
        client_key: str,
        epochs: int,
        rate: float | None = None,
        after_epoch: Callable[[], None] | None = None,
        term: DynTerm | None = None,
        skipped: Collection[int] = (),
    ) -> TrainingResult:
        """Train the units on a part of the data, at the round's learning rate or another.

        Gradients exist for these units alone, so autograd records nothing below the lowest of
        them, and blocks above the last exit within `depth` do not run. A method may divide an
        epoch into passes (`client_app/experts.py`). `after_epoch` looks at the model as it is after
        each epoch; it must neither train it nor draw random numbers. `term` is a part of the loss,
        but not of the losses that are reported. Blocks in `skipped` do not run.
        """
        start = time.perf_counter()
        self.model.train()
        self.model.set_trained(units)
        self.model.skipped = frozenset(skipped)
        self.model.begin_round(server_round)
        trained = {k: p for k, p in self.model.adapter_parameters().items() if p.requires_grad}
        before = {key: parameter.detach().clone() for key, parameter in trained.items()}
        seed = client_seed(self.settings, server_round, client_key)
        steps = []
        for names, images in self._passes(units, part, client_key):
            keys = tuple(key for key in trained if key.split(".")[0] in names)
            optimizer = self._optimizer(keys)
            restart(optimizer, rate or learning_rate(self.settings, server_round))
            steps.append((names, images, [trained[key] for key in keys], optimizer))
        generator = np.random.default_rng(seed)
        scores: dict[str, Tensor] = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for _ in range(epochs):
                scores.clear()
                for names, images, own, optimizer in steps:
                    self.model.set_trained(names)
                    order = epoch_order(images.labels, self.settings.sampling, generator)
                    for logits, labels in self.predictor.batches(
                        images, transform, depth, self.settings.batch_size, order
                    ):
                        optimizer.zero_grad()
                        loss = self.model.loss(logits, labels)
                        loss.backward()
                        if term is not None:
                            term.add_gradient()
                        self._clip(own)
                        optimizer.step()
                        _add_scores(scores, loss, logits, labels)
                if after_epoch is not None:
                    after_epoch()
                    self.model.train()
        self.model.zero_grad()
        seen = sum(len(images) for _, images, _, _ in steps)
        changed = {k.split(".")[0] for k, old in before.items() if not torch.equal(old, trained[k])}
        metrics = {key: float(total) / seen for key, total in scores.items()}
        metrics |= {
            "num-examples": len(part),
            "seconds": time.perf_counter() - start,
            "peak-bytes": _peak_bytes(self.model.device),
        }
        return TrainingResult(metrics, [unit for unit in units if unit not in changed])


def make_predictor(model: AdapterModel, settings: Settings) -> Predictor:
    """Return the predictor of a model, as the settings want it."""
    budget = _budget(settings.cache_megabytes) if settings.cache_megabytes else None
    if isinstance(model, MofmModel):
        return ExpertPredictor(model, budget=budget, half=uses_bfloat16(settings))
    return Predictor(model, budget=budget, half=uses_bfloat16(settings))


@lru_cache(maxsize=1)
def _budget(megabytes: int) -> FeatureBudget:
    """Return the memory for features that all predictors of this process share."""
    return FeatureBudget(megabytes * 10**6)


def get_trainer(settings: Settings, num_classes: int, tier: str) -> Trainer:
    """Return the process's trainer of a tier's model; each message brings the adapters it uses."""
    cut, trainers = get_cut(settings, tier), _trainers(settings, num_classes)
    if cut not in trainers:
        trainers[cut] = Trainer(make_model(settings, num_classes, cut), settings)
    return trainers[cut]


@lru_cache(maxsize=2)
def _trainers(settings: Settings, num_classes: int) -> dict[Cut, Trainer]:
    """Return where the trainers of a run are kept between messages."""
    del settings, num_classes
    return {}


@torch.no_grad()
def _add_scores(
    sums: dict[str, Tensor], loss: Tensor, logits: dict[int, Tensor], labels: Tensor
) -> None:
    """Add a batch's loss and each exit's loss and correct predictions to running sums.

    They stay tensors: on a GPU, reading a number would wait for the step to end.
    """
    scores = {"train-loss": loss.detach() * len(labels)}
    for block, y in logits.items():
        total = nn.functional.cross_entropy(y, labels, reduction="sum")
        scores[f"train-loss-exit-{block}"] = total
        scores[f"train-accuracy-exit-{block}"] = (y.argmax(1) == labels).sum()
    for key, value in scores.items():
        sums[key] = sums[key] + value.double() if key in sums else value.double()


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
