"""Terms of the memory formulas: what a block adds to a training step, by what is trained in it.

Numbers per token; docs/memory.md explains each, and compares them with measurements.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .adapters import AdapterSpec
from .backbone import Block


@dataclass(frozen=True)
class BlockShape:
    """Widths of a block: tokens D, attention A (its heads together), MLP H; number of heads."""

    width: int
    inner: int
    hidden: int
    heads: int

    @classmethod
    def of(cls, block: Block) -> BlockShape:
        """Read the widths off a block of a backbone."""
        attention: Any = block.self_attention
        mlp: Any = block.feed_forward
        inner = attention.o_proj.in_features
        return cls(block.width, inner, mlp.fc1.out_features, inner // attention.head_dim)


@dataclass(frozen=True)
class BlockTerms:
    """Numbers per token that a block adds.

    Attributes
    ----------
    saved : float
        Kept for the backward pass, from the input of its first layer norm to its MLP.
    freed : float
        Of these, already let go when the backward pass reaches the activation of the MLP.
    working : float
        What the backward pass holds there beside saved tensors: this is where it holds most.
    """

    saved: float
    freed: float
    working: float


def block_terms(
    shape: BlockShape,
    adapter: AdapterSpec,
    *,
    trained: bool,
    on_path: bool,
    mlp_on_path: bool = False,
    personal: int | None = None,
) -> BlockTerms:
    """Return the terms of a block on the backward path, or of the lowest that is trained.

    Parameters
    ----------
    shape : BlockShape
    adapter : AdapterSpec
        What the block has inside; of kind ``full`` all of it is trained, or nothing.
    trained : bool
        Whether the adapter is.
    on_path : bool
        Whether the block's input has a gradient.
    mlp_on_path : bool
        Whether the input of its MLP has one, whatever the adapter is.
    personal : int, optional
        Numbers per token that trained personal projections save; None without these.
    """
    width, inner, hidden = shape.width, shape.inner, shape.hidden
    norm, rank = width + 2, adapter.rank  # the input of a layer norm, its mean and deviation
    attention, activation = 4 * inner + shape.heads, hidden  # q, k, v, output, log-sum-exp
    whole = norm + attention + norm + activation
    freed, working = 0.0, float(width + 2 * hidden)
    extra, missing = 0.0, 0.0  # missing: what the lowest trained block need not save
    match adapter.kind:
        case "full" if trained:
            # The inputs of q, k and v, of the MLP, and of its second layer; o's is there.
            extra, freed = 2 * width + hidden, hidden
        case "serial" | "parallel":
            each = trained * width + rank
            if not on_path and not mlp_on_path and "attention" not in adapter.targets:
                return BlockTerms(each, 0, width + rank)
            extra, freed = each * len(adapter.targets), each * ("mlp" in adapter.targets)
            missing = norm + attention
            working += width * (adapter.kind == "parallel" and "mlp" in adapter.targets)
        case "ssf":
            # What each layer puts out, before its scale.
            extra = trained * (4 * width + 3 * inner + hidden)
            freed, missing, working = trained * width, norm, width + (2 + trained) * hidden
        case "lora":
            extra, freed, missing = _lora(shape, adapter) if trained else (0, 0, norm)
            working += hidden * (freed > 0)  # the activation's gradient comes on two ways
    if personal is not None:
        extra, missing = extra + personal, norm
    return BlockTerms(whole + extra - (0 if on_path else missing), freed, working)


def _lora(shape: BlockShape, adapter: AdapterSpec) -> tuple[float, float, float]:
    """Return LoRA's `extra`, `freed` and `missing` of `block_terms`."""
    targets, rank = adapter.targets, adapter.rank
    norm, attention = shape.width + 2, 4 * shape.inner + shape.heads
    at_projections = bool({"q", "k", "v"} & set(targets))
    extra = rank * len(targets) + shape.width * (at_projections + ("fc1" in targets))
    extra += shape.hidden * ("fc2" in targets)
    freed = (shape.hidden + rank) * ("fc2" in targets)
    if at_projections:
        return extra, freed, norm
    if "o" in targets:  # its input, which attention no longer saves
        return extra, freed, norm + attention - shape.inner
    missing = norm + attention + norm
    return extra, freed, missing + (0 if "fc1" in targets else shape.hidden)
