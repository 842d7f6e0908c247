"""The leading part of a frozen backbone: fewer channels, taken from the front of every weight."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn

from .backbone import Backbone, Block, ModelError

Module = TypeVar("Module", bound=nn.Module)


def leading(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """View the leading part of a tensor, of `shape`."""
    return tensor[tuple(map(slice, shape))]


def narrow(backbone: Backbone, share: float) -> Backbone:
    """Return a backbone of ``int(share * D)`` channels; with a share of 1 the backbone itself.

    Each weight is a view of the leading rows and columns of the given one, so it takes no memory;
    moved to another device, it has memory of its own there.
    The number of attention heads stays; the inner size of the attention is rounded up to a
    multiple of it. The MLP keeps its ratio to the width.

    Parameters
    ----------
    backbone : Backbone
    share : float
        Above 0 and up to 1.

    Raises
    ------
    ModelError
        When no channel is left.
    """
    if share == 1:
        return backbone
    width = int(backbone.width * share)
    if width < 1:
        raise ModelError(
            f"scalefl-widths: {share:g} of {backbone.width} channels is none; raise it."
        )
    return Backbone(
        _narrow_embeddings(backbone.embed, width),
        [_narrow_block(block, width) for block in backbone.blocks if isinstance(block, Block)],
        _view(backbone.norm, {name: (width,) for name, _ in backbone.norm.named_parameters()}),
        width=width,
        image_size=backbone.image_size,
        mean=backbone.mean,
        std=backbone.std,
        fingerprint=backbone.fingerprint,
    )


def _narrow_embeddings(embeddings: nn.Module, width: int) -> nn.Module:
    """Keep the first channels: they are the first axis of what makes patches, else the last."""
    return _view(
        embeddings,
        {
            name: (width, *tensor.shape[1:])
            if name.startswith("patch_embeddings")
            else (*tensor.shape[:-1], width)
            for name, tensor in embeddings.named_parameters()
        },
    )


def _narrow_block(block: Block, width: int) -> Block:
    """Keep the first channels of every layer, and the number of heads."""
    attention: Any = block.self_attention
    mlp: Any = block.feed_forward
    heads: int = attention.num_attention_heads
    inner = heads * -(-attention.q_proj.out_features * width // (block.width * heads))
    hidden = mlp.fc1.out_features * width // block.width
    outputs = {f"self_attention.{name}_proj": inner for name in "qkv"} | {
        "feed_forward.fc1": hidden
    }
    inputs = {"self_attention.o_proj": inner, "feed_forward.fc2": hidden}
    shapes = {}
    for name, tensor in block.named_parameters():
        layer = name.rpartition(".")[0]
        shapes[name] = (outputs.get(layer, width), inputs.get(layer, width))[: tensor.dim()]
    twin = _view(block, shapes)
    attention = twin.self_attention
    attention.head_dim = inner // heads
    attention.scaling = attention.head_dim**-0.5
    return twin


def _view(module: Module, shapes: Mapping[str, tuple[int, ...]]) -> Module:
    """Copy a module's structure; its tensors are views of the leading parts of the given ones."""
    parts = {
        id(tensor): nn.Parameter(leading(tensor.data, shapes[name]), requires_grad=False)
        for name, tensor in module.named_parameters()
    }
    twin = copy.deepcopy(module, parts)
    for layer in twin.modules():
        if isinstance(layer, nn.Linear):
            layer.out_features, layer.in_features = layer.weight.shape
        elif isinstance(layer, nn.LayerNorm):
            layer.normalized_shape = tuple(layer.weight.shape)
    return twin
