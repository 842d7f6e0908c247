"""What both apps make from the settings: data, backbone, model and tiers, once per process."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from data import BatchTransform, Source, load_source
from models import AdapterModel, Backbone, build_model, load_backbone, parse_exits
from settings import Settings
from strategies import Layout, Tier, parse_tiers


def get_backbone(settings: Settings) -> Backbone:
    """Return the backbone; all models of a process share it."""
    name = settings.backbone
    if (folder := Path(name).expanduser()).is_dir():
        name = str(folder.resolve())
    return load_backbone(name, settings.image_size)


def get_source(settings: Settings, data_dir: str) -> Source:
    """Return the data of `data_dir`, decoded once, with labels in the run's class order."""
    size = get_backbone(settings).image_size
    return _cached_source(settings.dataset, data_dir, size, settings.seed, settings.classes)


@lru_cache(maxsize=4)
def _cached_source(dataset: str, data_dir: str, size: int, seed: int, classes: str) -> Source:
    source = load_source(dataset, data_dir, image_size=size, seed=seed)
    return source.with_classes(split_names(classes)) if classes else source


def split_names(classes: str) -> tuple[str, ...]:
    """Read the setting `classes`."""
    return tuple(name.strip() for name in classes.split(","))


def class_names(settings: Settings) -> tuple[str, ...]:
    """Return the classes of the run: those of the setting, or of the data."""
    if settings.classes:
        return split_names(settings.classes)
    return get_source(settings, settings.data_dir).train.classes


def make_model(settings: Settings, num_classes: int) -> AdapterModel:
    """Build a model with the initial adapters of the settings' seed."""
    backbone = get_backbone(settings)
    return build_model(
        settings.method,
        backbone,
        parse_exits(settings.exits, backbone.depth),
        num_classes,
        seed=settings.seed,
        adapter=settings.adapter,
        adapter_rank=settings.adapter_rank,
        **settings.method_options(),
    )


# A node's model, kept between messages; each message brings all the adapters that it uses.
get_model = lru_cache(maxsize=2)(make_model)


def get_layout(model: AdapterModel) -> Layout:
    """Return the wire layout of a model's adapters; server and clients must get the same."""
    return Layout({key: tuple(p.shape) for key, p in model.adapter_parameters().items()})


def get_tiers(settings: Settings) -> tuple[Tier, ...]:
    """Return the tiers, with depths in blocks of the backbone."""
    return parse_tiers(settings.tiers, get_backbone(settings).depth)


def get_transform(settings: Settings, source: Source, *, training: bool) -> BatchTransform:
    """Return the transform of images to the backbone's input."""
    backbone = get_backbone(settings)
    return BatchTransform(
        backbone.image_size,
        backbone.mean,
        backbone.std,
        flip=source.flip,
        augment=training and settings.augment,
    )
