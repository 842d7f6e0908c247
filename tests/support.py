"""What tests import by name: places, small settings, and the files of a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"


class Run:
    """The files of a finished run."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.summary = json.loads((output / "summary.json").read_text())
        self.metrics = self._rows("metrics.jsonl")
        self.clients = self._rows("clients.jsonl")

    def _rows(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.output / name).read_text().splitlines()]

    def bank(self) -> dict[str, np.ndarray]:
        """The final adapters by key."""
        return load_bank(self.output / "adapters")


def load_bank(folder: Path) -> dict[str, np.ndarray]:
    """The tensors of an exported folder by key; LoRA is under peft's names in a file of its own."""
    tensors = load_file(folder / "exits.safetensors")
    if (folder / "adapter_model.safetensors").exists():
        for name, value in load_file(folder / "adapter_model.safetensors").items():
            # base_model.model.layers.0.attention.q_proj.lora_A.weight
            block, layer, factor = (name.split(".")[place] for place in (3, 5, 6))
            target = layer.removesuffix("_proj")
            tensors[f"block{int(block) + 1}.adapter.{target}.{factor[-1]}"] = value
    return tensors


def with_other_weights(model: Path, folder: Path) -> Path:
    """Copy a model in Hugging Face's form to `folder`, every weight a little larger."""
    shutil.copytree(model, folder)
    weights = {k: v + np.float32(0.01) for k, v in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


# Small enough for seconds, rich enough for three tiers, several local steps and two exits a tier.
SMALL: dict[str, Any] = {
    "exits": "3",
    "num-clients": 6,
    "clients-per-round": 4,
    "rounds": 3,
    "local-epochs": 1,
    "evaluate-every": 3,
    "report": False,
    "tiers": "small depth=2 clients=0,1; medium depth=4 trained=2 clients=2,3; "
    "large depth=6 clients=4,5",
}

# FedTP's form: whole projections, and all of a model that nobody has trained before.
PUBLISHED: dict[str, Any] = {
    "attention_form": "projections",
    "adapter": "full",
    "learning_rate": 0.003,
    "head_rate": 1.0,
    "hyper_attention_shared_head": False,
    "hyper_attention_zero_start": False,
    "hyper_attention_embedding": 128,
    "hyper_attention_hidden": 150,
    "hyper_attention_layers": 3,
    "hyper_attention_row_rate": 1.0,
}
