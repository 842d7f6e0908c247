"""What an adapter kind is: a recipe for trained tensors inside a frozen backbone."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from ..backbone import Block

NO_ADAPTER = "none"
BRANCHES = ("attention", "mlp")  # of a block
# Where in a block a kind acts, unless told otherwise; other kinds act everywhere.
USUAL_TARGETS = {"lora": ("q", "v"), "parallel": BRANCHES, "serial": BRANCHES}
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class AdapterSpec:
    """The choice of an adapter, made once for all blocks.

    Attributes
    ----------
    kind : str
        A name in `ADAPTERS`.
    rank : int
        Width of a bottleneck, or rank of LoRA.
    scaling : float
        Factor of LoRA's product; it does not follow the rank, so that a model of a smaller rank
        computes what the leading part of a larger one does.
    targets : tuple[str, ...]
        Linear layers of a block that get LoRA, of `LINEARS`, or branches that get a bottleneck, of
        `BRANCHES`; without any, the kind's usual ones.
    """

    kind: str = NO_ADAPTER
    rank: int = 32
    scaling: float = 2.0
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.targets:
            object.__setattr__(self, "targets", USUAL_TARGETS.get(self.kind, ()))


UNADAPTED = AdapterSpec()


class Adapter:
    """A recipe that adapts the parts of a frozen backbone; this one leaves them as they are.

    An adapted part holds the frozen tensors themselves, not copies, so that all models of a process
    share one backbone. Its attribute `trained` is the module that holds what is trained of it, and
    nothing else, under the names of the bank; without it, all of the part is trained.
    """

    def __init__(self, spec: AdapterSpec) -> None:
        self.spec = spec

    def embeddings(self, frozen: nn.Module) -> nn.Module:
        """Return the adapted embeddings, images ``(B, 3, S, S)`` to tokens ``(B, N, D)``."""
        return frozen

    def block(self, frozen: Block) -> Block:
        """Return the adapted block."""
        return frozen

    def head(self, head: nn.Sequential) -> nn.Sequential:
        """Return the adapted head (layer norm, linear layer), all of which is trained."""
        return head


def copy_structure(module: Module) -> Module:
    """Copy a module but not its tensors: parameters and buffers are the same objects in both."""
    tensors = (*module.parameters(), *module.buffers())
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})
