"""The adapter kinds by name: trained tensors inside the backbone, beside the method's own."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from torch import nn

from ..backbone import ModelError
from .base import BRANCHES, NO_ADAPTER, UNADAPTED, Adapter, AdapterSpec
from .bottleneck import Bottleneck, ParallelAdapter, SerialAdapter
from .full import FullAdapter
from .lora import LINEARS, FixedFactorLora, LoraAdapter
from .ssf import ScaleShift, SsfAdapter

__all__ = [
    "ADAPTERS",
    "LINEARS",
    "NO_ADAPTER",
    "RANKED",
    "UNADAPTED",
    "Adapter",
    "AdapterSpec",
    "FixedFactorLora",
    "build_adapter",
    "parse_targets",
    "start_at_nothing",
]

ADAPTERS: dict[str, type[Adapter]] = {
    NO_ADAPTER: Adapter,
    "lora": LoraAdapter,
    "parallel": ParallelAdapter,
    "serial": SerialAdapter,
    "ssf": SsfAdapter,
    "full": FullAdapter,
}
BOTTLENECKS = ("parallel", "serial")
EVERYWHERE = ("ssf", "full")  # in a block, whatever the targets
# Kinds whose tensors of a smaller rank are leading parts of those of a larger one.
RANKED = ("lora", *BOTTLENECKS)


def build_adapter(spec: AdapterSpec) -> Adapter:
    """Return the recipe of a kind.

    Raises
    ------
    ModelError
        When the kind is not one of `ADAPTERS`, or its numbers or targets leave no adapter.
    """
    if spec.kind not in ADAPTERS:
        raise ModelError(f"adapter: '{spec.kind}' is unknown; choose one of {', '.join(ADAPTERS)}.")
    if spec.rank < 1:
        raise ModelError(f"adapter-rank: {spec.rank} leaves no adapter; set it to 1 or more.")
    return ADAPTERS[spec.kind](replace(spec, targets=check_targets(spec.targets, spec.kind)))


def check_targets(targets: Collection[str], kind: str) -> tuple[str, ...]:
    """Return the places in a block at which a kind of adapter acts, in the order of a block.

    Raises
    ------
    ModelError
        When a name is none of `BRANCHES` for a bottleneck or of `LINEARS` for LoRA, or the kind
        acts everywhere.
    """
    known: Collection[str] = BRANCHES if kind in BOTTLENECKS else LINEARS
    if targets and kind in EVERYWHERE:
        raise ModelError(f"adapter-targets: '{kind}' acts everywhere in a block; leave it empty.")
    if wrong := [name for name in targets if name not in known]:
        place = "branch" if kind in BOTTLENECKS else "linear layer"
        raise ModelError(
            f"adapter-targets: '{wrong[0]}' is no {place} of a block; with adapter={kind} list "
            f"some of {', '.join(known)}."
        )
    return tuple(name for name in known if name in targets)


def parse_targets(text: str, kind: str) -> tuple[str, ...]:
    """Read the setting `adapter-targets`, such as ``q,v`` or ``mlp``; none for a kind's usual ones.

    Raises
    ------
    ModelError
        As `check_targets`.
    """
    names = [name.strip() for name in text.split(",")] if text.strip() else []
    return check_targets(names, kind)


def start_at_nothing(adapters: nn.Module) -> None:
    """Let adapters change nothing at first, of whatever kind they are."""
    for part in adapters.modules():
        if isinstance(part, Bottleneck):
            nn.init.zeros_(part.up.weight)
        elif isinstance(part, ScaleShift):
            nn.init.ones_(part.scale)
            nn.init.zeros_(part.shift)
