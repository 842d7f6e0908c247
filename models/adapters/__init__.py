"""The adapter kinds by name: trained tensors inside the blocks, beside what the method trains."""

from __future__ import annotations

from ..backbone import ModelError
from .base import NO_ADAPTER, UNADAPTED, Adapter, AdapterSpec
from .bottleneck import ParallelAdapter

__all__ = ["ADAPTERS", "NO_ADAPTER", "UNADAPTED", "Adapter", "AdapterSpec", "build_adapter"]

ADAPTERS: dict[str, type[Adapter]] = {
    NO_ADAPTER: Adapter,
    "parallel": ParallelAdapter,
}


def build_adapter(spec: AdapterSpec) -> Adapter:
    """Return the recipe of a kind.

    Raises
    ------
    ModelError
        When the kind is not one of `ADAPTERS`, or its numbers leave no adapter.
    """
    if spec.kind not in ADAPTERS:
        raise ModelError(f"adapter: '{spec.kind}' is unknown; choose one of {', '.join(ADAPTERS)}.")
    if spec.rank < 1:
        raise ModelError(f"adapter-rank: {spec.rank} leaves no adapter; set it to 1 or more.")
    return ADAPTERS[spec.kind](spec)
