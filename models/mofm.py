"""Method `mofm`: a global and a local expert on one frozen backbone, mixed by a gate.

In the style of FedMS (arXiv 2312.15926; as a journal paper FedFMSL, doi
10.1109/TMC.2024.3454634), of which only the abstract could be had: docs/methods/mofm.md tells what
is theirs. Each expert is a LoRA in every block and a head at every exit. At an exit ::

    z_g, z_l = logits of the global and of the local expert      (B, C)
    u        = class token of the plain backbone                 (B, D)
    w        = softmax(V (u + Up GELU(Down LN(u))) / T)          (B, 2)
    z        = w_1 z_g + w_2 z_l

In stage 1 the global expert is trained and answers alone. In stage 2 it is frozen; the local
expert, which starts as its copy, and the gate are trained.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .adapters import (
    NO_ADAPTER,
    Adapter,
    AdapterSpec,
    FixedFactorLora,
    build_adapter,
    start_at_nothing,
)
from .backbone import Backbone
from .base import AdapterModel, ExitHead, State
from .gates import FIXED_GATES, READING_GATES, Mixture, build_gate
from .units import EMBED, block_unit

GATE, HEAD = "gate", "head"  # how the names of units begin
LOCAL = "local-"  # before the name of a unit of the global expert: the local one's


@dataclass(frozen=True)
class Stack:
    """The embeddings and blocks of one pass: plain, or with an expert's adapters."""

    embed: nn.Module
    blocks: Sequence[nn.Module]


class MofmModel(AdapterModel):
    """Two experts and a gate.

    Units are ``block<b>`` and ``head<b>`` of the global expert, ``local-block<b>`` and
    ``local-head<b>`` of the local one, and ``gate<b>``; heads and gates stand at exits.

    Parameters
    ----------
    rank, alpha : int, float
        Of the experts' LoRA. An `adapter` of another kind than ``none`` takes its place.
    factors : str
        What the global expert trains of its LoRA: ``B`` alone, or ``both``.
    factor_seed : int
        Of factors A that are not trained.
    gate : str
        ``adapter``; ``private``, the same for each client on its own; ``scalar``; ``half`` and
        ``local`` are never trained.
    gate_width : int
        Width m of the gate's bottleneck.
    temperature : float
        T of the gate.
    local_weight : float
        Of the local expert's own loss.
    proximal : float
        Of half the squared distance between the experts in the loss.
    mixing : bool
        Whether the mixture answers, as in stage 2, or the global expert alone.

    Attributes
    ----------
    expert : AdapterSpec
        Of the local expert's adapters, and of the global one's where all of them are trained.
    """

    def __init__(
        self,
        backbone: Backbone,
        exits: tuple[int, ...],
        num_classes: int,
        *,
        rank: int = 8,
        alpha: float = 16.0,
        factors: str = "B",
        factor_seed: int = 0,
        gate: str = "adapter",
        gate_width: int = 32,
        temperature: float = 1.0,
        local_weight: float = 0.5,
        proximal: float = 0.0,
        mixing: bool = False,
        **adapter: Any,
    ) -> None:
        self.rank, self.alpha = rank, alpha
        self.factors, self.factor_seed = factors, factor_seed
        self.gate, self.gate_width, self.temperature = gate, gate_width, temperature
        self.local_weight, self.proximal, self.mixing = local_weight, proximal, mixing
        self._heads: dict[int, ExitHead] = {}
        super().__init__(backbone, exits, num_classes, **adapter)
        # So that a block which is not active is the backbone's, whatever a tier's own start.
        start_at_nothing(self.units)
        self._stacks: tuple[Stack, ...] = (Stack(self._embed[0], self._blocks), self._local)
        if self.gate in READING_GATES:
            self._stacks += (Stack(backbone.embed, list(backbone.blocks)),)
        of_global, of_local = (
            [stack.embed, *stack.blocks, *(self.part(f"{head}{e}", "head") for e in exits)]
            for stack, head in zip(self._stacks, (HEAD, LOCAL + HEAD), strict=False)
        )
        # What is frozen in both is one tensor; what is left, the local expert trains.
        self._pairs = [
            (mine, other)
            for module, source in zip(of_local, of_global, strict=True)
            for mine, other in zip(module.parameters(), source.parameters(), strict=True)
            if mine is not other
        ]

    @property
    def own_options(self) -> Mapping[str, Any]:  # type: ignore[override]
        """What builds this model as it answers now."""
        return {"mixing": self.mixing}

    def recipe(self, spec: AdapterSpec) -> Adapter:
        """Return the global expert's adapters: LoRA of its own, unless `spec` names others."""
        own = spec.kind == NO_ADAPTER
        lora_spec = AdapterSpec("lora", self.rank, self.alpha / self.rank, spec.targets)
        self.expert = lora_spec if own else spec
        if not own or self.factors == "both":
            return build_adapter(self.expert)
        lora = FixedFactorLora(self.expert, self.factor_seed)
        self.fixed_factors = lora.fixed  # moves with the model
        return lora

    def shared_parts(self) -> dict[str, nn.Module]:
        """Nothing is shared by all blocks."""
        return {}

    def block_parts(self, block: int) -> dict[str, nn.Module]:
        """No block has parts beside adapters: heads are trained where their block is not."""
        if block in self.exits:
            self._heads[block] = ExitHead(self.backbone.width, self.num_classes)
        return {}

    def further_units(self, recipe: Adapter) -> dict[str, dict[str, nn.Module]]:
        """Build heads, the local expert and the gates."""
        del recipe
        width, own = self.backbone.width, build_adapter(self.expert)
        blocks: Any = self.backbone.blocks[: self.exits[-1]]
        self._local = Stack(
            own.embeddings(self.backbone.embed), [own.block(block) for block in blocks]
        )
        self._gates = {
            e: build_gate(self.gate, width, self.gate_width, self.temperature) for e in self.exits
        }
        units: dict[str, dict[str, nn.Module]] = {
            f"{HEAD}{e}": {"head": head} for e, head in self._heads.items()
        }
        if self._local.embed is not self.backbone.embed:
            units[LOCAL + EMBED] = {"adapter": self._local.embed}
        for number, block in enumerate(self._local.blocks, 1):
            units[LOCAL + block_unit(number)] = {"adapter": block}
        for e in self.exits:
            units[f"{LOCAL}{HEAD}{e}"] = {"head": ExitHead(width, self.num_classes)}
        if self.gate not in FIXED_GATES:
            units |= {f"{GATE}{e}": {"gate": gate} for e, gate in self._gates.items()}
        return units

    def begin(self, images: Tensor) -> State:
        """Embed images ``(B, 3, S, S)`` for each pass: the global, the local, the plain one."""
        return tuple(stack.embed(images) for stack in self._running)

    def advance(self, state: State, block: int) -> tuple[State, Tensor | None]:
        """Run a block of each pass; at an exit return the logits of what answers."""
        state = tuple(
            stack.blocks[block - 1](tokens)
            for stack, tokens in zip(self._running, state, strict=True)
        )
        if block not in self.exits:
            return state, None
        read = [self.backbone.read_out(tokens) for tokens in state]
        logits = {block: self._head(HEAD, block, read[0])}
        if not self.mixing:
            return state, logits[block]
        local = {block: self._head(LOCAL + HEAD, block, read[1])}
        return state, Mixture(logits, local, {block: self._gates[block](read[-1])})[block]

    def forward(
        self, images: Tensor, depth: int | None = None, fixed: Tensor | None = None
    ) -> dict[int, Tensor]:
        """Predict at every exit within `depth`: a `Mixture` in stage 2.

        Parameters
        ----------
        images : Tensor
            ``(B, 3, S, S)``, normalised.
        depth : int, optional
            Blocks this device can run.
        fixed : Tensor, optional
            What `features` returned for these images.
        """
        if not self.mixing:
            return super().forward(images, depth)
        fixed = self._run_fixed(images, depth) if fixed is None else fixed
        local = self._class_tokens(self._local, images, depth)
        logits, seen = fixed.tensor_split([self.num_classes], dim=2)
        return Mixture(
            dict(zip(local, logits.unbind(1), strict=True)),
            {e: self._head(LOCAL + HEAD, e, tokens) for e, tokens in local.items()},
            {e: self._gates[e](u) for e, u in zip(local, seen.unbind(1), strict=True)},
        )

    @property
    def feature_width(self) -> int:
        """Numbers of `features` for each exit."""
        reads = self.gate in READING_GATES
        return self.num_classes + (self.backbone.width if reads else 0)

    @torch.no_grad()
    def features(self, images: Tensor, depth: int | None = None) -> Tensor:
        """Return what stage 2 leaves alone, ``(B, exits, C + D)``: z_g and, if it is read, u."""
        return self._run_fixed(images, depth)

    def feature_versions(self, depth: int | None = None) -> tuple[int, ...]:
        """Return, by exit within `depth`, a hash of the global expert up to there."""
        versions, value, last = [], 0, -1
        for e in self.reach(depth):
            for unit in self.units:
                if not unit.startswith((LOCAL, GATE)) and last < self.block_of(unit) <= e:
                    for tensor in self.adapter_arrays([unit]).values():
                        value = zlib.crc32(tensor.tobytes(), value)
            versions.append(value)
            last = e
        return tuple(versions)

    def keep(self, units: Collection[str], own: Mapping[str, np.ndarray]) -> None:
        """Begin or leave stage 2, in which a client keeps units; load what it has of them.

        What it has not trained yet of the local expert is a copy of the global one.
        """
        self.mixing = bool(units)
        if self.mixing:
            with torch.no_grad():
                for mine, other in self._pairs:
                    mine.copy_(other)
        super().keep(units, own)

    def loss(self, logits: Mapping[int, Tensor], labels: Tensor) -> Tensor:
        """Sum the cross-entropy over exits; of a `Mixture`, also what holds the local expert."""
        total = super().loss(logits, labels)
        if not isinstance(logits, Mixture):
            return total
        if self.gate != "local":  # which answers with the local expert already
            total = total + self.local_weight * super().loss(logits.local_logits, labels)
        if self.proximal:
            apart = [(mine - other.detach()).square().sum() for mine, other in self._pairs]
            total = total + self.proximal / 2 * torch.stack(apart).sum()
        return total

    @property
    def _running(self) -> tuple[Stack, ...]:
        return self._stacks if self.mixing else self._stacks[:1]

    def _head(self, prefix: str, block: int, tokens: Tensor) -> Tensor:
        """Return an expert's logits from class tokens ``(B, D)``, in fp32."""
        logits: Tensor = self.part(f"{prefix}{block}", "head")(tokens)
        return logits.float()

    def _class_tokens(self, stack: Stack, images: Tensor, depth: int | None) -> dict[int, Tensor]:
        """Run a pass alone; return the class tokens ``(B, D)`` at the exits within `depth`."""
        tokens, exits = stack.embed(images), self.reach(depth)
        found = {}
        for number in range(1, exits[-1] + 1):
            tokens = stack.blocks[number - 1](tokens)
            if number in exits:
                found[number] = self.backbone.read_out(tokens)
        return found

    def _run_fixed(self, images: Tensor, depth: int | None) -> Tensor:
        read = self._class_tokens(self._stacks[0], images, depth)
        parts = [torch.stack([self._head(HEAD, e, tokens) for e, tokens in read.items()], 1)]
        if self.gate in READING_GATES:
            plain = self._class_tokens(self._stacks[-1], images, depth)
            parts.append(torch.stack(list(plain.values()), 1).float())
        return torch.cat(parts, dim=2)
