"""Models with an adapter, and what is looked at in them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from models import AdapterModel, AdapterSpec, build_model, load_backbone

EXITS = (2, 4, 6)


def count(model: AdapterModel, depth: int, *, heads: bool) -> int:
    """Trained numbers of a tier that runs and trains `depth` blocks: its heads, or the rest."""
    units = {"embed", *(f"block{b}" for b in range(1, depth + 1))}
    return sum(
        tensor.numel()
        for key, tensor in model.adapter_parameters().items()
        if key.split(".")[0] in units and (key.split(".")[1] == "head") == heads
    )


def build(tiny_vit: Path, spec: AdapterSpec, *, moved: bool = True) -> AdapterModel:
    """Frozen exits with an adapter, away from its start."""
    model = build_model("exits", load_backbone(str(tiny_vit)), EXITS, 5, seed=3, adapter=spec)
    generator = torch.Generator().manual_seed(1)
    for tensor in model.adapter_parameters().values():
        tensor.data += 0.1 * moved * torch.randn(tensor.shape, generator=generator)
    return model


def tokens() -> Tensor:
    return torch.randn(4, 5, 24, generator=torch.Generator().manual_seed(0))


def arrays(model: AdapterModel, prefix: str) -> dict[str, Tensor]:
    """The trained tensors whose key begins so, by the rest of it."""
    found = model.adapter_parameters().items()
    return {k.removeprefix(prefix): v.detach() for k, v in found if k.startswith(prefix)}
