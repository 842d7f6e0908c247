"""Backbones of real sizes without weights, for counting."""

from __future__ import annotations

import torch
from transformers import ViTConfig, ViTModel

from models import Backbone


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
    return Backbone.of(model)
