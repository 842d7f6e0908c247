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

from collections.abc import Sequence
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


def linear_place(block: Block, slot: str) -> str:
    """Return where a projection's own linear layer is, within what an adapter made of it."""
    outer = f"self_attention.{slot}"
    named = block.get_submodule(outer).named_modules()
    inner = next(name for name, module in named if isinstance(module, nn.Linear))
    return f"{outer}.{inner}".removesuffix(".")


class PersonalFactors(nn.Module):
    """Low-rank changes of the three projections of a block: ``B`` personal, ``A`` fixed.

    ``A`` is drawn Kaiming-uniform, within 1 / sqrt(D), from the seed and the block's number, so
    that it is the same on every machine.
    """

    def __init__(self, width: int, number: int, rank: int, scaling: float, seed: int) -> None:
        super().__init__()
        self.scaling = scaling
        self.B = nn.Parameter(torch.zeros(len(SLOTS), width, rank))
        generator = torch.Generator().manual_seed(seed * 1000 + number)
        drawn = torch.rand(len(SLOTS), rank, width, generator=generator)
        self.register_buffer("A", (2 * drawn - 1) / width**0.5)

    def project(self, frozen: nn.Linear, slot: int, tokens: Tensor) -> Tensor:
        """Apply the changed projection to tokens ``(B, N, D)``."""
        fixed: Any = self.A
        low = functional.linear(tokens, fixed[slot])
        output: Tensor = frozen(tokens) + self.scaling * functional.linear(low, self.B[slot])
        return output


class PersonalWeights(nn.Module):
    """Whole personal weights in place of those of the three projections, whose biases stay.

    A weight that would be trained (`adapter=full`) is taken out of its layer: nobody reads it any
    more, so it must not travel either.
    """

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.stack([linear.weight.detach().clone() for linear in linears]))
        for linear in linears:
            if linear.weight.requires_grad:
                linear.register_parameter("weight", None)

    def project(self, frozen: nn.Linear, slot: int, tokens: Tensor) -> Tensor:
        """Apply the personal projection to tokens ``(B, N, D)``."""
        return functional.linear(tokens, self.W[slot], frozen.bias)


class PersonalLinear(nn.Module):
    """The linear layer of a projection, with its personal part."""

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
            adapted = self.block(number)
            places = [linear_place(adapted, slot) for slot in SLOTS]
            personal = self._personal([adapted.get_submodule(place) for place in places], number)
            block = copy_structure(adapted)
            for slot, place in enumerate(places):
                frozen: Any = block.get_submodule(place)
                block.set_submodule(place, PersonalLinear(frozen, slot, personal))
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

    def _personal(self, linears: Sequence[Any], number: int) -> nn.Module:
        if self.form == "projections":
            return PersonalWeights(linears)
        scaling = self.alpha / self.rank
        return PersonalFactors(self.backbone.width, number, self.rank, scaling, self.factor_seed)

    @property
    def has_fixed_features(self) -> bool:
        """Personal tensors act before the heads."""
        return False
