"""Who a node is and what data it holds, from Flower's node config and the settings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from flwr.app import Context

from data import BatchTransform, ImageSet, Source, partition, split_client
from settings import Settings, SettingsError
from strategies import assign_tiers
from wiring import get_source, get_tiers, get_transform


@dataclass(frozen=True)
class LocalNode:
    """A client: its stable key, its tier and its own data.

    Attributes
    ----------
    client_key : str
        ``client-key`` of the node config, else the partition id, else Flower's node id.
    tier : str
    train, test : ImageSet
        The client's two parts.
    """

    client_key: str
    tier: str
    train: ImageSet
    test: ImageSet
    train_transform: BatchTransform
    test_transform: BatchTransform
    num_classes: int


def local_node(context: Context, settings: Settings) -> LocalNode:
    """Find out who this node is.

    A simulated node has a ``partition-id``; a real one has a ``data-dir`` of its own in its
    ``--node-config``, and may name its ``client-key`` and ``tier``.

    Raises
    ------
    SettingsError
        When the node config says neither where the data are nor which partition to take.
    """
    config = context.node_config
    if "data-dir" in config:
        source = get_source(settings, str(config["data-dir"]))
        train, test = _own_parts(source, settings)
        key = str(config.get("client-key", context.node_id))
    elif "partition-id" in config:
        source = get_source(settings, settings.data_dir)
        number, total = int(config["partition-id"]), int(config.get("num-partitions", 0))
        if not 0 <= number < total:
            raise SettingsError(
                f"this node's partition-id is {number} of {total} num-partitions; give it both in "
                "--node-config, and count from 0."
            )
        indices = _partitions(source, settings, total)[number]
        train, test = _split(source.train.subset(indices), settings, number)
        key = str(config.get("client-key", number))
    else:
        raise SettingsError(
            "this node has no data: start its SuperNode with --node-config 'data-dir=\"...\"' "
            "(or 'partition-id=0 num-partitions=2' to take a share of the data set)."
        )
    return LocalNode(
        key,
        _tier(context, settings),
        train,
        test,
        get_transform(settings, source, training=True),
        get_transform(settings, source, training=False),
        len(source.train.classes),
    )


def _own_parts(source: Source, settings: Settings) -> tuple[ImageSet, ImageSet]:
    if source.test is not None:
        return source.train, source.test
    return _split(source.train, settings, 0)


def _split(images: ImageSet, settings: Settings, number: int) -> tuple[ImageSet, ImageSet]:
    train, test = split_client(images.labels, settings.test_share, seed=settings.seed + number)
    return images.subset(train), images.subset(test)


def _partitions(source: Source, settings: Settings, total: int) -> list[np.ndarray]:
    """Split the data among `total` clients, once per process."""
    return _cached_partitions(
        source.train,
        settings.partition,
        total,
        settings.alpha,
        settings.classes_per_client,
        settings.seed,
    )


@lru_cache(maxsize=4)
def _cached_partitions(
    images: ImageSet, kind: str, total: int, alpha: float, classes_per_client: int, seed: int
) -> list[np.ndarray]:
    return partition(
        images, kind, total, alpha=alpha, classes_per_client=classes_per_client, seed=seed
    )


def _tier(context: Context, settings: Settings) -> str:
    """Return the tier the node was started with, or the one the settings draw for it."""
    config, tiers = context.node_config, get_tiers(settings)
    if "tier" in config:
        return str(config["tier"])
    if "partition-id" in config:
        names = assign_tiers(tiers, int(config["num-partitions"]), settings.seed)
        return names[int(config["partition-id"])]
    if len(tiers) == 1:
        return tiers[0].name
    raise SettingsError(
        'this node has no tier: add tier="..." to its --node-config, one of '
        f"{', '.join(tier.name for tier in tiers)}."
    )
