"""Methods `hyper-attention`, `local-attention`, `shared-attention`: personal attention, or not.

Source: H. Li et al., *FedTP: Federated Learning by Transformer Personalization*, arXiv 2211.01572.
The query, key and value projections of every block are personal; heads, and adapters if there are
any, are averaged over the clients. On a frozen backbone a projection W is ::

    W + (alpha / r) B A         B: personal, (D, r);  A: fixed, (r, D), from a seed, never sent

with B = 0 at the start, or, as published, a whole personal W. Where the personal tensors come from
is not the model's affair: a hypernetwork makes them (`strategies/hyper_attention.py`), each client
keeps its own, or, to compare, they are averaged like everything else.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .adapters import Adapter
from .adapters.base import copy_structure
from .backbone import Backbone, Block
from .base import ExitHead
from .exits import ExitsModel

PERSONAL, HEAD = "personal", "head"
SLOTS = ("q_proj", "k_proj", "v_proj")


def personal_unit(block: int) -> str:
    """Return the name of the unit of a block's personal tensors (blocks from 1)."""
    return f"{PERSONAL}{block}"


class PersonalFactors(nn.Module):
    """Low-rank changes of the three projections of a block: ``B`` personal, ``A`` fixed.

    ``A`` is drawn Kaiming-uniform, within 1 / sqrt(D), from the seed and the block's number, so
    that it is the same on every machine.
    """

    def __init__(self, block: Block, number: int, rank: int, scaling: float, seed: int) -> None:
        super().__init__()
        self.scaling = scaling
        self.B = nn.Parameter(torch.zeros(len(SLOTS), block.width, rank))
        generator = torch.Generator().manual_seed(seed * 1000 + number)
        drawn = torch.rand(len(SLOTS), rank, block.width, generator=generator)
        self.register_buffer("A", (2 * drawn - 1) / block.width**0.5)

    def project(self, frozen: nn.Linear, slot: int, tokens: Tensor) -> Tensor:
        """Apply the changed projection to tokens ``(B, N, D)``."""
        fixed: Any = self.A
        low = functional.linear(tokens, fixed[slot])
        output: Tensor = frozen(tokens) + self.scaling * functional.linear(low, self.B[slot])
        return output


class PersonalWeights(nn.Module):
    """Whole personal weights of the three projections; biases stay those of the backbone."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        weights = [attention.get_submodule(slot).get_parameter("weight") for slot in SLOTS]
        self.W = nn.Parameter(torch.stack([weight.detach().clone() for weight in weights]))

    def project(self, frozen: nn.Linear, slot: int, tokens: Tensor) -> Tensor:
        """Apply the personal projection to tokens ``(B, N, D)``."""
        return functional.linear(tokens, self.W[slot], frozen.bias)


class PersonalLinear(nn.Module):
    """A projection of the backbone, with its personal part."""

    def __init__(self, frozen: nn.Linear, slot: int, personal: nn.Module) -> None:
        super().__init__()
        self.frozen, self.slot, self.personal = frozen, slot, personal

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens ``(B, N, D)``."""
        personal: Any = self.personal
        output: Tensor = personal.project(self.frozen, self.slot, tokens)
        return output


class HyperAttentionModel(ExitsModel):
    """Heads at the exits, and personal projections in every block up to the last exit.

    ``3 D r`` personal numbers in a block, or ``3 D^2`` in the published form.

    Parameters
    ----------
    form : str
        ``factors``, or ``projections`` for whole personal weights, as published.
    rank : int
        r of the factors.
    alpha : float
        Of the factors.
    factor_seed : int
        Of the fixed factors A.
    """

    def __init__(
        self,
        backbone: Backbone,
        exits: tuple[int, ...],
        num_classes: int,
        *,
        form: str = "factors",
        rank: int = 4,
        alpha: float = 8.0,
        factor_seed: int = 0,
        **adapter: Any,
    ) -> None:
        self.form, self.rank, self.alpha, self.factor_seed = form, rank, alpha, factor_seed
        super().__init__(backbone, exits, num_classes, **adapter)

    def further_units(self, recipe: Adapter) -> dict[str, dict[str, nn.Module]]:
        """Build the units of the personal tensors, and put these into the blocks."""
        del recipe
        units: dict[str, dict[str, nn.Module]] = {
            f"{HEAD}{number}": {"head": ExitHead(self.backbone.width, self.num_classes)}
            for number in self.exits
        }
        for number in range(1, self.exits[-1] + 1):
            block = copy_structure(self.block(number))
            attention, personal = block.self_attention, self._personal(block, number)
            for slot, name in enumerate(SLOTS):
                frozen: Any = attention.get_submodule(name)
                attention.set_submodule(name, PersonalLinear(frozen, slot, personal))
            self._blocks[number - 1] = block
            units[personal_unit(number)] = {"attention": personal}
        return units

    def block_parts(self, block: int) -> dict[str, nn.Module]:
        """No block has parts beside adapters: heads have units of their own, to be kept alone."""
        del block
        return {}

    def head(self, block: int) -> nn.Module:
        """Return the head after a block that is an exit."""
        head: nn.Module = self.part(f"{HEAD}{block}", "head")
        return head

    def _personal(self, block: Block, number: int) -> nn.Module:
        if self.form == "projections":
            return PersonalWeights(block.self_attention)
        return PersonalFactors(block, number, self.rank, self.alpha / self.rank, self.factor_seed)

    @property
    def has_fixed_features(self) -> bool:
        """Personal tensors act before the heads."""
        return False
