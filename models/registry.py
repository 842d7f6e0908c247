"""The methods by name, and how a model of one is built."""

from __future__ import annotations

from typing import Any

import torch

from .accumulator import AccumulatorModel
from .adapters import UNADAPTED, AdapterSpec
from .backbone import Backbone, ModelError
from .base import AdapterModel
from .depthfl import DepthflModel
from .exits import ExitsModel
from .hyper_attention import HyperAttentionModel
from .inclusivefl import InclusiveflModel
from .layerwise import LayerwiseModel
from .mofm import MofmModel
from .reefl import ReeflModel
from .scalefl import ScaleflModel
from .simclr import SimclrModel

METHODS: dict[str, type[AdapterModel]] = {
    "accumulator": AccumulatorModel,
    "depthfl": DepthflModel,
    "exclusivefl": ExitsModel,
    "exits": ExitsModel,
    "inclusivefl": InclusiveflModel,
    "hyper-attention": HyperAttentionModel,
    "layerwise": LayerwiseModel,
    "local-attention": HyperAttentionModel,
    "mofm": MofmModel,
    "reefl": ReeflModel,
    "shared-attention": HyperAttentionModel,
    "scalefl": ScaleflModel,
}
# Models that learn without labels, in the place of the method's own.
OBJECTIVES: dict[str, type[AdapterModel]] = {"simclr": SimclrModel}


def parse_exits(text: str, depth: int) -> tuple[int, ...]:
    """Read the setting `exits`: a number of evenly spaced exits, or blocks such as ``3,6,12``.

    A single number n means every (L/n)-th block of the L = `depth` blocks, ending at the last;
    ``3,`` is the one exit after block 3.

    Raises
    ------
    ModelError
        When the text is neither, or does not fit the backbone.
    """
    try:
        numbers = [int(part) for part in text.removesuffix(",").split(",")]
    except ValueError:
        raise ModelError(
            f"exits: '{text}' is neither a number of exits nor blocks such as 3,6,9,12; correct it."
        ) from None
    if len(numbers) > 1 or "," in text:
        return tuple(numbers)
    count = numbers[0]
    if count < 1 or depth % count:
        valid = ", ".join(str(n) for n in range(1, depth + 1) if depth % n == 0)
        raise ModelError(
            f"exits: {count} exits do not divide {depth} blocks evenly; use one of {valid}, or "
            "list the blocks."
        )
    step = depth // count
    return tuple(range(step, depth + 1, step))


def build_model(
    method: str,
    backbone: Backbone,
    exits: tuple[int, ...],
    num_classes: int,
    *,
    seed: int = 0,
    adapter: AdapterSpec = UNADAPTED,
    **options: Any,
) -> AdapterModel:
    """Build a method's model with freshly initialised adapters.

    Parameters
    ----------
    method : str
        A name in `METHODS`, or in `OBJECTIVES`.
    seed : int (default: 0)
        Seed of the initial adapters; the global generator is left as it was.
    adapter : AdapterSpec, optional
        What is trained inside the blocks, beside the method's own parts; nothing by default.
    options
        The method's own keyword arguments.
    """
    models = METHODS | OBJECTIVES
    if method not in models:
        raise ModelError(f"method: '{method}' is unknown; choose one of {', '.join(METHODS)}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return models[method](backbone, exits, num_classes, adapter=adapter, **options)
