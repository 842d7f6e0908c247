"""A network whose output are other networks' tensors, and its training from their changes.

Source: FedTP, arXiv 2211.01572, on the update rule of pFedHN (ICML 2021). From a client's embedding
z the hypernetwork makes the client's own tensors g = h(z). The client trains them and returns g~.
``g - g~`` takes the place of the gradient of a loss at g, and the chain rule carries it on to the
weights of h and to z: one vector-Jacobian product for all clients of a round.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from .backbone import ModelError

PLACE = 16  # width of the embedding of a block, and of a slot in it


class Hypernetwork(nn.Module):
    """Client embeddings ``(m, E)`` to the tensors of each unit, ``(m, slots, *shape)``.

    A trunk of linear layers with ReLU between them, then linear heads without activation.

    Parameters
    ----------
    shapes : Mapping[str, tuple[int, ...]]
        Shape of what is made for each unit, the slots (q, k, v) first; the same for all units.
    embedding, hidden : int
        E, and the width H of the trunk.
    layers : int
        Hidden layers beyond the first linear one.
    shared_head : bool
        One head makes all units, slot by slot, told apart by embeddings of block and slot in the
        trunk's input; otherwise each unit has a head of its own, as published.
    zero_start : bool
        Heads start at zero, and so does all they make; otherwise as torch starts linear layers.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        embedding: int = 64,
        hidden: int = 128,
        layers: int = 1,
        shared_head: bool = True,
        zero_start: bool = True,
    ) -> None:
        super().__init__()
        if len(set(shapes.values())) != 1:
            raise ModelError("a hypernetwork makes tensors of one shape for all blocks.")
        self.units = tuple(shapes)
        self.shape = next(iter(shapes.values()))
        self.embedding = embedding
        slots, size = self.shape[0], int(np.prod(self.shape[1:]))
        self.places: nn.ParameterDict | None = None
        inputs = embedding
        if shared_head:
            self.places = nn.ParameterDict(
                {
                    "block": nn.Parameter(torch.randn(len(shapes), PLACE)),
                    "slot": nn.Parameter(torch.randn(slots, PLACE)),
                }
            )
            inputs += 2 * PLACE
        trunk: list[nn.Module] = [nn.Linear(inputs, hidden)]
        for _ in range(layers):
            trunk += [nn.ReLU(), nn.Linear(hidden, hidden)]
        self.trunk = nn.Sequential(*trunk)
        heads = [nn.Linear(hidden, size)] if shared_head else []
        heads = heads or [nn.Linear(hidden, slots * size) for _ in shapes]
        self.heads = nn.ModuleList(heads)
        if zero_start:
            for parameter in self.heads.parameters():
                nn.init.zeros_(parameter)

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        """Make every unit's tensors for some clients."""
        count, slots = len(rows), self.shape[0]
        if self.places is None:
            features = self.trunk(rows)
            made = [head(features) for head in self.heads]
        else:
            blocks, kinds = self.places["block"], self.places["slot"]
            grid = (count, len(blocks), slots, -1)
            inputs = torch.cat(
                [
                    rows[:, None, None].expand(grid),
                    blocks[None, :, None].expand(grid),
                    kinds[None, None].expand(grid),
                ],
                dim=-1,
            )
            made = list(self.heads[0](self.trunk(inputs)).unbind(dim=1))
        return {
            unit: tensor.reshape(count, *self.shape)
            for unit, tensor in zip(self.units, made, strict=True)
        }


class HypernetworkTrainer:
    """A hypernetwork seen from a server that knows no torch: vectors in, vectors out.

    Parameters
    ----------
    network : Hypernetwork
    rate, momentum : float
        Of the SGD on its weights.
    """

    def __init__(self, network: Hypernetwork, *, rate: float, momentum: float = 0.9) -> None:
        self.network = network
        self.embedding = network.embedding
        self.optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=momentum)

    @torch.no_grad()
    def generate(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Make the flat vectors of each unit, ``(m, size)``, for clients' rows ``(m, E)``."""
        made = self.network(torch.from_numpy(rows))
        return {unit: tensor.flatten(1).numpy() for unit, tensor in made.items()}

    def pull(self, rows: np.ndarray, cotangents: Mapping[str, np.ndarray]) -> np.ndarray:
        """Carry what clients changed back to the weights and to their rows; return the latter's.

        The weights' gradient waits for `step`, or is forgotten at the next call.

        Parameters
        ----------
        rows : np.ndarray
            ``(m, E)``, as they were when the tensors were made: the pass is run again.
        cotangents : Mapping[str, np.ndarray]
            ``(m, size)`` for each unit: sent minus returned, with the weight of the client in it;
            zero where a client does not hold the unit.

        Returns
        -------
        np.ndarray
            ``(m, E)``, with the same weights in it.
        """
        inputs = torch.from_numpy(rows.copy()).requires_grad_()
        made = self.network(inputs)
        self.optimizer.zero_grad()
        torch.autograd.backward(
            [made[unit].flatten(1) for unit in self.network.units],
            [torch.from_numpy(cotangents[unit]) for unit in self.network.units],
        )
        assert inputs.grad is not None
        return inputs.grad.numpy()

    def step(self) -> None:
        """Move the weights by the gradient of the last `pull`."""
        self.optimizer.step()

    def state(self) -> dict[str, np.ndarray]:
        """Return weights and momenta by name, for a checkpoint."""
        state = {}
        for name, parameter in self.network.named_parameters():
            state[f"weight.{name}"] = parameter.detach().numpy().copy()
            momentum = self.optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                state[f"momentum.{name}"] = momentum.numpy().copy()
        return state

    @torch.no_grad()
    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Take back what `state` returned.

        Raises
        ------
        ModelError
            When a weight is missing, or a tensor has another shape or values that are not finite.
        """
        for name, parameter in self.network.named_parameters():
            weight = state.get(f"weight.{name}")
            momentum = state.get(f"momentum.{name}")
            fits = weight is not None and all(
                found.shape == tuple(parameter.shape) and np.isfinite(found).all()
                for found in (weight, momentum)
                if found is not None
            )
            if not fits:
                raise ModelError(
                    f"resume: the checkpoint's hypernetwork does not fit at '{name}'; resume from "
                    "another copy."
                )
            parameter.copy_(torch.from_numpy(weight))
            if momentum is not None:
                self.optimizer.state[parameter]["momentum_buffer"] = torch.from_numpy(
                    momentum.copy()
                )
