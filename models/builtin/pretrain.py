"""Pretrain the built-in backbone: a small ViT for 32 x 32 images, in Hugging Face form.

Each batch mixes rendered glyphs and CIFAR-10 photographs. The class token learns to name the glyph,
to name the photograph's class, to predict the class token that a ViT-Tiny teacher computes for the
photograph, and to give back a coarse grey image of its input. All heads are thrown away.

    python models/builtin/pretrain.py --cifar10 FILE.npz --teacher FOLDER --minutes 60 --output DIR
"""

from __future__ import annotations

import argparse
import io
import math
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from glyphs import GlyphTable, glyph_batch, load_glyphs, random_affine_grid
from PIL import Image
from probe import digits_validation_accuracy
from torch import Tensor, nn
from transformers import ViTConfig, ViTImageProcessor, ViTModel

GLYPHS, PHOTOS = 96, 64  # per batch
PEAK_LR, WEIGHT_DECAY, CLIP = 1.5e-3, 0.05, 1.0
WARM_UP = 0.03  # of the whole time
COARSE = 8  # side of the grey image to give back
CHECKPOINT_SECONDS = 480.0
TEACHER_SIZE = 128  # side of the enlarged photographs the teacher sees


@dataclass(frozen=True)
class Photos:
    """CIFAR-10 training images with the teacher's answer.

    Attributes
    ----------
    images : Tensor
        uint8, shape ``(n, 3, 32, 32)``.
    labels : Tensor
        int64, shape ``(n,)``.
    targets : Tensor
        Teacher's class token of each image and of its mirror image, standardised per feature,
        float32, shape ``(2, n, width)``.
    """

    images: Tensor
    labels: Tensor
    targets: Tensor


class Heads(nn.Module):
    """The linear heads that pretraining needs and then throws away."""

    def __init__(self, width: int, glyph_classes: int, photo_classes: int, teacher: int) -> None:
        super().__init__()
        self.glyph = nn.Linear(width, glyph_classes)
        self.photo = nn.Linear(width, photo_classes)
        self.teacher = nn.Linear(width, teacher)
        self.grey = nn.Linear(width, COARSE * COARSE)


class WorkingCopy:
    """A compiled bfloat16 copy of a model whose weights stay in float32; twice as fast on a CPU."""

    def __init__(self, master: ViTModel) -> None:
        self._master = list(master.parameters())
        model = ViTModel(master.config, add_pooling_layer=False).bfloat16()
        # Batches always have the same shape, so dynamic shapes would only cost time.
        self._forward = torch.compile(model, dynamic=False)
        self._copy = list(model.parameters())
        self.pull()

    @torch.no_grad()
    def pull(self) -> None:
        """Take the weights of the master and clear the gradients."""
        for weight, source in zip(self._copy, self._master, strict=True):
            weight.copy_(source)
            weight.grad = None

    def push(self) -> None:
        """Hand the gradients to the master."""
        for weight, target in zip(self._copy, self._master, strict=True):
            target.grad = None if weight.grad is None else weight.grad.float()

    def class_token(self, images: Tensor) -> Tensor:
        """Map images ``(n, 3, 32, 32)`` to class tokens, float32, shape ``(n, width)``."""
        output = self._forward(pixel_values=images.bfloat16())
        return output.last_hidden_state[:, 0].float()


@torch.inference_mode()
def teacher_tokens(folder: Path, images: Tensor) -> Tensor:
    """Run the teacher over images (uint8, ``(n, 3, 32, 32)``) and their mirror images.

    Returns
    -------
    Tensor
        Class tokens, float32, shape ``(2, n, width)``.
    """
    teacher = ViTModel.from_pretrained(folder, add_pooling_layer=False, dtype=torch.bfloat16).eval()
    parts = []
    for chunk in images.split(100):
        large = F.interpolate(chunk / 127.5 - 1, size=(TEACHER_SIZE, TEACHER_SIZE), mode="bicubic")
        large = large.clamp(-1, 1).bfloat16()
        tokens = [
            teacher(pixel_values=x, interpolate_pos_encoding=True).last_hidden_state[:, 0].float()
            for x in (large, large.flip(3))
        ]
        parts.append(torch.stack(tokens))
    return torch.cat(parts, dim=1)


def load_photos(path: Path, teacher: Path, cache: Path | None) -> Photos:
    """Decode the archive (`bytes`, `offsets`, `labels`) and ask the teacher, or its `cache`."""
    with np.load(path) as archive:
        data, offsets, labels = archive["bytes"], archive["offsets"], archive["labels"]
    decoded = [
        np.asarray(Image.open(io.BytesIO(data[start:stop].tobytes())).convert("RGB"))
        for start, stop in pairwise(offsets)
    ]
    images = torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).contiguous()
    if cache is not None and cache.exists():
        tokens = torch.load(cache, weights_only=True).float()
    else:
        tokens = teacher_tokens(teacher, images)
        if cache is not None:
            torch.save(tokens.half(), cache)
    tokens = (tokens - tokens.mean((0, 1))) / tokens.std((0, 1))
    return Photos(images, torch.from_numpy(labels).long(), tokens)


def photo_batch(photos: Photos, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw `n` augmented photographs.

    Returns
    -------
    tuple of Tensor
        Images in [-1, 1], shape ``(n, 3, 32, 32)``; labels, shape ``(n,)``; what the teacher says,
        shape ``(n, width)``.
    """
    index = torch.randint(len(photos.images), (n,))
    mirrored = torch.randint(2, (n,))
    images = photos.images[index] / 127.5 - 1
    images = torch.where(mirrored.view(n, 1, 1, 1).bool(), images.flip(3), images)
    grid = random_affine_grid(n, 32, degrees=8, scale=(0.95, 1.35), shear=0.1, shift=0.12)
    images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    contrast, brightness = torch.rand(2, n, 1, 1, 1) * 0.5 - 0.25
    images = images * (1 + contrast) + brightness
    grey = torch.rand(n) < 0.1
    images[grey] = images[grey].mean(1, keepdim=True)
    return images.clamp(-1, 1), photos.labels[index], photos.targets[mirrored, index]


def batch_loss(copy: WorkingCopy, heads: Heads, table: GlyphTable, photos: Photos) -> Tensor:
    """Draw one mixed batch and return its losses: glyph, photo, teacher, grey; shape ``(4,)``."""
    glyphs, glyph_labels = glyph_batch(table, GLYPHS)
    pictures, picture_labels, targets = photo_batch(photos, PHOTOS)
    images = torch.cat([glyphs, pictures])
    token = copy.class_token(images)
    grey = F.adaptive_avg_pool2d(images.mean(1, keepdim=True), COARSE).flatten(1)
    return torch.stack(
        [
            F.cross_entropy(heads.glyph(token[:GLYPHS]), glyph_labels, label_smoothing=0.1),
            F.cross_entropy(heads.photo(token[GLYPHS:]), picture_labels, label_smoothing=0.1),
            F.mse_loss(heads.teacher(token[GLYPHS:]), targets),
            F.mse_loss(heads.grey(token), grey),
        ]
    )


LOSS_WEIGHTS = torch.tensor([1.0, 0.3, 1.0, 3.0])  # in the order of batch_loss


def learning_rate(progress: float) -> float:
    """Linear warm-up, then half a cosine, over `progress` from 0 to 1."""
    if progress < WARM_UP:
        return PEAK_LR * progress / WARM_UP
    return PEAK_LR * 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


@torch.no_grad()
def new_model() -> ViTModel:
    """Return the backbone with fresh weights, wider than the default initialisation makes them.

    At width 96 the default 0.02 would leave the class token all but blind to the patches, and the
    patches to their places, for many minutes.
    """
    config = ViTConfig(
        hidden_size=96,
        num_hidden_layers=12,
        num_attention_heads=3,
        intermediate_size=384,
        image_size=32,
        patch_size=8,
        layer_norm_eps=1e-6,
    )
    model = ViTModel(config, add_pooling_layer=False)
    model.set_attn_implementation("eager")  # compiles best at 17 tokens
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            # Two branches per block add to the residual stream, through these layers.
            branches = 2 * model.config.num_hidden_layers
            fan_in = module.in_features * (branches if name.endswith(("o_proj", "fc2")) else 1)
            nn.init.normal_(module.weight, std=fan_in**-0.5)
    projection = model.embeddings.patch_embeddings.projection.weight
    nn.init.normal_(projection, std=projection[0].numel() ** -0.5)
    nn.init.normal_(model.embeddings.position_embeddings, std=0.5)
    return model


def make_optimizer(*modules: nn.Module) -> torch.optim.AdamW:
    """AdamW with weight decay on the matrices only."""
    weights = [weight for module in modules for weight in module.parameters()]
    matrices = [weight for weight in weights if weight.ndim in (2, 4)]
    others = [weight for weight in weights if weight.ndim not in (2, 4)]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        groups,
        lr=PEAK_LR,
        betas=(0.9, 0.98),
        weight_decay=WEIGHT_DECAY,
        fused=True,
    )


def save(model: ViTModel, folder: Path) -> None:
    """Write the model (fp16) and its preprocessor; each file appears at once."""
    beside = folder / "partial"
    half = ViTModel(model.config, add_pooling_layer=False)
    half.load_state_dict(model.state_dict())
    half.half().save_pretrained(beside)
    ViTImageProcessor(
        size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(beside)
    for file in beside.iterdir():
        file.chmod(0o644)  # safetensors leaves its file to its owner
        file.replace(folder / file.name)
    beside.rmdir()


def train(table: GlyphTable, photos: Photos, minutes: float, output: Path) -> None:
    """Train for the given time, writing a checkpoint every few minutes and at the end."""
    model = new_model()
    classes = int(photos.labels.max()) + 1
    heads = Heads(model.config.hidden_size, table.classes, classes, photos.targets.shape[-1])
    copy = WorkingCopy(model)
    optimizer = make_optimizer(model, heads)
    running = torch.zeros(4)
    start, saved, step = time.monotonic(), 0.0, 0
    while (elapsed := time.monotonic() - start) < 60 * minutes:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(elapsed / (60 * minutes))
        losses = batch_loss(copy, heads, table, photos)
        (losses @ LOSS_WEIGHTS).backward()
        copy.push()
        nn.utils.clip_grad_norm_([*model.parameters(), *heads.parameters()], CLIP)
        optimizer.step()
        optimizer.zero_grad()
        copy.pull()
        step += 1
        running += (losses.detach() - running) / min(step, 100)
        if step % 100 == 0:
            shown = " ".join(f"{value:.3f}" for value in running.tolist())
            print(f"{elapsed / 60:5.1f} min, step {step}: glyph photo teacher grey {shown}")
        if elapsed - saved > CHECKPOINT_SECONDS:
            saved = elapsed
            save(model, output)
            print(f"checkpoint: digits validation {100 * digits_validation_accuracy(model):.1f} %")
    save(model, output)
    print(f"{step} steps; digits validation {100 * digits_validation_accuracy(model):.1f} %")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Pretrain the built-in backbone.")
    parser.add_argument("--cifar10", type=Path, required=True, help="CIFAR-10 images, .npz")
    parser.add_argument("--teacher", type=Path, required=True, help="ViT-Tiny/16, HF folder")
    parser.add_argument("--teacher-cache", type=Path, help="file for the teacher's answers, .pt")
    parser.add_argument("--minutes", type=float, default=60.0, help="training time")
    parser.add_argument("--output", type=Path, required=True, help="folder for the weights")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    table = load_glyphs()
    print(f"{len(table.images)} renderings of {table.classes} glyphs")
    photos = load_photos(args.cifar10, args.teacher, args.teacher_cache)
    train(table, photos, args.minutes, args.output)


if __name__ == "__main__":
    main()
