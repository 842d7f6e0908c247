"""Method `reefl`: one recurrent early-exit module, shared by all blocks, exits and clients.

Source: *Recurrent Early Exits for Federated Learning with Heterogeneous Clients*, arXiv
2405.14791, and its code; docs/methods/reefl.md tells where the two differ. After block l, with
class token ``z_l``::

    X   = [meta; g_1; ..; g_{l-1}; z_l] + e[0..l]   meta: learned token, e: depth embedding
    X   = X + Out(MHA(LN(X)))                       8 heads, attention scale A^-0.5
    M   = X + W2 GELU(W1 LN(X))
    y_l = W LN(M[0] + z_l) + b                      the prediction, where there is an exit
    z_l <- M[l]                                     what the next block sees as class token

``g_j`` is ``M_j[j]`` (history "modulated", as the code behaves) or ``z_j`` ("raw", as the paper's
figure says). The loss is that of `models.distillation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .backbone import Backbone
from .base import AdapterModel, ExitHead, State
from .distillation import Distillation
from .history import HistoryAttention, Tokens, bottleneck
from .units import SHARED


class ReeflModel(AdapterModel):
    """ReeFL on a frozen backbone.

    Parameters
    ----------
    history : str
        ``modulated`` or ``raw``: which class tokens of earlier blocks are attended to.
    start : str
        ``published``: everything random, so that the pretrained pass is changed from the start;
        ``zero``: residual branches and depth embedding at zero, so that it is not.
    teacher : str
        Which exit teaches the others; see `Distillation`.
    ramp_rounds : int
        Rounds until distillation has its full weight.
    """

    row_keys = (f"{SHARED}.tokens.depth",)

    def __init__(
        self,
        backbone: Backbone,
        exits: tuple[int, ...],
        num_classes: int,
        *,
        history: str = "modulated",
        start: str = "published",
        teacher: str = "best",
        ramp_rounds: int = 300,
        **adapter: Any,
    ) -> None:
        self.keeps_modulated = history == "modulated"
        self.starts_at_zero = start == "zero"
        super().__init__(backbone, exits, num_classes, **adapter)
        self.distillation = Distillation(teacher, ramp_rounds)

    def shared_parts(self) -> dict[str, nn.Module]:
        """Tokens, the one recurrent module, and the one head."""
        width = self.backbone.width
        inner, hidden = bottleneck(width)
        return {
            "tokens": Tokens(width, self.backbone.depth, random_depth=not self.starts_at_zero),
            # The published scale is that of the whole attention, not of a head.
            "ree": HistoryAttention(
                width, inner, hidden, scale=inner**-0.5, zero_start=self.starts_at_zero
            ),
            "head": ExitHead(width, self.num_classes),
        }

    def block_parts(self, block: int) -> dict[str, nn.Module]:
        """No block has parts of its own."""
        del block
        return {}

    def advance(self, state: State, block: int) -> tuple[State, Tensor | None]:
        """Run a block in the modulated pass; after the tokens the state holds Ree's memory."""
        tokens, *past = state
        learned, ree = self.part(SHARED, "tokens"), self.part(SHARED, "ree")
        tokens = self.block(block)(tokens)
        raw, depth = self.backbone.read_out(tokens)[:, None], learned.depth[block]
        pair = torch.cat([learned.learned(len(tokens)), raw + depth], dim=1)
        memory = (past[0], past[1]) if past else None
        outputs, with_raw = ree.step(pair, memory)
        summary, modulated = outputs.split(1, dim=1)
        logits = None
        if block in self.exits:
            logits = self.part(SHARED, "head")((summary + raw).squeeze(1))
        # Out of place: the history keeps what it was given.
        tokens = torch.cat([modulated, tokens[:, 1:]], dim=1)
        kept = ree.remember(memory, modulated + depth) if self.keeps_modulated else with_raw
        return (tokens, *kept), logits

    def begin_round(self, server_round: int) -> None:
        """Let the distillation start afresh, at the round's weight."""
        self.distillation.begin_round(server_round)

    def loss(self, logits: Mapping[int, Tensor], labels: Tensor) -> Tensor:
        """Return cross-entropies and distillation; see `Distillation`."""
        return self.distillation.loss(logits, labels)
