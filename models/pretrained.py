"""Loading of pretrained weights: a folder, a hub id, or the built-in ones."""

from __future__ import annotations

import importlib.util
import os
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .backbone import Backbone, ModelError
from .initialisation import draw_weights

BUILTIN = "builtin"
WEIGHTS = "model.safetensors"
SAMPLED = 61  # a fingerprint takes every so many-th number of a weight


@lru_cache(maxsize=2)
def load_backbone(name: str, image_size: int = 0, seed: int | None = None) -> Backbone:
    """Load a pretrained ViT or DeiT once per process; the same arguments give the same object.

    Parameters
    ----------
    name : str
        ``builtin``, a folder in Hugging Face's form, or a hub id.
    image_size : int (default: 0)
        Side of the input in pixels. The position table is interpolated (bicubic) when it differs
        from the pretrained size; 0 keeps that size.
    seed : int, optional
        With it, weights are not read but drawn: only the shape is that of the files.

    Raises
    ------
    ModelError
        When the files cannot be had, are of another architecture, or do not fit `image_size`.
    """
    source = str(_builtin_folder()) if name == BUILTIN else name
    model = _from_pretrained(source, name, seed)
    mean, std = _normalisation(source)
    fingerprint = _fingerprint(model)
    _resize_position_table(model, image_size)
    return Backbone.of(model, mean=mean, std=std, fingerprint=fingerprint)


def _fingerprint(model: nn.Module) -> int:
    """Hash a sample of every weight: all of them would take as long as loading."""
    value = 0
    for _, parameter in sorted(model.named_parameters()):
        value = zlib.crc32(parameter.detach().flatten()[::SAMPLED].numpy().tobytes(), value)
    return value


def _from_pretrained(source: str, name: str, seed: int | None) -> Any:
    """Load `source` through transformers; every failure becomes one sentence."""
    # Slow to import, so only where it is needed.
    from transformers import AutoConfig, AutoModel
    from transformers.utils import logging

    # A checkpoint's own classifier is dropped on purpose: no report about it, no progress bar.
    logging.set_verbosity_error()
    logging.disable_progress_bar()

    folder = Path(source).expanduser()
    # A hub id has the form "owner/model"; everything else that holds a separator is a path.
    if not source.strip():
        raise ModelError(f"backbone: give a folder, a hub id or '{BUILTIN}'.")
    looks_like_path = source.startswith((".", "~", os.sep)) or source.count("/") > 1
    if (looks_like_path or folder.exists()) and not (folder / "config.json").is_file():
        raise ModelError(
            f"backbone: there is no model in {folder} (config.json is missing); give a folder in "
            f"Hugging Face's form, a hub id, or '{BUILTIN}'."
        )
    location = str(folder) if folder.is_dir() else source
    try:
        config = AutoConfig.from_pretrained(location, trust_remote_code=False)
        if config.model_type not in ("vit", "deit"):
            raise ModelError(
                f"backbone: {name} is of type '{config.model_type}'; give a ViT or a DeiT."
            )
        if seed is not None:
            fresh = AutoModel.from_config(config, dtype=torch.float32, add_pooling_layer=False)
            draw_weights(fresh, seed)
            return fresh
        if folder.is_dir() and not any(folder.glob("*.safetensors")):
            raise ModelError(
                f"backbone: {folder} holds no weights as .safetensors; a pickle (.bin, .pt) is "
                "never read, so convert it, or give another folder."
            )
        model, report = AutoModel.from_pretrained(
            location,
            config=config,
            dtype=torch.float32,
            add_pooling_layer=False,
            use_safetensors=True,  # never a pickle
            output_loading_info=True,
        )
    except ModelError:
        raise
    except Exception as error:  # foreign files: whatever their readers stumble over
        if folder.is_dir() or not isinstance(error, OSError):
            raise ModelError(
                f"backbone: the files of '{name}' are damaged, do not fit each other, or are not "
                f"of a ViT or DeiT ({type(error).__name__}); download them again, or give others."
            ) from error
        raise ModelError(
            f"backbone: the files of '{name}' are neither in a folder of that name nor in the "
            "hub's cache, and could not be downloaded; give an existing folder, download them "
            f"once with a connection (hf download {name}), or use '{BUILTIN}'."
        ) from error
    if report["missing_keys"]:
        raise ModelError(
            f"backbone: {name} lacks weights of its own architecture, for example "
            f"'{sorted(report['missing_keys'])[0]}'; it is not a complete {config.model_type}."
        )
    return model


def _builtin_folder() -> Path:
    """Find the built-in weights: beside this file, or in the installed package.

    A Flower app bundle carries no weights, so code that runs from a bundle finds them in the
    installed `fedgraft.models`.
    """
    folders = [Path(__file__).parent / "builtin"]
    if importlib.util.find_spec("fedgraft") is not None:
        spec = importlib.util.find_spec("fedgraft.models")
        if spec is not None and spec.submodule_search_locations:
            folders += [Path(root) / "builtin" for root in spec.submodule_search_locations]
    for folder in folders:
        if (folder / WEIGHTS).is_file():
            return folder
    raise ModelError(
        "backbone: the built-in weights are not on this machine; install the package here (pip "
        "install . in its folder), or set backbone to a folder or a hub id."
    )


def _normalisation(source: str) -> tuple[list[float], list[float]]:
    """Read mean and standard deviation per channel from the preprocessor config."""
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(source)
    except OSError as error:
        raise ModelError(
            f"backbone: {source} has no readable preprocessor_config.json, which holds the mean "
            "and the standard deviation its weights expect; add it."
        ) from error
    mean, std = processor.image_mean, processor.image_std
    if not (mean and std and min(std) > 0):
        raise ModelError(
            f"backbone: the preprocessor_config.json of {source} has no image_mean, or no "
            "image_std above 0; correct it."
        )
    return list(mean), list(std)


def _resize_position_table(model: Any, image_size: int) -> None:
    """Interpolate the position table once, so that no forward pass has to; 0 keeps its size."""
    pretrained, patch = model.config.image_size, model.config.patch_size
    size = image_size or pretrained
    if size == pretrained:
        return
    if size < patch or size % patch:
        raise ModelError(
            f"image-size {size} is not a multiple of the backbone's patch size {patch}; "
            f"try {max(1, round(size / patch)) * patch}."
        )
    embeddings = model.embeddings
    patches = (size // patch) ** 2
    extra = embeddings.position_embeddings.shape[1] - (pretrained // patch) ** 2
    tokens = torch.empty(1, patches + extra, model.config.hidden_size)
    table = embeddings.interpolate_pos_encoding(tokens, size, size)
    embeddings.position_embeddings = nn.Parameter(table.detach().clone())
    embeddings.image_size = embeddings.patch_embeddings.image_size = (size, size)
