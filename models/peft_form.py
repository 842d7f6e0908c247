"""LoRA of a bank in the form that peft reads: the names of its tensors, and its config."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .adapters import AdapterSpec

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
# Where transformers' ViT and DeiT have the linear layers of a block.
PLACES = {
    "q": "attention.q_proj",
    "k": "attention.k_proj",
    "v": "attention.v_proj",
    "o": "attention.o_proj",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}
BANK_KEY = re.compile(rf"block(\d+)\.adapter\.({'|'.join(PLACES)})\.([AB])")


def split_lora(
    tensors: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Split a bank into LoRA of its blocks, under peft's names, and all other tensors."""
    names = {key: peft_name(key) for key in tensors}
    lora = {name: tensors[key] for key, name in names.items() if name}
    return lora, {key: tensors[key] for key, name in names.items() if not name}


def join_lora(lora: Mapping[str, np.ndarray], keys: Iterable[str]) -> dict[str, np.ndarray]:
    """Return LoRA tensors under the names of the bank; `keys` are those that may be among them.

    What is none of them keeps its name.
    """
    known = {name: key for key in keys if (name := peft_name(key))}
    return {known.get(name, name): tensor for name, tensor in lora.items()}


def peft_name(key: str) -> str | None:
    """Return peft's name for a bank's key; None for what is not LoRA of a block."""
    if not (found := BANK_KEY.fullmatch(key)):
        return None
    block, target, factor = found.groups()
    return f"base_model.model.layers.{int(block) - 1}.{PLACES[target]}.lora_{factor}.weight"


def peft_config(spec: AdapterSpec, names: Iterable[str], base_model: str | None) -> dict[str, Any]:
    """Describe LoRA tensors, given by peft's names, as ``adapter_config.json`` does.

    Parameters
    ----------
    spec : AdapterSpec
    names : Iterable[str]
        Every layer is named, as blocks above the last exit have no LoRA.
    base_model : str, optional
        The backbone's hub id, if it has one.
    """
    layers = [re.sub(r"^base_model\.model\.|\.lora_[AB]\.weight$", "", name) for name in names]
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": spec.rank,
        "lora_alpha": spec.scaling * spec.rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(dict.fromkeys(layers)),
    }
