"""Local training: some epochs of the plan's units on a client's own images."""

from __future__ import annotations

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
from client_app.optimizer import learning_rate, make_optimizer, restart
from client_app.predictor import Predictor
from client_app.token_cache import Tokens
from data import BatchTransform, Part, StoredViews, Transform, epoch_order
from models import AdapterModel, MofmModel
from settings import Settings
from wiring import (
    Cut,
    absent_prefixes,
    get_cut,
    get_layout,
    get_tiers,
    make_model,
    uses_bfloat16,
)


@dataclass(frozen=True)
class TrainingResult:
    """What local training reports.

    Attributes
    ----------
    metrics : dict[str, float]
        ``num-examples``, ``train-loss``, what the model scores, such as loss and accuracy of each
        exit (means over the last epoch), ``seconds`` and ``peak-bytes`` (the largest memory so far:
        of the process, or on a GPU of torch's tensors).
    unchanged : list[str]
        Trained units that are bit for bit what they were: a sign that something is wrong.
    """

    metrics: dict[str, float]
    unchanged: list[str]


def client_seed(settings: Settings, server_round: int, client_key: str) -> int:
    """Derive the seed of a client's round, so that a resumed run draws the same numbers."""
    parts = [settings.seed, server_round, zlib.crc32(client_key.encode())]
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


@dataclass(frozen=True)
class Pass:
    """A part of an epoch: the units it trains, and on which images.

    `tokens` is what enters the lowest of these units, where it is kept.
    """

    units: list[str]
    images: Part
    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    tokens: Tokens | None


class Trainer:
    """Trains a process's model for one client after the other; its objects are kept between them.

    Parameters
    ----------
    model : AdapterModel
        Changed in place.
    settings : Settings

    Attributes
    ----------
    layout : Layout
        Of the model's units.
    predictor : Predictor
        The same model, for evaluation too.
    initial : dict[str, np.ndarray]
        Initial tensors, by key, of the units that a message may leave out.
    """

    def __init__(self, model: AdapterModel, settings: Settings) -> None:
        self.model = model
        self.settings = settings
        self.layout = get_layout(model)
        self.predictor = make_predictor(model, settings)
        units = [unit for unit in model.units if unit.startswith(absent_prefixes(settings))]
        self.initial = model.adapter_arrays(units)
        # By trained keys, which differ by tier and pass; those of a phase that is over are let go.
        most = 2 * len(get_tiers(settings))
        self._optimizer = lru_cache(maxsize=most)(self._make_optimizer)

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

    def _prepare(
        self, units: list[str], images: Part, kept_by: Transform | None, rate: float
    ) -> Pass:
        """Make a pass; with a transform, what enters its lowest trained block may be kept."""
        parameters = {
            key: parameter
            for key, parameter in self.model.adapter_parameters().items()
            if key.split(".")[0] in units
        }
        optimizer = self._optimizer(tuple(parameters))
        restart(optimizer, rate)
        tokens = None
        if kept_by is not None:
            tokens = self.predictor.open_tokens(images, kept_by, units)
        return Pass(units, images, list(parameters.values()), optimizer, tokens)

    def _run(
        self,
        one: Pass,
        transform: Transform,
        depth: int,
        generator: np.random.Generator,
        scores: dict[str, Tensor],
        term: DynTerm | None,
    ) -> None:
        """Go through a pass once, and add what it scored to the sums of the epoch."""
        self.model.set_trained(one.units)
        order = epoch_order(one.images.labels, self.settings.sampling, generator)
        views = None
        if isinstance(transform, StoredViews):
            views = generator.integers(transform.count, size=len(order))
        one.optimizer.zero_grad()
        for logits, labels in self.predictor.batches(
            one.images,
            transform,
            depth,
            self.settings.batch_size,
            order,
            views=views,
            tokens=one.tokens,
        ):
            loss = self.model.loss(logits, labels)
            loss.backward()
            if term is not None:
                term.add_gradient()
            self._clip(one.parameters)
            one.optimizer.step()
            # Before the next forward pass, which would otherwise have them in memory beside it.
            one.optimizer.zero_grad()
            with torch.no_grad():
                found = self.model.scores(logits, labels)
                _add_scores(scores, {"loss": loss * len(labels), **found})

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
        transform: Transform,
        *,
        server_round: int,
        client_key: str,
        epochs: int,
        rate: float | None = None,
        after_epoch: Callable[[], None] | None = None,
        term: DynTerm | None = None,
        skipped: Collection[int] = (),
        lasting: bool = False,
    ) -> TrainingResult:
        """Train the units on a part of the data, at the round's learning rate or another.

        Gradients exist for these units alone, so autograd records nothing below the lowest of
        them, and blocks above the last exit within `depth` do not run. A method may divide an
        epoch into passes (`client_app/experts.py`). `after_epoch` looks at the model as it is after
        each epoch; it must neither train it nor draw random numbers. `term` is a part of the loss,
        but not of the losses that are reported. Blocks in `skipped` do not run. `lasting` says
        whether what is frozen stays as it is in later rounds, so that what enters the lowest
        trained block is worth keeping for them.
        """
        start = time.perf_counter()
        self.model.train()
        self.model.set_trained(units)
        self.model.skipped = frozenset(skipped)
        self.model.begin_round(server_round)
        trained = {k: p for k, p in self.model.adapter_parameters().items() if p.requires_grad}
        before = {key: parameter.detach().clone() for key, parameter in trained.items()}
        kept_for = epochs > 1 or lasting
        rate = rate or learning_rate(self.settings, server_round)
        passes = [
            self._prepare(names, images, transform if kept_for else None, rate)
            for names, images in self._passes(units, part, client_key)
        ]
        seed = client_seed(self.settings, server_round, client_key)
        generator = np.random.default_rng(seed)
        scores: dict[str, Tensor] = {}
        with torch.random.fork_rng(devices=[]):
            # All are drawn on the CPU. torch.manual_seed would also write a stack trace for every
            # other kind of device, and keep it until that is first used.
            torch.default_generator.manual_seed(seed)
            for _ in range(epochs):
                scores.clear()
                for one in passes:
                    self._run(one, transform, depth, generator, scores, term)
                if after_epoch is not None:
                    after_epoch()
                    self.model.train()
        for one in passes:
            if one.tokens is not None and not lasting:
                one.tokens.release()
        seen = sum(len(one.images) for one in passes)
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
    half = uses_bfloat16(settings)
    if isinstance(model, MofmModel):
        return ExpertPredictor(model, budget=budget, half=half)
    return Predictor(
        model,
        budget=budget,
        half=half,
        kept_dtype=torch.float16 if settings.cache_dtype == "fp16" else torch.float32,
        on_disk=settings.cache_place == "disk",
    )


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


def _add_scores(sums: dict[str, Tensor], scores: dict[str, Tensor]) -> None:
    """Add a batch's figures to running sums, as ``train-...``.

    They stay tensors: on a GPU, reading a number would wait for the step to end.
    """
    for name, value in scores.items():
        key = f"train-{name}"
        sums[key] = sums[key] + value.double() if key in sums else value.double()


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
