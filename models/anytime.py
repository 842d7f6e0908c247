"""Anytime inference: run the blocks in order, and answer from the last exit a budget reaches."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .backbone import ModelError
from .base import AdapterModel
from .cost import ExitCost, check_batch_size, exit_costs
from .exported import load_exported
from .images import Images, check_images, prepare

# Says at an exit which images are content with its answer: from the exit and the confidences
# (B,) of those that are still on their way, to (B,) bool.
Rule = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class Prediction:
    """The answer to one image.

    Attributes
    ----------
    label : int
        Position among the classes.
    name : str
        Name of the class.
    confidence : float
        The softmax probability of the answer, 0 to 1.
    exit : int
        The block (from 1) after which it was given.
    """

    label: int
    name: str
    confidence: float
    exit: int


class AnytimeClassifier:
    """A trained model that answers within a budget.

    Parameters
    ----------
    model : AdapterModel
        With its adapters loaded; it is put into evaluation mode, and stays on its device.
    classes : sequence of str
        Names of the model's classes, in the order of its labels.
    mean, std : sequence of float, optional
        The normalisation it was trained with, where it is not the backbone's.
    """

    def __init__(
        self,
        model: AdapterModel,
        classes: Sequence[str],
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        self.model = model.eval()
        self.classes = tuple(classes)
        self.mean, self.std = mean or model.backbone.mean, std or model.backbone.std
        if len(self.classes) != model.num_classes:
            raise ModelError(
                f"classes: {len(self.classes)} names for the {model.num_classes} classes of the "
                "model; name each once."
            )
        self._costs: dict[tuple[int, int], dict[int, ExitCost]] = {}

    @classmethod
    def load(
        cls, folder: str | Path, backbone: str | None = None, device: str = "cpu"
    ) -> AnytimeClassifier:
        """Load what a run exported to its folder ``adapters/``.

        Parameters
        ----------
        folder : str or Path
        backbone : str, optional
            A folder, a hub id or ``builtin``, instead of the name in ``adapters.json``.
        device : str (default: "cpu")

        Raises
        ------
        ModelError
            When a file is missing or foreign, or the device cannot be used.
        """
        exported = load_exported(folder, backbone)
        model = exported.model
        if device != "cpu":
            try:
                # A copy: the backbone is shared with the other models of this process.
                model = copy.deepcopy(model).to(device)
            except (RuntimeError, AssertionError) as error:
                reason = str(error).splitlines()[0]
                raise ModelError(
                    f"device: '{device}' cannot be used here ({reason}); use cpu."
                ) from None
        return cls(model, exported.classes, exported.mean, exported.std)

    @property
    def exits(self) -> tuple[int, ...]:
        """The blocks after which there is an answer."""
        return self.model.exits

    @torch.no_grad()
    def predict(
        self,
        images: Images,
        *,
        exit: int | None = None,
        milliseconds: float | None = None,
        confidence: float | None = None,
        batch_size: int = 32,
    ) -> list[Prediction]:
        """Classify images within a budget; without one all blocks up to the last exit run.

        Parameters
        ----------
        images : np.ndarray or sequence of PIL images
            uint8 ``(N, H, W, C)`` with C 1 or 3, or pictures; see `models.images.prepare`.
        exit : int, optional
            Answer after this block.
        milliseconds : float, optional
            Time per image, from the prepared input to the answer: a batch of b images has b times
            as much. After each exit the next one is tried if the clock and the time that
            `measure` found for the way there say that it fits. The first exit answers in any
            case.
        confidence : float, optional
            Each image leaves at the first exit whose softmax probability reaches this threshold;
            what never does is answered at the last exit.
        batch_size : int (default: 32)
            Images that run together.

        Returns
        -------
        list[Prediction]
            One per image, in their order.

        Raises
        ------
        ModelError
            For two budgets at once, one that cannot be, or images of another form.
        """
        check_images(images)
        self._check_budget(exit, milliseconds, confidence)
        check_batch_size(batch_size)
        last = self.exits[-1] if exit is None else exit
        side = self.model.backbone.image_size
        answers: list[Prediction] = []
        for start in range(0, len(images), batch_size):
            batch = prepare(images[start : start + batch_size], side, self.mean, self.std)
            rule = self._rule(milliseconds, confidence, len(batch))
            answers += self._answer(batch.to(self.model.device), last, rule)
        return answers

    def measure(self, batch_size: int = 1) -> dict[int, ExitCost]:
        """Return operations and milliseconds per image by exit, for batches of this size.

        Measured on first use, once for each batch size and number of threads.
        """
        key = batch_size, torch.get_num_threads()
        if key not in self._costs:
            self._costs[key] = exit_costs(self.model, batch_size)
        return self._costs[key]

    def _check_budget(
        self, exit: int | None, milliseconds: float | None, confidence: float | None
    ) -> None:
        if sum(budget is not None for budget in (exit, milliseconds, confidence)) > 1:
            raise ModelError("budget: give one of exit, milliseconds and confidence, or none.")
        if exit is not None and exit not in self.exits:
            raise ModelError(
                f"exit: there is none after block {exit}; choose one of "
                f"{', '.join(map(str, self.exits))}."
            )
        # Written so that a NaN fails.
        if milliseconds is not None and not milliseconds > 0:
            raise ModelError(f"milliseconds: {milliseconds} is no budget; give more than 0.")
        if confidence is not None and not 0 <= confidence <= 1:
            raise ModelError(f"confidence: {confidence} is no probability; give 0 to 1.")

    def _rule(self, milliseconds: float | None, confidence: float | None, count: int) -> Rule:
        """Return the rule of a budget for a batch of `count` images; a clock starts here."""
        if milliseconds is not None:
            return self._deadline(milliseconds, count)
        if confidence is not None:
            return lambda _, confidences: confidences >= confidence
        return lambda _, confidences: torch.zeros_like(confidences, dtype=torch.bool)

    def _deadline(self, milliseconds: float, count: int) -> Rule:
        """Return a rule by which all images leave when the next exit would come too late."""
        costs = self.measure(count)
        following = dict(zip(self.exits, self.exits[1:], strict=False))
        end = time.perf_counter() + count * milliseconds / 1000

        def leave(reached: int, confidences: Tensor) -> Tensor:
            step = costs[following[reached]].milliseconds - costs[reached].milliseconds
            late = time.perf_counter() + count * step / 1000 > end
            return torch.full_like(confidences, late, dtype=torch.bool)

        return leave

    def _answer(self, batch: Tensor, last: int, rule: Rule) -> list[Prediction]:
        """Run blocks up to `last`; images ``(B, 3, S, S)`` leave the batch as the rule says."""
        answers: dict[int, Prediction] = {}
        places = torch.arange(len(batch))
        state = self.model.begin(batch)
        for block in range(1, last + 1):
            state, logits = self.model.advance(state, block)
            if logits is None:
                continue
            # Copied to the CPU before the rule reads the clock: that waits for a GPU.
            confidences, labels = logits.softmax(dim=1).max(dim=1)
            confidences, labels = confidences.cpu(), labels.cpu()
            if block == last:
                leaving = torch.ones_like(labels, dtype=torch.bool)
            else:
                leaving = rule(block, confidences)
            leavers = (t[leaving].tolist() for t in (places, labels, confidences))
            for place, label, value in zip(*leavers, strict=True):
                answers[place] = Prediction(label, self.classes[label], value, block)
            if leaving.all():
                break
            if leaving.any():
                places = places[~leaving]
                staying = (~leaving).to(batch.device)
                state = tuple(t[staying] for t in state)
        return [answers[place] for place in range(len(batch))]
