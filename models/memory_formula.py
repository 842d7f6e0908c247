"""What a training step will take, by formulas: block by block, from shapes and what is trained.

Each operation's tensors are known: what it saves for the backward pass, what it makes, when that is
let go. docs/memory.md has the table and where each number comes from; `models/memory.py` counts
the same by running the step, and tests hold the two within 5 %.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import nn

from .accumulator import AccumulatorModel
from .adapters import AdapterSpec
from .backbone import Block
from .base import EMBED, AdapterModel
from .exits import ExitsModel
from .history import HistoryAttention
from .hyper_attention import SLOTS, HyperAttentionModel
from .inclusivefl import InclusiveflModel, exit_unit
from .layerwise import head_unit
from .memory import OPTIMIZER_STATES, held_bytes, views_per_image
from .reefl import ReeflModel
from .simclr import PROJECTION, SimclrModel

FLOAT = 4  # bytes of a number
HISTORY = (AccumulatorModel, ReeflModel)  # what they train changes the tokens after each block


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
    shape: BlockShape, adapter: AdapterSpec, *, trained: bool, on_path: bool, personal: int = 0
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
    personal : int
        Numbers per token that personal attention saves; 0 without it.
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
            extra, freed = 2 * (trained * width + rank), trained * width + rank
            missing = norm + attention
            working += width * (adapter.kind == "parallel")
        case "ssf":
            # What each layer puts out, before its scale.
            extra = trained * (4 * width + 3 * inner + hidden)
            freed, missing, working = trained * width, norm, width + (2 + trained) * hidden
        case "lora":
            extra, freed, missing = _lora(shape, adapter) if trained else (0, 0, norm)
    if personal:
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


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of training on a device, in fp32.

    Attributes
    ----------
    weights : int
        All tensors of the model, trained and frozen.
    training : int
        The optimiser's state, and the copy by which a client sees what changed.
    inputs : int
        The batch.
    saved : int
        What the backward pass keeps, at most.
    activations : int
        The peak of a step beyond the above; `saved` and gradients are a part of it.
    """

    weights: int
    training: int
    inputs: int
    saved: int
    activations: int

    @property
    def total(self) -> int:
        """The peak of training."""
        return self.weights + self.training + self.inputs + self.activations


@dataclass(frozen=True)
class _Run:
    """A block as it runs in a step.

    Attributes
    ----------
    terms : BlockTerms | None
        None below everything that is trained: nothing is recorded there.
    keeps_input : bool
        Whether the input of its first layer norm is saved.
    trained, early : int
        Trained numbers in it, and how many of these have gradients before its activation.
    head : int
        Trained numbers of the head that reads its output; -1 without one.
    """

    terms: BlockTerms | None
    keeps_input: bool
    trained: int
    early: int
    head: int


def predict_step(
    model: AdapterModel,
    units: Collection[str],
    batch_size: int,
    depth: int | None = None,
    *,
    optimizer: str = "adamw",
    cached: bool = False,
) -> MemoryEstimate:
    """Predict what a client's training takes.

    Parameters
    ----------
    model : AdapterModel
        Its values do not matter; of a tier with tensors of its own, the tier's. What is `skipped`
        or `missing` in it is left out.
    units : Collection[str]
        What is trained.
    batch_size : int
        Images B.
    depth : int, optional
        Blocks that run; all without it.
    optimizer : str
        ``sgd``, ``momentum`` or ``adamw``.
    cached : bool
        Whether what enters the lowest trained block is kept for every image.
    """
    parameters = {
        id(tensor): tensor.numel()
        for key, tensor in model.adapter_parameters().items()
        if key.split(".")[0] in units
    }
    count = sum(parameters.values())
    shape, tokens = _shape(model), _tokens(model)
    first = model.lowest_block(units) if cached else 1
    end = model.reach(depth)[-1]
    numbers = [b for b in range(first, end + 1) if b not in model.skipped]
    runs = _runs(model, parameters, numbers)
    images = batch_size * views_per_image(model)
    saved, peak = _saved_and_peak(runs, shape, count, images * tokens, kept_input=first > 1)
    history = _history_numbers(model, end) if count and isinstance(model, HISTORY) else 0
    input_size = tokens * shape.width if first > 1 else 3 * model.backbone.image_size**2
    return MemoryEstimate(
        weights=held_bytes(model),
        training=FLOAT * count * (1 + OPTIMIZER_STATES[optimizer]),
        inputs=FLOAT * images * input_size,
        saved=round(FLOAT * images * (tokens * saved + history)),
        activations=round(FLOAT * images * (tokens * peak + history)),
    )


def evaluation_bytes(model: AdapterModel, batch_size: int) -> int:
    """Return what scoring a batch takes: weights, images, and a block that records nothing."""
    per_image = 3 * model.backbone.image_size**2 + _tokens(model) * _unrecorded(_shape(model))
    return held_bytes(model) + FLOAT * batch_size * per_image


def _shape(model: AdapterModel) -> BlockShape:
    block = model.backbone.blocks[0]
    assert isinstance(block, Block)
    return BlockShape.of(block)


def _tokens(model: AdapterModel) -> int:
    return model.backbone.embed.get_parameter("position_embeddings").shape[1]


def _unrecorded(shape: BlockShape) -> int:
    """Count per token what a block holds that records nothing: three tokens, the MLP's inside."""
    return 3 * shape.width + 2 * shape.hidden


def _runs(model: AdapterModel, parameters: dict[int, int], numbers: list[int]) -> list[_Run]:
    """Describe the blocks that run, from the first; the lowest trained one starts the path."""

    def trained(module: nn.Module | None) -> int:
        found = set(map(id, module.parameters())) if module is not None else set()
        return sum(parameters.get(tensor, 0) for tensor in found)

    def trained_head(number: int) -> int:
        if isinstance(model, SimclrModel):
            return trained(model.part(PROJECTION, "mlp")) if number == numbers[-1] else -1
        own_only = isinstance(model, InclusiveflModel) and number != numbers[-1]
        absent = number not in model.exits or head_unit(number) in model.missing
        if not isinstance(model, ExitsModel) or own_only or absent:
            return -1
        return trained(model.head(number)) or (0 if on_path else -1)

    shape, kind = _shape(model), model.adapter.kind
    on_path = numbers[0] == 1 and trained(model.part(EMBED, "adapter")) > 0
    runs = []
    for number in numbers:
        own = model.part(exit_unit(number), "adapter") if number == numbers[-1] else None
        count = trained(own or model.block(number))
        terms = None
        if count or on_path:
            terms = block_terms(
                shape,
                model.adapter,
                trained=count > 0,
                on_path=on_path,
                personal=_personal_numbers(model) if count else 0,
            )
        keeps_input = on_path or (kind == "full" and count > 0)
        on_path = on_path or count > 0
        # The second layer of its MLP; of other kinds what is behind the MLP.
        early = (shape.width + 1) * shape.hidden if kind == "full" and count else count // 2
        runs.append(_Run(terms, keeps_input, count, early, trained_head(number)))
        on_path = on_path or (bool(parameters) and isinstance(model, HISTORY))
    return runs


def _personal_numbers(model: AdapterModel) -> int:
    """Count per token what personal attention saves beside what attention does."""
    if not isinstance(model, HyperAttentionModel):
        return 0
    return model.backbone.width if model.form == "projections" else len(SLOTS) * model.rank


def _history_numbers(model: AdapterModel, depth: int) -> int:
    """Count per image what the module over class tokens saves, after all blocks together."""
    module = next(part for part in model.units.modules() if isinstance(part, HistoryAttention))
    width, inner = module.out.out_features, module.out.in_features
    mixed = 6 * width + 2 * inner + 4 * module.up.out_features  # second norm, MLP, head: two tokens
    if isinstance(model, ReeflModel):  # projects two tokens, then one; keys and values grow
        projected = [6 * width + 6 * inner + 2 * inner * (b + 1) for b in range(1, depth + 1)]
    else:  # projects the whole history anew
        projected = [(2 * width + 3 * inner) * (b + 1) for b in range(1, depth + 1)]
    return sum(projected) + depth * mixed


def _saved_and_peak(
    runs: list[_Run], shape: BlockShape, trained: int, positions: int, *, kept_input: bool
) -> tuple[float, float]:
    """Return the most that is saved, and the peak of a step, in numbers per token.

    Parameters
    ----------
    runs : list[_Run]
    shape : BlockShape
    trained : int
        All trained numbers; what is neither in a block nor a head has its gradients first.
    positions : int
        Tokens of the whole batch.
    kept_input : bool
        Whether what enters the first block is the batch itself, which is counted elsewhere.
    """
    saved = peak = 0.0
    after, input_is_there = [], kept_input
    for run in runs:
        known = shape.width * input_is_there
        if run.terms is None:
            peak = max(peak, saved + _unrecorded(shape) - known)
        else:
            saved += run.terms.saved - (known if run.keeps_input else 0)
        after.append(saved)
        # A head reads the class token, a view of all tokens.
        input_is_there = run.head >= 0
        saved += shape.width * input_is_there
    gradients = trained - sum(run.trained + max(run.head, 0) for run in runs)
    for run, held in zip(reversed(runs), reversed(after), strict=True):
        gradients += max(run.head, 0)
        if run.terms is not None:
            beside = run.terms.working - run.terms.freed + (gradients + run.early) / positions
            peak = max(peak, held + beside)
        gradients += run.trained
    return saved, max(peak, 2 * shape.width + trained / positions)
