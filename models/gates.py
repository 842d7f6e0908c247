"""How much each of two experts counts in the answer to an image, and the mixture of both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

# Gates that look at the image, gates that clients keep to themselves, and what a gate that nobody
# trains gives the two experts.
READING_GATES = ("adapter", "private")
PRIVATE_GATES = ("private", "scalar")
FIXED_GATES = {"half": (0.5, 0.5), "local": (0.0, 1.0)}


class AdapterGate(nn.Module):
    """Weights of the experts from the features of an image, ``(B, D) -> (B, 2)``.

    ``5D + 2Dm + m + 2`` parameters; `V` and `Up` start at zero, so both weights at 1/2.
    """

    def __init__(self, width: int, bottleneck: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.norm = nn.LayerNorm(width)
        self.down, self.up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
        self.V = nn.Linear(width, 2)
        for layer in (self.up, self.V):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Return weights that add up to 1."""
        adapted = features + self.up(functional.gelu(self.down(self.norm(features))))
        scores: Tensor = self.V(adapted)
        return torch.softmax(scores.float() / self.temperature, dim=1)


class ScalarGate(nn.Module):
    """The same two weights for every image, from one trained number, which starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Parameter(torch.zeros(1))

    def forward(self, features: Tensor) -> Tensor:
        """Return weights that add up to 1, ``(B, 2)``."""
        scores = torch.cat([torch.zeros_like(self.score), self.score])
        return torch.softmax(scores, dim=0).expand(len(features), 2)


class FixedGate(nn.Module):
    """The same two weights for every image, never trained."""

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        self.weights = tuple(weights)

    def forward(self, features: Tensor) -> Tensor:
        """Return the weights, ``(B, 2)``."""
        weights = torch.tensor(self.weights, device=features.device)
        return weights.expand(len(features), 2)


def build_gate(kind: str, width: int, bottleneck: int, temperature: float) -> nn.Module:
    """Return a gate: of `READING_GATES`, of `FIXED_GATES`, or ``scalar``.

    It maps features ``(B, D)`` to weights ``(B, 2)``; the last two kinds only count the images.
    """
    if kind in FIXED_GATES:
        return FixedGate(FIXED_GATES[kind])
    return ScalarGate() if kind == "scalar" else AdapterGate(width, bottleneck, temperature)


class Mixture(dict[int, Tensor]):
    """Logits ``(B, C)`` of the mixture by exit, and what they are mixed from.

    Parameters
    ----------
    global_logits, local_logits : dict[int, Tensor]
        ``(B, C)`` by exit.
    weights : dict[int, Tensor]
        ``(B, 2)`` by exit: of the global and of the local expert.
    """

    def __init__(
        self,
        global_logits: dict[int, Tensor],
        local_logits: dict[int, Tensor],
        weights: dict[int, Tensor],
    ) -> None:
        self.global_logits, self.local_logits, self.weights = global_logits, local_logits, weights
        # In this form experts that agree are given exactly, whatever the weights.
        super().__init__(
            {e: torch.lerp(z, local_logits[e], weights[e][:, 1:]) for e, z in global_logits.items()}
        )

    def routed(self) -> dict[int, Tensor]:
        """Return, by exit, the logits of the one expert that weighs more; the global one if both
        weigh the same.
        """
        return {
            e: torch.where(w[:, 1:] > w[:, :1], self.local_logits[e], self.global_logits[e])
            for e, w in self.weights.items()
        }
