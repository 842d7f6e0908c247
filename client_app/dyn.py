"""The clients' half of FedDyn (arXiv 2111.04263): a term of the loss with a memory of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import torch

from models import AdapterModel

DYN = "dyn"  # name of the memory in a client's store


class DynTerm:
    """Adds ``-<theta, lambda> + alpha / 2 ||theta - start||^2`` to a client's loss.

    theta are the trained tensors, start is what came from the server, and lambda the client's own
    memory, one number for each that it trains: 0 at first, moved by the training.

    Parameters
    ----------
    model : AdapterModel
        With the server's values loaded.
    units : Collection[str]
        What is trained.
    alpha : float
        Above 0.
    multipliers : Mapping[str, np.ndarray]
        lambda by key; 0 where there is none yet.
    """

    def __init__(
        self,
        model: AdapterModel,
        units: Collection[str],
        alpha: float,
        multipliers: Mapping[str, np.ndarray],
    ) -> None:
        self.alpha = alpha
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
    def moved(self) -> dict[str, np.ndarray]:
        """Return, after the training, ``lambda - alpha (theta - start)`` by key."""
        return {
            key: (self.multipliers[key] - self.alpha * (parameter - self.start[key])).cpu().numpy()
            for key, parameter in self.parameters.items()
        }
