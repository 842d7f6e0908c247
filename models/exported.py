"""The folder `adapters/` of a run: the trained tensors, and what builds their model again."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from .adapters import AdapterSpec, check_targets
from .backbone import ModelError
from .base import AdapterModel
from .card import hub_id, model_card
from .peft_form import CONFIG, WEIGHTS, join_lora, peft_config, split_lora
from .pretrained import load_backbone
from .registry import build_model, parse_exits

FORMAT = 3
TENSORS = "exits.safetensors"  # all trained tensors but LoRA, which is in peft's own file
DESCRIPTION = "adapters.json"
CARD = "README.md"
FIELDS: dict[str, type] = {
    "method": str,
    "backbone": str,
    "image-size": int,
    "exits": str,
    "adapter": dict,
    "options": dict,
    "classes": list,
}
ADAPTER_FIELDS: dict[str, type] = {"kind": str, "rank": int, "scaling": float, "targets": list}


@dataclass(frozen=True)
class Exported:
    """What a run exported.

    Attributes
    ----------
    model : AdapterModel
        With the trained adapters, in evaluation mode on the CPU.
    classes : tuple[str, ...]
        Names, in the order of the labels.
    mean, std : tuple[float, ...]
        The normalisation it was trained with: one for each channel, or one for all.
    """

    model: AdapterModel
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def write_exported(
    folder: str | Path,
    tensors: Mapping[str, np.ndarray],
    description: Mapping[str, Any],
    accuracy: Mapping[int, float],
) -> None:
    """Write the trained tensors, what describes them, and a model card.

    Each file is written beside and renamed. LoRA goes into files of its own, which peft reads.

    Parameters
    ----------
    folder : str or Path
        Made where it is not there.
    tensors : Mapping[str, np.ndarray]
        By their keys in the bank.
    description : Mapping[str, Any]
        With the keys of `FIELDS`.
    accuracy : Mapping[int, float]
        By exit, for the card; may be empty.

    Raises
    ------
    OSError
        When the folder cannot be written to.
    """
    adapter = AdapterSpec(**description["adapter"])
    lora, others = split_lora(tensors) if adapter.kind == "lora" else ({}, dict(tensors))
    files = {TENSORS: save(others)}
    if lora:
        config = peft_config(adapter, lora, hub_id(description["backbone"]))
        # transformers wants to read which framework the tensors are of.
        files |= {WEIGHTS: save(lora, {"format": "pt"}), CONFIG: _json(config)}
    files |= {
        CARD: model_card(description, accuracy).encode(),
        DESCRIPTION: _json({"format": FORMAT, **description}),
    }
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        beside = folder / f".{name}"
        beside.write_bytes(content)
        os.replace(beside, folder / name)
    for name in {WEIGHTS, CONFIG} - files.keys():
        (folder / name).unlink(missing_ok=True)  # of adapters that were here before


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def load_exported(folder: str | Path, backbone: str | None = None) -> Exported:
    """Build the model that a run exported.

    Parameters
    ----------
    folder : str or Path
        Holds ``adapters.json``, ``exits.safetensors``, and with LoRA
        ``adapter_model.safetensors``.
    backbone : str, optional
        As for `load_backbone`; where the run's own name does not lead to the weights.

    Raises
    ------
    ModelError
        When a file is missing or foreign, or does not fit the backbone.
    """
    folder = Path(folder).expanduser()
    description = _read_description(folder)
    adapter = _read_adapter(description["adapter"], folder / DESCRIPTION)
    classes = tuple(description["classes"])
    frozen = load_backbone(
        backbone or description["backbone"],
        description["image-size"],
        description.get("backbone-seed"),
    )
    if description.get("fingerprint", frozen.fingerprint) != frozen.fingerprint:
        raise ModelError(
            f"adapters: those in {folder} were trained on a backbone with other weights than "
            f"'{backbone or description['backbone']}'; give the one of the run."
        )
    exits = parse_exits(description["exits"], frozen.depth)
    try:
        model = build_model(
            description["method"],
            frozen,
            exits,
            len(classes),
            adapter=adapter,
            **description["options"],
        )
    except (TypeError, KeyError) as error:
        raise ModelError(
            f"adapters: the options in {folder / DESCRIPTION} are none of the method "
            f"'{description['method']}' ({error}); export the run again."
        ) from None
    keys = model.adapter_parameters().keys()
    tensors = _read_tensors(folder / TENSORS)
    if adapter.kind == "lora":
        tensors |= join_lora(_read_tensors(folder / WEIGHTS), keys)
    if missing := keys - tensors.keys():
        raise ModelError(
            f"adapters: the files in {folder} lack '{min(missing)}'; check that the backbone is "
            "the one they were trained on, or export the run again."
        )
    model.load_adapters(tensors)
    return Exported(
        model.eval(),
        classes,
        _normalisation(description, "mean", frozen.mean),
        _normalisation(description, "std", frozen.std),
    )


def _read_description(folder: Path) -> dict[str, Any]:
    """Read adapters.json and check that every field is there and of its type."""
    file = folder / DESCRIPTION
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except OSError:
        raise ModelError(
            f"adapters: there is no file {file}; give the folder adapters/ of a finished run."
        ) from None
    except ValueError as error:
        raise ModelError(f"adapters: {file} is no JSON ({error}); export the run again.") from None
    if not isinstance(description, dict):
        raise ModelError(f"adapters: {file} does not describe adapters; give that of a run.")
    if (found := description.get("format", FORMAT)) != FORMAT:
        raise ModelError(
            f"adapters: {file} has format {found}, this version reads {FORMAT}; use the version "
            "that wrote it."
        )
    _check_fields(description, FIELDS, file)
    names = description["classes"]
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ModelError(f"adapters: 'classes' in {file} are not names, each once; correct them.")
    if type(description.get("backbone-seed", 0)) not in (int, type(None)):
        raise ModelError(f"adapters: 'backbone-seed' in {file} is no number; export the run again.")
    if description["image-size"] < 1:
        raise ModelError(f"adapters: 'image-size' in {file} is below 1; export the run again.")
    return description


def _check_fields(found: dict[str, Any], fields: dict[str, type], file: Path) -> None:
    for key, kind in fields.items():
        if key not in found:
            raise ModelError(f"adapters: {file} lacks '{key}'; give the adapters/ of a run.")
        if type(found[key]) is not kind:
            raise ModelError(
                f"adapters: '{key}' in {file} is {found[key]!r}, which is no {kind.__name__}; "
                "export the run again."
            )


def _read_adapter(found: dict[str, Any], file: Path) -> AdapterSpec:
    """Check the field `adapter` of a description."""
    _check_fields(found, ADAPTER_FIELDS, file)
    if not math.isfinite(found["scaling"]):
        raise ModelError(f"adapters: 'scaling' in {file} is not finite; export the run again.")
    targets = check_targets([str(name) for name in found["targets"]], found["kind"])
    return AdapterSpec(found["kind"], found["rank"], found["scaling"], targets)


def _normalisation(
    description: dict[str, Any], key: str, backbones: tuple[float, ...]
) -> tuple[float, ...]:
    """Return the exported values, or where there are none the backbone's."""
    values = description.get(key, list(backbones))
    fits = type(values) is list and len(values) in (1, 3)
    fits = fits and all(type(v) in (int, float) and math.isfinite(v) for v in values)
    if not fits or (key == "std" and min(values) <= 0):
        raise ModelError(
            f"adapters: '{key}' is not one number or three to normalise pixels with; export the "
            "run again."
        )
    return tuple(values)


def _read_tensors(file: Path) -> dict[str, np.ndarray]:
    """Read a file of tensors; every number must be a finite float."""
    try:
        tensors = load_file(file)
    except FileNotFoundError:
        raise ModelError(
            f"adapters: there is no file {file}; give the folder adapters/ of a finished run."
        ) from None
    except (OSError, TypeError, SafetensorError) as error:
        raise ModelError(
            f"adapters: {file} cannot be read as safetensors ({error}); export the run again."
        ) from None
    for key, tensor in tensors.items():
        if tensor.dtype.kind != "f" or not np.isfinite(tensor).all():
            raise ModelError(
                f"adapters: '{key}' in {file} holds other than finite floats; export the run again."
            )
    return tensors
