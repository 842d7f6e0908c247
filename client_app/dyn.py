"""The clients' half of FedDyn (arXiv 2111.04263): a term of the loss with a memory of its own."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from flwr.app import ArrayRecord, RecordDict

from models import AdapterModel
from wiring import get_layout

# Name of the record in a client's state.
STATE = "fedgraft.dyn"


class DynTerm:
    """Adds ``-<theta, lambda> + alpha / 2 ||theta - start||^2`` to a client's loss.

    theta are the trained tensors, start is what came from the server, and lambda the client's own
    memory, one number for each that it trains: 0 at first, moved by `remember` after the training.

    Parameters
    ----------
    model : AdapterModel
        With the server's values loaded.
    units : Collection[str]
        What is trained.
    alpha : float
        Above 0.
    state : RecordDict
        Of the client's context, with what `remember` left there in earlier rounds of this run.
    """

    def __init__(
        self, model: AdapterModel, units: Collection[str], alpha: float, state: RecordDict
    ) -> None:
        self.alpha = alpha
        self.layout = get_layout(model)
        kept = state.array_records.get(STATE, ArrayRecord())
        known = self.layout.read(
            {unit: kept[unit] for unit in units if unit in kept}, lambda _: np.dtype(np.float32)
        )
        multipliers = self.layout.split(known)
        self.parameters = {
            key: parameter
            for key, parameter in model.adapter_parameters().items()
            if key.split(".")[0] in units
        }
        self.start = {key: p.detach().clone() for key, p in self.parameters.items()}
        self.multipliers = {
            key: torch.from_numpy(multipliers[key].copy()).to(model.device)
            if key in multipliers
            else torch.zeros_like(value)
            for key, value in self.start.items()
        }

    @torch.no_grad()
    def add_gradient(self) -> None:
        """Add the term's gradient to the parameters' gradients."""
        for key, parameter in self.parameters.items():
            gradient = self.alpha * (parameter - self.start[key]) - self.multipliers[key]
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    @torch.no_grad()
    def remember(self, state: RecordDict) -> None:
        """After the training, write ``lambda - alpha (theta - start)`` to the client's state."""
        tensors = {
            key: (self.multipliers[key] - self.alpha * (parameter - self.start[key])).cpu().numpy()
            for key, parameter in self.parameters.items()
        }
        record = ArrayRecord(dict(state.array_records.get(STATE, ArrayRecord()).items()))
        for unit in dict.fromkeys(key.split(".")[0] for key in tensors):
            vector = self.layout.flatten(tensors, [unit])[unit]
            record[unit] = self.layout.to_array(unit, vector)
        state[STATE] = record
