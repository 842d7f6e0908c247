"""Method `accumulator`: an attention adapter at every block that modulates and predicts early.

"Accumulator-style": the idea is that of *Federated Learning for Inference at Anytime and
Anywhere* (arXiv 2212.04084); its equations were not available, so sizes, wiring and start are our
reconstruction (docs/methods/accumulator.md). After block l, with class token ``h_l``::

    X_l = [q; g_1; ..; g_{l-1}; h_l] + e[0..l]      q: learned token, e: depth embedding
    M_l = Acc(X_l)                                  pre-norm attention and MLP, residual
    y_l = head(M_l[0] + h_l)                        the prediction, where there is an exit
    z_l[0] <- M_l[l]                                what the next block sees as class token

``g_j`` is ``h_j`` (history "raw") or ``M_j[j]`` ("modulated").
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .backbone import Backbone
from .base import AdapterModel, ExitHead, State
from .history import HistoryAttention, Tokens, bottleneck
from .units import SHARED, block_unit

# (width of attention, hidden width of the MLP) for a backbone of width D; "bottleneck" is the
# size of ReeFL's module, which makes the two methods comparable.
SIZES = {"bottleneck": bottleneck, "full": lambda width: (width, 4 * width)}


class AccumulatorModel(AdapterModel):
    """The accumulator on a frozen backbone.

    Parameters
    ----------
    sharing : str
        ``shared``: one accumulator and one head for all blocks; ``per-block``: each its own.
    history : str
        ``modulated`` or ``raw``: which class tokens of earlier blocks are attended to.
    size : str
        ``bottleneck`` (attention 16 wide, MLP 1.35 D) or ``full`` (D wide, MLP 4 D).
    tap : str
        Where the class token is read and written: after the whole ``block`` or right after its
        ``attention``.
    """

    row_keys = (f"{SHARED}.tokens.depth",)

    def __init__(
        self,
        backbone: Backbone,
        exits: tuple[int, ...],
        num_classes: int,
        *,
        sharing: str = "shared",
        history: str = "modulated",
        size: str = "bottleneck",
        tap: str = "block",
        **adapter: Any,
    ) -> None:
        self.is_shared = sharing == "shared"
        self.keeps_modulated = history == "modulated"
        self.size = size
        self.taps_attention = tap == "attention"
        super().__init__(backbone, exits, num_classes, **adapter)

    def shared_parts(self) -> dict[str, nn.Module]:
        """Tokens, and in shared form the one accumulator and head."""
        parts: dict[str, nn.Module] = {"tokens": Tokens(self.backbone.width, self.backbone.depth)}
        if self.is_shared:
            parts["accumulator"] = self._accumulator()
            parts["head"] = ExitHead(self.backbone.width, self.num_classes)
        return parts

    def block_parts(self, block: int) -> dict[str, nn.Module]:
        """In per-block form: an accumulator for every block, a head where there is an exit."""
        parts: dict[str, nn.Module] = {}
        if not self.is_shared:
            parts["accumulator"] = self._accumulator()
            if block in self.exits:
                parts["head"] = ExitHead(self.backbone.width, self.num_classes)
        return parts

    def _accumulator(self) -> nn.Module:
        # From zero, so that the pass of round 0 is the pretrained one exactly.
        width = self.backbone.width
        return HistoryAttention(width, *SIZES[self.size](width), zero_start=True)

    def begin(self, images: Tensor) -> State:
        """Embed the images; the history begins with the learned token."""
        (tokens,) = super().begin(images)
        return tokens, self.part(SHARED, "tokens").learned(len(tokens))

    def advance(self, state: State, block: int) -> tuple[State, Tensor | None]:
        """Run a block in the modulated pass; the state holds ``(B, 1, D)`` for each before it."""
        tokens, *past = state
        unit, depth = block_unit(block), self.part(SHARED, "tokens").depth[block]
        adapted = self.block(block)
        tokens = adapted.attend(tokens)
        if not self.taps_attention:
            tokens = adapted.transform(tokens)
        owner = SHARED if self.is_shared else unit
        raw = self.backbone.read_out(tokens)[:, None]
        current = raw + depth
        history = torch.cat([*past, current], dim=1)
        summary, modulated = self.part(owner, "accumulator")(history).split(1, dim=1)
        logits = None
        if block in self.exits:
            logits = self.part(owner, "head")((summary + raw).squeeze(1))
        past.append(modulated + depth if self.keeps_modulated else current)
        tokens = torch.cat([modulated, tokens[:, 1:]], dim=1)
        if self.taps_attention:
            tokens = adapted.transform(tokens)
        return (tokens, *past), logits
