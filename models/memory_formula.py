"""What a training step will take, by formulas: block by block, from shapes and what is trained.

Each operation's tensors are known: what it saves for the backward pass, what it makes, when that is
let go. docs/memory.md has the table and where each number comes from; `models/memory.py` counts
the same by running the step, and tests hold the two within 5 %.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from torch import nn

from .accumulator import AccumulatorModel
from .adapters import AdapterSpec
from .backbone import Block
from .base import AdapterModel
from .depthfl import DepthflModel
from .exits import ExitsModel
from .history import HistoryAttention
from .hyper_attention import SLOTS, HyperAttentionModel
from .inclusivefl import InclusiveflModel, exit_unit
from .layerwise import head_unit
from .memory import OPTIMIZER_STATES, held_bytes, views_per_image
from .memory_terms import BlockShape, BlockTerms, block_terms
from .mofm import LOCAL, MofmModel
from .reefl import ReeflModel
from .simclr import SimclrModel
from .units import EMBED, block_unit

FLOAT = 4  # bytes of a number
HISTORY = (AccumulatorModel, ReeflModel)  # what they train changes the tokens after each block


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
        Whether what it is given is saved.
    trained, early : int
        Trained numbers in it, and how many of these have gradients before its activation.
    beside : int
        Trained numbers that go with it but act after it, such as its head's.
    is_read : bool
        Whether a head reads its output.
    """

    terms: BlockTerms | None
    keeps_input: bool
    trained: int
    early: int
    beside: int
    is_read: bool


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
        Whether the state before the lowest trained block, or in it, is kept for every image.
    """
    trained = {
        key: tensor
        for key, tensor in model.adapter_parameters().items()
        if key.split(".")[0] in units
    }
    count = sum(tensor.numel() for tensor in trained.values())
    shape, tokens = _shape(model), _tokens(model)
    first = model.lowest_block(units) if cached else 1
    end = model.reach(depth)[-1]
    runs = _runs(model, trained, [b for b in range(first, end + 1) if b not in model.skipped])
    images = batch_size * views_per_image(model)
    kept = 0 if first == 1 else 1 + model.enters(first)
    saved, peak = _saved_and_peak(runs, shape, count, images * tokens, kept=kept)
    if model.adapter.kind == "ssf" and EMBED in units:
        saved, peak = saved + shape.width, peak + shape.width  # the patches, before their scale
    saved_once, alive_once = _once_per_image(model, runs, end)
    input_size = kept * tokens * shape.width or 3 * model.backbone.image_size**2
    return MemoryEstimate(
        weights=held_bytes(model),
        training=FLOAT * count * (1 + OPTIMIZER_STATES[optimizer]),
        inputs=FLOAT * images * input_size,
        saved=round(FLOAT * images * (tokens * saved + saved_once)),
        activations=round(FLOAT * images * (tokens * peak + alive_once)),
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


def _runs(model: AdapterModel, trained: dict[str, nn.Parameter], numbers: list[int]) -> list[_Run]:
    """Describe the blocks that run, from the first; the lowest trained one starts the path."""
    sizes = {id(tensor): tensor.numel() for tensor in trained.values()}
    of_block = Counter[int]()
    for key, tensor in trained.items():
        of_block[model.block_of(key.split(".")[0])] += tensor.numel()
    shape, is_full = _shape(model), model.adapter.kind == "full"
    on_path = numbers[0] == 1 and any(key.startswith((EMBED, LOCAL + EMBED)) for key in trained)
    is_mixing = isinstance(model, MofmModel) and model.mixing
    runs = []
    for number in numbers:
        own = model.part(exit_unit(number), "adapter") if number == numbers[-1] else None
        if is_mixing:  # the global expert is frozen
            own = model.part(LOCAL + block_unit(number), "adapter")
        tensors = {id(tensor) for tensor in (own or model.block(number)).parameters()}
        count = sum(sizes.get(tensor, 0) for tensor in tensors)
        terms = None
        is_tapped = bool(trained) and isinstance(model, AccumulatorModel) and model.taps_attention
        if count or on_path:
            personal = _personal_numbers(model) if count else None
            terms = block_terms(
                shape,
                _spec(model),
                trained=count > 0,
                on_path=on_path,
                mlp_on_path=is_tapped or personal is not None,
                personal=personal,
            )
        elif is_tapped:
            # Its second half reads what the accumulator changed.
            mlp_saved = shape.width + 2 + shape.hidden
            terms = BlockTerms(mlp_saved, 0, shape.width + 2 * shape.hidden)
        keeps_input = on_path or (count > 0 and (is_full or model.enters(number)))
        # The second layer of its MLP; of other kinds what is behind the MLP.
        early = (shape.width + 1) * shape.hidden if is_full and count else count // 2
        beside = of_block[number] - count
        on_path = on_path or count > 0
        is_read = _is_read(model, number, numbers[-1]) and (on_path or beside > 0)
        runs.append(_Run(terms, keeps_input, count, early, beside, is_read))
        on_path = on_path or (bool(trained) and isinstance(model, HISTORY))
    return runs


def _spec(model: AdapterModel) -> AdapterSpec:
    """Return the adapters whose tensors are trained; of LoRA with B alone nothing is saved."""
    if isinstance(model, MofmModel) and (model.mixing or model.factors == "both"):
        return model.expert
    return model.adapter


def _is_read(model: AdapterModel, number: int, last: int) -> bool:
    """Tell whether a head reads the class token after a block."""
    if isinstance(model, SimclrModel):
        return number == last
    if not isinstance(model, ExitsModel) or head_unit(number) in model.missing:
        return False
    return number == last if isinstance(model, InclusiveflModel) else number in model.exits


def _personal_numbers(model: AdapterModel) -> int | None:
    """Count per token what personal projections save beside what attention does."""
    if not isinstance(model, HyperAttentionModel):
        return None
    if model.form == "factors":
        return len(SLOTS) * model.rank
    return 0 if model.adapter.kind == "parallel" else model.backbone.width  # their common input


def _once_per_image(model: AdapterModel, runs: list[_Run], end: int) -> tuple[int, int]:
    """Count per image what heads, loss and history save, and what they keep alive at the peak."""
    width, classes = model.backbone.width, model.num_classes
    heads = sum(run.is_read for run in runs)
    if not isinstance(model, HISTORY):
        taught = 2 * classes if isinstance(model, DepthflModel) else 0
        each = 2 * width + 2 + classes  # the class token, before and after its norm
        # The last head comes after the peak, and goes before it.
        return heads * (each + taught), max(heads - 1, 0) * (each + classes)
    heads = sum(e <= end for e in model.exits)
    module = next(part for part in model.units.modules() if isinstance(part, HistoryAttention))
    inner = module.out.in_features
    if isinstance(model, ReeflModel):  # projects two tokens, then one; keys and values grow
        projected = [6 * width + 6 * inner + 2 * inner * (b + 1) for b in range(1, end + 1)]
    else:  # projects the whole history anew
        projected = [(2 * width + 3 * inner) * (b + 1) for b in range(1, end + 1)]
    # For two tokens: the attention's output, second norm and MLP.
    mixed = 4 * width + 2 * inner + 4 * module.up.out_features
    saved = sum(projected) + end * mixed + heads * (2 * width + classes)
    return saved, saved + heads * classes


def _saved_and_peak(
    runs: list[_Run], shape: BlockShape, trained: int, positions: int, *, kept: int
) -> tuple[float, float]:
    """Return the most that is saved, and the peak of a step, in numbers per token.

    Parameters
    ----------
    runs : list[_Run]
    shape : BlockShape
    trained : int
        All trained numbers; what goes with no block has its gradients first.
    positions : int
        Tokens of the whole batch.
    kept : int
        Tensors that are the batch itself, which is counted elsewhere: none, what enters the first
        block, or the two that it joins.
    """
    saved = peak = 0.0
    after: list[float] = []
    for run in runs:
        known = shape.width * (kept > 0 and not after)
        forward = saved + _unrecorded(shape) - known
        if run.terms is not None:
            saved += run.terms.saved - (known if run.keeps_input else 0)
        if kept == 2 and not after:
            forward = saved + 2 * shape.width  # two tensors are summed
        peak = max(peak, forward)
        after.append(saved)
    gradients = trained - sum(run.trained + run.beside for run in runs)
    for run, held in zip(reversed(runs), reversed(after), strict=True):
        gradients += run.beside
        if run.terms is not None:
            beside = run.terms.working - run.terms.freed + (gradients + run.early) / positions
            peak = max(peak, held + beside)
        gradients += run.trained
    return saved, max(peak, 2 * shape.width + trained / positions)
