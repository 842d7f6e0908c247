"""Trained tensors in units: what is looked up, copied, loaded and trained by name."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import numpy as np
import torch
from torch import nn

from .backbone import ModelError

SHARED = "shared"
BLOCK = "block"  # before a block's number
EMBED = "embed"  # what adapts the embeddings, before the first block


def block_unit(block: int) -> str:
    """Return the name of the unit that holds the adapters of a block (counted from 1)."""
    return f"{BLOCK}{block}"


class TrainedUnits(nn.Module):
    """Modules by unit; the first part of a tensor's key is its unit, as in ``block3.head.weight``.

    A *unit* is what travels as one pack: ``block3`` holds all adapters of the third block,
    ``embed`` those of the embeddings, ``shared`` what no block owns.
    """

    units: nn.ModuleDict
    _adapters: dict[str, nn.Parameter]

    def hold(self, units: nn.ModuleDict) -> None:
        """Take modules by unit as what is trained."""
        self.units = units
        # Looked up for every message; walking the modules anew would take longer than a small step.
        self._adapters = dict(units.named_parameters())

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return next(iter(self._adapters.values())).device

    def lowest_block(self, units: Collection[str]) -> int:
        """Return the first block at which some units act; 1 also for what acts before it."""
        return max(1, min((self.block_of(unit) for unit in units), default=1))

    def block_of(self, unit: str) -> int:
        """Return the block (from 1) before which a unit does not act; 0 where there is none."""
        found = re.search(r"\d+$", unit)
        return int(found.group()) if found else 0

    def adapter_parameters(self) -> dict[str, nn.Parameter]:
        """Return every trained tensor by key, unit by unit: what can travel."""
        return dict(self._adapters)

    def parameters_below(self, block: int) -> dict[str, nn.Parameter]:
        """Return by key the trained tensors that can act before a block."""
        below = {unit for unit in self.units if self.block_of(unit) < block}
        return {key: p for key, p in self._adapters.items() if key.split(".")[0] in below}

    def adapter_arrays(self, units: Collection[str] | None = None) -> dict[str, np.ndarray]:
        """Copy the trained tensors of some units (without any: of all) out, by key."""
        return {
            key: parameter.detach().cpu().numpy().copy()
            for key, parameter in self.adapter_parameters().items()
            if units is None or key.split(".")[0] in units
        }

    def load_adapters(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Copy tensors into the adapters, in place; others stay.

        Raises
        ------
        ModelError
            For a key the model does not have, or another shape.
        """
        parameters = self.adapter_parameters()
        for key, value in tensors.items():
            if key not in parameters:
                raise ModelError(f"'{key}' is no adapter tensor of this model; check the method.")
            if tuple(value.shape) != tuple(parameters[key].shape):
                raise ModelError(
                    f"'{key}' has shape {tuple(value.shape)}, the model's is "
                    f"{tuple(parameters[key].shape)}; check the backbone and the classes."
                )
        with torch.no_grad():
            for key, value in tensors.items():
                # torch wants a writable array; what came off the wire is read-only.
                parameters[key].copy_(torch.from_numpy(np.array(value, dtype=np.float32)))

    def set_trained(self, units: Collection[str]) -> None:
        """Let only these units have gradients."""
        for key, parameter in self._adapters.items():
            parameter.requires_grad_(key.split(".")[0] in units)
