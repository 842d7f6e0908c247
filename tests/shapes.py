"""Backbones of real sizes without weights, for counting."""

from __future__ import annotations

import torch
from transformers import ViTConfig, ViTModel

from models import Backbone, Block


def shaped_backbone(
    width: int,
    heads: int,
    depth: int = 12,
    device: str = "meta",
    image_size: int = 224,
    patch_size: int = 16,
) -> Backbone:
    """A ViT without weights worth the name, for counting; on a real device it can run, too."""
    config = ViTConfig(
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        num_hidden_layers=depth,
        image_size=image_size,
        patch_size=patch_size,
    )
    with torch.device(device):
        model = ViTModel(config, add_pooling_layer=False)
    model.set_attn_implementation("sdpa")
    blocks = [
        Block(layer.layernorm_before, layer.attention, layer.layernorm_after, layer.mlp)
        for layer in model.layers
    ]
    return Backbone(
        model.embeddings,
        blocks,
        model.layernorm,
        width=width,
        image_size=image_size,
        mean=[0.5] * 3,
        std=[0.5] * 3,
    )
