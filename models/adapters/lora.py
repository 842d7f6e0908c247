"""Adapter kind `lora`: low-rank updates of linear layers, through peft."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..backbone import Block
from .base import Adapter, AdapterSpec, copy_structure

# The linear layers of a block, by the short names of the bank.
LINEARS = {
    "q": "self_attention.q_proj",
    "k": "self_attention.k_proj",
    "v": "self_attention.v_proj",
    "o": "self_attention.o_proj",
    "fc1": "feed_forward.fc1",
    "fc2": "feed_forward.fc2",
}


class LoraAdapter(Adapter):
    """Adds ``scaling * B A`` to the weight of every target (arXiv 2106.09685).

    ``A`` is ``(rank, inputs)`` and starts Kaiming-uniform, ``B`` is ``(outputs, rank)`` and starts
    at zero: the first pass is the pretrained one.
    """

    def block(self, frozen: Block) -> Block:
        """Return the block with LoRA; trained are the factors of each target, ``A`` and ``B``."""
        from peft import LoraConfig, inject_adapter_in_model  # slow to import

        norm1, attention, norm2, mlp = frozen.parts()
        adapted = Block(norm1, copy_structure(attention), norm2, copy_structure(mlp))
        config = LoraConfig(
            r=self.spec.rank,
            lora_alpha=self.spec.scaling * self.spec.rank,  # type: ignore[arg-type]
            target_modules=[LINEARS[target] for target in self.spec.targets],
        )
        inject_adapter_in_model(config, adapted)
        adapted.trained = nn.ModuleDict()
        for target in self.spec.targets:
            layer: Any = adapted.get_submodule(LINEARS[target])
            adapted.trained[target] = nn.ParameterDict(
                {"A": layer.lora_A["default"].weight, "B": layer.lora_B["default"].weight}
            )
        return adapted


class FixedFactorLora(LoraAdapter):
    """LoRA of which B alone is trained (FFA-LoRA, arXiv 2403.12313).

    ``A`` is drawn as ever, within 1 / sqrt(inputs), but from a seed of its own, block after block,
    so that it is the same on every machine and need not travel. The mean of several B is then
    exactly that of the products.

    Attributes
    ----------
    fixed : nn.ParameterList
        Every A; it has no gradient and is no tensor of the bank.
    """

    def __init__(self, spec: AdapterSpec, seed: int) -> None:
        super().__init__(spec)
        self.fixed = nn.ParameterList()
        self._generator = torch.Generator().manual_seed(seed)

    def block(self, frozen: Block) -> Block:
        """Return the block with LoRA; trained is the factor ``B`` of each target."""
        adapted = super().block(frozen)
        trained: Any = adapted.trained
        for factors in trained.values():
            fixed = factors.pop("A").requires_grad_(False)
            bound = fixed.shape[1] ** -0.5
            nn.init.uniform_(fixed, -bound, bound, generator=self._generator)
            self.fixed.append(fixed)
        return adapted
