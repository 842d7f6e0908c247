"""Method `scalefl`: a sub-model per exit, as deep as the exit and of a width of its own.

Source: F. Ilhan et al., *ScaleFL: Resource-Adaptive Federated Learning with Heterogeneous Clients*,
CVPR 2023, in the form of ReeFL's code (arXiv 2405.14791). A tier trains the exits 0 to e of the
backbone's leading channels, as many as its last exit's width says; its tensors are the leading
parts of the bank's. The loss has every exit learn from the last one::

    sum_i CE_i + distillation * T^2 sum_{i < e} KL(softmax(sg(y_e) / T) || softmax(y_i / T))

Exit e is answered by sub-model e alone, so the bank's model runs one sub-model after the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from .backbone import Backbone, ModelError
from .base import State
from .exits import ExitsModel
from .narrow import leading, narrow

# By number of exits, as ReeFL's code has them; other numbers are spaced evenly from the first.
PUBLISHED = {
    4: (0.4, 0.55, 0.75, 1.0),
    12: (0.25, 0.3, 0.35, 0.4, 0.48, 0.55, 0.61, 0.69, 0.75, 0.84, 0.92, 1.0),
}
NARROWEST = 0.4


def parse_widths(text: str, count: int) -> tuple[float, ...]:
    """Read the setting `scalefl-widths`: the width at each of `count` exits, shares of D.

    Raises
    ------
    ModelError
        When the text is no list of so many ascending shares that ends at 1.
    """
    if not text.strip():
        step = (1 - NARROWEST) / max(count - 1, 1)
        even = tuple(1 - step * missing for missing in reversed(range(count)))
        return PUBLISHED.get(count, even)
    try:
        widths = tuple(float(part) for part in text.split(","))
    except ValueError:
        widths = ()
    if (
        len(widths) != count
        or list(widths) != sorted(widths)
        or not 0 < widths[0] <= widths[-1] == 1
    ):
        raise ModelError(
            f"scalefl-widths: '{text}' is no list of {count} ascending shares of the width, one "
            "for each exit, that ends at 1; give one such as 0.4,0.55,0.75,1, or leave it empty."
        )
    return widths


class SubModel(nn.Module):
    """The model of one exit, which computes with the leading parts of the bank's tensors.

    Parameters
    ----------
    model : ExitsModel
        Of the exit's width, with this exit alone. It computes with the bank's tensors, so its own
        trained ones are emptied here.
    """

    def __init__(self, model: ExitsModel) -> None:
        super().__init__()
        self.model = model
        # Registered, so that tensors inside adapted blocks can be replaced.
        self.blocks = nn.ModuleList(map(model.block, range(1, model.exits[-1] + 1)))
        keys = {id(tensor): key for key, tensor in model.adapter_parameters().items()}
        # A ParameterDict does not compute; it names tensors whose place is elsewhere.
        self._places = [
            (f"{path}.{name}", keys[id(tensor)], tensor.shape)
            for path, module in self.named_modules()
            if not isinstance(module, nn.ParameterDict)
            for name, tensor in module.named_parameters(recurse=False)
            if id(tensor) in keys
        ]
        for tensor in model.adapter_parameters().values():
            tensor.data = tensor.data.new_empty(0)

    def forward(self, inputs: Tensor, *, from_features: bool) -> Tensor:
        """Return logits ``(B, C)`` of images, or of what the head reads of them ``(B, w)``."""
        if from_features:
            (logits,) = self.model.predict_from(inputs[:, None]).values()
        else:
            (logits,) = self.model(inputs).values()
        return logits

    def answer(
        self, bank: Mapping[str, Tensor], inputs: Tensor, *, from_features: bool = False
    ) -> Tensor:
        """Run `forward` with tensors of the bank, to which gradients go."""
        tensors = {place: leading(bank[key], shape) for place, key, shape in self._places}
        options = {"from_features": from_features}
        logits: Tensor = functional_call(self, tensors, (inputs,), options, tie_weights=False)
        return logits


class ScaleflModel(ExitsModel):
    """The bank's tensors and all sub-models on them, or one tier's own model.

    Parameters
    ----------
    exits : tuple[int, ...]
        Those of the bank.
    widths : str
        See `parse_widths`.
    distillation : float
        Weight of what the exits learn from the last one.
    temperature : float
        T, above 0.
    own : int
        The first so many exits, all of the width of the last of them: what a tier trains. 0: the
        bank's model, of full width, each of whose exits is answered by its sub-model.
    """

    def __init__(
        self,
        backbone: Backbone,
        exits: tuple[int, ...],
        num_classes: int,
        *,
        widths: str = "",
        distillation: float = 0.05,
        temperature: float = 3.0,
        own: int = 0,
        **adapter: Any,
    ) -> None:
        shares = parse_widths(widths, len(exits))
        if not 0 <= own <= len(exits):
            raise ModelError(f"exits: a tier's model has {own} of {len(exits)}; export it again.")
        self.distillation = distillation
        self.temperature = temperature
        self.all_exits = exits
        self.own_options = {"own": own} if own else {}
        reached = own or len(exits)
        width = shares[reached - 1]
        super().__init__(narrow(backbone, width), exits[:reached], num_classes, **adapter)
        self.sub_models: Any = nn.ModuleList()
        for share, block in zip(shares, exits, strict=True) if not own else ():
            part = ExitsModel(narrow(backbone, share), (block,), num_classes, **adapter)
            self.sub_models.append(SubModel(part))

    @classmethod
    def tier_options(cls, exits: tuple[int, ...], depth: int) -> dict[str, Any]:
        """Return the option that makes a tier's own model: how many exits it reaches."""
        return {"own": sum(block <= depth for block in exits)}

    def begin(self, images: Tensor) -> State:
        """Embed images ``(B, 3, S, S)``; the bank's model keeps them, as each sub-model starts."""
        return super().begin(images) if self.own_options else (images,)

    def advance(self, state: State, block: int) -> tuple[State, Tensor | None]:
        """Run a block; in the bank's model, at an exit, the whole sub-model of this exit."""
        if self.own_options:
            return super().advance(state, block)
        if block not in self.exits:
            return state, None
        sub_model = self.sub_models[self.exits.index(block)]
        return state, sub_model.answer(self.adapter_parameters(), *state)

    @torch.no_grad()
    def features(self, images: Tensor, depth: int | None = None) -> Tensor:
        """Return what the heads read, ``(B, exits, D)``; of narrower sub-models, zeros follow."""
        if self.own_options:
            return super().features(images, depth)
        width = self.backbone.width
        found = [part.model.features(images)[:, 0] for part in self._within(depth).values()]
        return torch.stack([functional.pad(f, (0, width - f.shape[1])) for f in found], dim=1)

    def predict_from(self, features: Tensor, depth: int | None = None) -> dict[int, Tensor]:
        """Apply the heads to kept class tokens."""
        if self.own_options:
            return super().predict_from(features, depth)
        bank = self.adapter_parameters()
        return {
            block: part.answer(bank, tokens[:, : part.model.backbone.width], from_features=True)
            for (block, part), tokens in zip(
                self._within(depth).items(), features.unbind(1), strict=True
            )
        }

    def _within(self, depth: int | None) -> dict[int, SubModel]:
        """Return the sub-models of the exits within `depth`."""
        return dict(zip(self.reach(depth), self.sub_models, strict=False))

    def loss(self, logits: Mapping[int, Tensor], labels: Tensor) -> Tensor:
        """Sum cross-entropies, and what each exit learns from the last one; a scalar."""
        *students, teacher = [y / self.temperature for y in logits.values()]
        total = super().loss(logits, labels)
        if not students:
            return total
        target = teacher.detach().softmax(dim=1)
        taught = [
            functional.kl_div(y.log_softmax(dim=1), target, reduction="batchmean") for y in students
        ]
        return total + self.distillation * self.temperature**2 * torch.stack(taught).sum()

    def ending_at(self, depth: int) -> tuple[tuple[int, ...], dict[str, np.ndarray]]:
        """Copy out the model of a device of this depth: a tier's own, with the bank's exits."""
        exits, tensors = super().ending_at(depth)
        return (self.all_exits if self.own_options else exits), tensors
