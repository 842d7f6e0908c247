"""What an adapter kind is: a recipe for trained tensors inside a frozen backbone."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ..backbone import Block

NO_ADAPTER = "none"


@dataclass(frozen=True)
class AdapterSpec:
    """The choice of an adapter, made once for all blocks.

    Attributes
    ----------
    kind : str
        A name in `ADAPTERS`.
    rank : int
        Width of a bottleneck, or rank of LoRA.
    """

    kind: str = NO_ADAPTER
    rank: int = 32


UNADAPTED = AdapterSpec()


class Adapter:
    """A recipe that adapts the parts of a frozen backbone; this one leaves them as they are.

    What a method returns holds the frozen tensors themselves, not copies, beside the tensors to
    train, so that all models of a process share one backbone.
    """

    def __init__(self, spec: AdapterSpec) -> None:
        self.spec = spec

    def embeddings(self, frozen: nn.Module) -> nn.Module:
        """Return the adapted embeddings, images ``(B, 3, S, S)`` to tokens ``(B, N, D)``."""
        return frozen

    def block(self, frozen: Block) -> Block:
        """Return the adapted block."""
        return frozen
