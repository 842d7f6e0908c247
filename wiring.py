"""What both apps make from the settings: data, backbone, model and tiers, once per process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch

from data import BatchTransform, Source, ViewTransform, load_source
from models import (
    BLOCK,
    BUILTIN,
    EMBED,
    GATE,
    HEAD,
    LOCAL,
    METHODS,
    PERSONAL,
    PRIVATE_GATES,
    RANKED,
    AdapterModel,
    AdapterSpec,
    Backbone,
    HyperAttentionModel,
    build_model,
    load_backbone,
    parse_exits,
    parse_targets,
)
from settings import Settings, SettingsError, read_path
from strategies import Layout, Tier, parse_tiers


def read_settings(run_config: Mapping[str, Any]) -> Settings:
    """Read a run config; the same one, as it comes with every message, is read once."""
    return _cached_settings(tuple((k, type(v), v) for k, v in sorted(run_config.items())))


@lru_cache(maxsize=4)
def _cached_settings(items: tuple[tuple[str, type, Any], ...]) -> Settings:
    # The types are a part of the key: 1, 1.0 and True are equal, but not the same setting.
    return Settings.from_dict({key: value for key, _, value in items})


def get_backbone(settings: Settings) -> Backbone:
    """Return the backbone; all models of a process share it."""
    name = settings.backbone
    if name.strip() and name != BUILTIN and (folder := read_path("backbone", name)).is_dir():
        name = str(folder.resolve())
    return load_backbone(name, settings.image_size, backbone_seed(settings))


def backbone_seed(settings: Settings) -> int | None:
    """Return the seed that the backbone's weights are drawn from; None for pretrained ones."""
    return settings.seed if settings.backbone_start == "random" else None


def get_source(settings: Settings, data_dir: str) -> Source:
    """Return the data of `data_dir`, decoded once, with labels in the run's class order."""
    size = get_backbone(settings).image_size
    data_dir = str(read_path("data-dir", data_dir)) if data_dir else ""
    return _cached_source(settings.dataset, data_dir, size, settings.seed, settings.classes)


@lru_cache(maxsize=4)
def _cached_source(dataset: str, data_dir: str, size: int, seed: int, classes: str) -> Source:
    source = load_source(dataset, data_dir, image_size=size, seed=seed)
    return source.with_classes(split_names(classes)) if classes else source


def split_names(classes: str) -> tuple[str, ...]:
    """Read the setting `classes`."""
    names = tuple(name.strip() for name in classes.split(","))
    if "" in names or len(set(names)) < len(names):
        raise SettingsError(
            f"classes: '{classes}' must name each class once, separated by single commas."
        )
    return names


def class_names(settings: Settings) -> tuple[str, ...]:
    """Return the classes of the run: those of the setting, or of the data."""
    if settings.classes:
        return split_names(settings.classes)
    return get_source(settings, settings.data_dir).train.classes


@lru_cache(maxsize=4)
def get_device(settings: Settings) -> torch.device:
    """Return the device of the settings; ``auto`` is a GPU of CUDA where there is one.

    Raises
    ------
    SettingsError
        For a device that torch does not know, or that is not in this machine.
    """
    name = settings.device
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # "meta" can make tensors, but not compute
    except (RuntimeError, AssertionError, ImportError) as error:
        # torch's first sentence; lists of all it knows may follow.
        reason = str(error).splitlines()[0].split(". ")[0].rstrip(".")
        raise SettingsError(
            f"device: '{name}' cannot be used here ({reason}); set auto, cpu, or a GPU that this "
            f"machine has ({torch.cuda.device_count()} of CUDA)."
        ) from None
    return device


def uses_bfloat16(settings: Settings) -> bool:
    """Tell whether matrix products run in bf16; ``auto`` only where the hardware has it."""
    if settings.precision == "auto":
        return get_device(settings).type == "cuda" and torch.cuda.is_bf16_supported()
    return settings.precision == "bf16"


@dataclass(frozen=True)
class Cut:
    """What sets a tier's own model apart from the bank's; tiers with the same share a model.

    Attributes
    ----------
    rank : int
        Of its adapters.
    options : tuple[tuple[str, Any], ...]
        Of the method, beside those of the settings.
    """

    rank: int
    options: tuple[tuple[str, Any], ...] = ()


@lru_cache(maxsize=64)
def get_cut(settings: Settings, tier: str) -> Cut:
    """Return what a tier, by name, makes of the model; that of an unknown tier is whole."""
    for spec in get_tiers(settings):
        if spec.name == tier:
            exits = parse_exits(settings.exits, get_backbone(settings).depth)
            options = METHODS[settings.method].tier_options(exits, spec.depth)
            return Cut(spec.rank or settings.adapter_rank, tuple(options.items()))
    return Cut(settings.adapter_rank)


def make_model(settings: Settings, num_classes: int, cut: Cut | None = None) -> AdapterModel:
    """Build a model with the initial adapters of the settings' seed: the bank's, or a tier's."""
    backbone = get_backbone(settings)
    model = build_model(
        settings.model,
        backbone,
        parse_exits(settings.exits, backbone.depth),
        num_classes,
        seed=settings.seed,
        adapter=AdapterSpec(
            settings.adapter,
            settings.adapter_rank if cut is None else cut.rank,
            settings.adapter_alpha / settings.adapter_rank,
            parse_targets(settings.adapter_targets, settings.adapter),
        ),
        **settings.method_options(),
        **dict(() if cut is None else cut.options),
    )
    return model.to(get_device(settings))  # drawn on the CPU: the same start on every device


def kept_prefixes(settings: Settings) -> tuple[str, ...]:
    """Return how the names of units begin that clients keep, by method and settings."""
    if settings.method == "mofm":
        return (LOCAL, GATE) if settings.mofm_gate in PRIVATE_GATES else (LOCAL,)
    personal = (PERSONAL,) if settings.method == "local-attention" else ()
    has_units = METHODS[settings.method] is HyperAttentionModel
    return personal + ((HEAD,) if settings.personal_heads and has_units else ())


def absent_prefixes(settings: Settings) -> tuple[str, ...]:
    """Return how the names of units begin that a message may leave out, to be as at the start."""
    if settings.method == "mofm":
        return (GATE, EMBED, BLOCK)  # gates of clients' own, and blocks that are not active yet
    return kept_prefixes(settings)


def get_layout(model: AdapterModel) -> Layout:
    """Return the wire layout of a model's adapters; server and clients must get the same."""
    return Layout({key: tuple(p.shape) for key, p in model.adapter_parameters().items()})


def get_layouts(settings: Settings, model: AdapterModel) -> dict[str, Layout]:
    """Return, by name, the layouts of tiers whose own models hold parts of the tensors."""
    whole = Cut(settings.adapter_rank)
    cuts = {tier.name: get_cut(settings, tier.name) for tier in get_tiers(settings)}
    layouts = {
        cut: get_layout(make_model(settings, model.num_classes, cut))
        for cut in set(cuts.values()) - {whole}
    }
    return {name: layouts[cut] for name, cut in cuts.items() if cut != whole}


@lru_cache(maxsize=4)
def get_tiers(settings: Settings) -> tuple[Tier, ...]:
    """Return the tiers, with depths in blocks of the backbone."""
    rank = settings.adapter_rank if settings.adapter in RANKED else 0
    return parse_tiers(settings.tiers, get_backbone(settings).depth, rank)


def get_normalisation(
    settings: Settings, source: Source | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel, of pixels in 0..1.

    Raises
    ------
    SettingsError
        When they are to be the data set's, and it has none or is not on this machine.
    """
    if settings.normalise == "backbone":
        backbone = get_backbone(settings)
        return backbone.mean, backbone.std
    if source is None or source.mean is None or source.std is None:
        raise SettingsError(
            f"normalise: dataset '{settings.dataset}' comes without a mean and a standard "
            'deviation of its own, or is not on this machine; set normalise to "backbone".'
        )
    return source.mean, source.std


@lru_cache(maxsize=8)
def get_transform(settings: Settings, source: Source, *, training: bool) -> BatchTransform:
    """Return the transform of images to the backbone's input; without labels, to two views."""
    mean, std = get_normalisation(settings, source)
    if training and settings.objective == "simclr":
        return ViewTransform(
            get_backbone(settings).image_size,
            mean,
            std,
            smallest=settings.view_crop,
            jitter=settings.view_jitter,
            flip=source.flip,
            device=get_device(settings),
        )
    return BatchTransform(
        get_backbone(settings).image_size,
        mean,
        std,
        augment=settings.augment if training else "none",
        flip=source.flip,
        crop_scale=source.crop_scale,
        device=get_device(settings),
    )


def describe_adapters(
    settings: Settings,
    source: Source | None,
    classes: tuple[str, ...],
    exits: tuple[int, ...],
    model: AdapterModel,
) -> dict[str, Any]:
    """Return what `models.load_exported` needs to build the model of some adapters again."""
    mean, std = get_normalisation(settings, source)
    return {
        "method": settings.method,
        "backbone": settings.backbone,
        "fingerprint": get_backbone(settings).fingerprint,
        "image-size": get_backbone(settings).image_size,
        "backbone-seed": backbone_seed(settings),
        "exits": ",".join(map(str, exits)) + ",",
        "adapter": asdict(model.adapter),
        "options": {**settings.method_options(), **model.own_options},
        "classes": list(classes),
        "mean": list(mean),
        "std": list(std),
    }
