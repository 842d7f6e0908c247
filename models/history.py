"""Attention over the class tokens of all blocks so far, for methods that modulate the pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .initialisation import init_linear

HEADS = 8
# Keys and values of the tokens so far, each (B, heads, n, inner / heads).
Memory = tuple[Tensor, Tensor]


def bottleneck(width: int) -> tuple[int, int]:
    """Return the inner widths of attention and MLP in ReeFL's code, for tokens of width D."""
    return 16, int(width * 1.35)


class Tokens(nn.Module):
    """The learned token ``(1, D)`` and the depth embedding ``(L + 1, D)``, row 0 the token's.

    The token starts as a truncated normal of std 0.02; the depth embedding at zero, or like it.
    """

    def __init__(self, width: int, depth: int, *, random_depth: bool = False) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(1, width))
        self.depth = nn.Parameter(torch.zeros(depth + 1, width))
        nn.init.trunc_normal_(self.query, std=0.02)
        if random_depth:
            nn.init.trunc_normal_(self.depth, std=0.02)

    def learned(self, batch: int) -> Tensor:
        """Return the learned token with its embedding, ``(B, 1, D)``."""
        return (self.query + self.depth[:1]).expand(batch, 1, -1)


class HistoryAttention(nn.Module):
    """One pre-norm attention block over a learned token and the class tokens of the blocks so far.

    Only two of its outputs are ever used, those of the learned token (first) and of the current
    block (last), so queries and the MLP run for these two alone; with a single layer that changes
    nothing else.

    Parameters
    ----------
    width : int
        D.
    inner, hidden : int
        Widths of the attention and of the MLP.
    scale : float, optional
        Of the attention; ``(inner / heads) ** -0.5`` without.
    zero_start : bool
        Both residual branches start at zero, so that tokens pass unchanged at first.
    """

    def __init__(
        self,
        width: int,
        inner: int,
        hidden: int,
        *,
        scale: float | None = None,
        zero_start: bool = False,
    ) -> None:
        super().__init__()
        self.heads = HEADS if inner % HEADS == 0 else 1
        self.scale = scale
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * inner)
        self.out = nn.Linear(inner, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.apply(init_linear)
        if zero_start:
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.down.weight)

    def forward(self, history: Tensor) -> Tensor:
        """Map the whole history ``(B, n, D)`` to its first and last output, ``(B, 2, D)``."""
        every = history.shape[1] - 1
        query, key, value = self._project(history)
        return self._mix(history[:, ::every], query[:, :, ::every], (key, value))

    def step(self, pair: Tensor, past: Memory | None) -> tuple[Tensor, Memory]:
        """Do the same for learned and current token ``(B, 2, D)``, given what `past` remembers.

        Memory holds keys and values as these weights make them, so it serves a module that all
        blocks share. Where each block has one of its own, `forward` reads the whole history anew.

        Returns
        -------
        tuple[Tensor, Memory]
            Their outputs ``(B, 2, D)``, and the memory with the current token as it came.
        """
        query, key, value = self._project(pair)
        grown = self._grow(past, (key[:, :, 1:], value[:, :, 1:]))
        everything = self._grow((key[:, :, :1], value[:, :, :1]), grown)
        return self._mix(pair, query, everything), grown

    def remember(self, past: Memory | None, token: Tensor) -> Memory:
        """Return the memory `past` with a token ``(B, 1, D)`` at its end."""
        _, key, value = self._project(token)
        return self._grow(past, (key, value))

    def _project(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return query, key and value of tokens ``(B, n, D)``."""
        batch, count, _ = tokens.shape
        qkv = self.qkv(self.norm1(tokens)).view(batch, count, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        return query, key, value

    @staticmethod
    def _grow(past: Memory | None, new: Memory) -> Memory:
        if past is None:
            return new
        return torch.cat([past[0], new[0]], dim=2), torch.cat([past[1], new[1]], dim=2)

    def _mix(self, tokens: Tensor, query: Tensor, memory: Memory) -> Tensor:
        """Attend with the queries, and run the MLP: both with their residual."""
        mixed = functional.scaled_dot_product_attention(query, *memory, scale=self.scale)
        tokens = tokens + self.out(mixed.transpose(1, 2).flatten(2))
        return tokens + self.down(functional.gelu(self.up(self.norm2(tokens))))
