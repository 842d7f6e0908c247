"""Who a node is and what data it holds, from Flower's node config and the settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context

from client_app.tier_choice import AUTO, choose_tier
from data import (
    BatchTransform,
    ImageSet,
    Part,
    Source,
    StoredViews,
    Transform,
    partition,
    partition_test,
    split_client,
)
from settings import Settings, SettingsError, read_path
from strategies import assign_tiers
from wiring import get_source, get_tiers, get_transform


@dataclass(frozen=True)
class LocalNode:
    """A client: its stable key, its tier and its own data.

    Attributes
    ----------
    client_key : str
        What tells its data from others'; see the setting `identity`.
    tier : str
    train, test : Part
        The client's two parts.
    source : Source
        The data it comes from.
    train_transform : Transform
    test_transform : BatchTransform
    personal_dir : str
        Where personalised adapters are saved; empty for nowhere.
    state_dir : str
        Where the client keeps what is its own; empty for Flower's state.
    pooled : Part | None
        The server's whole test set, if a simulated client is to score it.
    """

    client_key: str
    tier: str
    train: Part
    test: Part
    source: Source
    train_transform: Transform
    test_transform: BatchTransform
    personal_dir: str
    state_dir: str
    pooled: Part | None = None

    @property
    def num_classes(self) -> int:
        """Classes of the run."""
        return len(self.source.train.classes)


def local_node(context: Context, settings: Settings) -> LocalNode:
    """Find out who this node is.

    A simulated node has a ``partition-id``; a real one has a ``data-dir`` of its own in its
    ``--node-config``, and may name its ``client-key`` and ``tier`` (``auto``: see `choose_tier`).

    Raises
    ------
    SettingsError
        When the node config says neither where the data are nor which partition to take.
    """
    config = context.node_config
    if "data-dir" in config:
        key, tier = _client_key(context, settings), _tier(context, settings)
        # Not the run's setting: a server must not choose where a real node writes.
        folders = str(config.get("personal-dir", "")), str(config.get("state-dir", ""))
        return _real_node(key, tier, str(config["data-dir"]), folders, settings)
    if "partition-id" in config:
        number, total = int(config["partition-id"]), int(config.get("num-partitions", 0))
        if not 0 <= number < total:
            raise SettingsError(
                f"this node's partition-id is {number} of {total} num-partitions; give it both in "
                "--node-config, and count from 0."
            )
        key = _client_key(context, settings)
        return _simulated_node(key, _tier(context, settings), number, total, settings)
    raise SettingsError(
        "this node has no data: start its SuperNode with --node-config 'data-dir=\"...\"' "
        "(or 'partition-id=0 num-partitions=2' to take a share of the data set)."
    )


IDENTITIES = {"partition": "partition-id", "config-key": "client-key"}


def _client_key(context: Context, settings: Settings) -> str:
    """Return the key of this client's data, as the setting `identity` wants it.

    Raises
    ------
    SettingsError
        When the node config does not hold it.
    """
    config = context.node_config
    if settings.identity == "node":
        return str(context.node_id)
    if settings.identity == "auto":
        return str(config.get("client-key", config.get("partition-id", context.node_id)))
    name = IDENTITIES[settings.identity]
    if name not in config:
        raise SettingsError(
            f"identity: this node has no {name}, which the run tells clients apart by; add it to "
            "its --node-config, or choose another identity."
        )
    return str(config[name])


# Kept between messages; a node holds positions, not images, so a process may know them all.


@lru_cache(maxsize=4)
def _real_node(
    key: str, tier: str, data_dir: str, folders: tuple[str, str], settings: Settings
) -> LocalNode:
    source = get_source(settings, data_dir)
    if source.test is not None:
        train, test = Part.whole(source.train), Part.whole(source.test)
    else:
        train, test = _split(Part.whole(source.train), settings, 0)
    return _node(key, tier, train, test, source, settings, folders)


@lru_cache(maxsize=10_000)
def _simulated_node(key: str, tier: str, number: int, total: int, settings: Settings) -> LocalNode:
    source = get_source(settings, settings.data_dir)
    own = Part(source.train, _partitions(source.train, None, settings, total)[number])
    if settings.client_test == "split":
        train, test = _split(own, settings, number)
    elif source.test is None:
        raise SettingsError(
            f"client-test: dataset '{settings.dataset}' has no test set here; set it to split."
        )
    else:
        parts = _partitions(source.train, source.test, settings, total)
        train, test = own, Part(source.test, parts[number])
    folders = settings.personal_dir, settings.state_dir
    node = _node(key, tier, train, test, source, settings, folders)
    if not settings.test_pooled:
        return node
    if source.test is None:
        raise SettingsError(
            f"test-pooled: dataset '{settings.dataset}' has no test set here; set it to false."
        )
    return replace(node, pooled=Part.whole(source.test))


def simulated_nodes(settings: Settings) -> list[LocalNode]:
    """Return all nodes of a simulation with the settings' `num_clients`."""
    total = settings.num_clients
    tiers = _assigned_tiers(settings, total)
    return [
        _simulated_node(str(number), tier, number, total, settings)
        for number, tier in enumerate(tiers)
    ]


def _node(
    key: str,
    tier: str,
    train: Part,
    test: Part,
    source: Source,
    settings: Settings,
    folders: tuple[str, str],
) -> LocalNode:
    personal_dir, state_dir = folders
    if state_dir:
        state_dir = str(read_path("state-dir", state_dir))
    transform = get_transform(settings, source, training=True)
    return LocalNode(
        key,
        tier,
        train,
        test,
        source,
        StoredViews(transform, settings.stored_views, settings.seed)
        if settings.stored_views
        else transform,
        get_transform(settings, source, training=False),
        personal_dir,
        state_dir,
    )


def _split(part: Part, settings: Settings, number: int) -> tuple[Part, Part]:
    train, test = split_client(part.labels, settings.test_share, seed=settings.seed + number)
    return Part(part.images, part.positions[train]), Part(part.images, part.positions[test])


def _partitions(
    train: ImageSet, test: ImageSet | None, settings: Settings, total: int
) -> list[np.ndarray]:
    """Divide the training set, or the test set that is given, among `total` clients."""
    return _cached_partitions(
        train,
        test,
        settings.partition,
        total,
        settings.alpha,
        settings.classes_per_client,
        settings.seed,
    )


@lru_cache(maxsize=4)
def _cached_partitions(
    train: ImageSet,
    test: ImageSet | None,
    kind: str,
    total: int,
    alpha: float,
    classes_per_client: int,
    seed: int,
) -> list[np.ndarray]:
    options: Any = {"alpha": alpha, "classes_per_client": classes_per_client, "seed": seed}
    if test is None:
        return partition(train, kind, total, **options)
    return partition_test(test, train, kind, total, **options)


def _tier(context: Context, settings: Settings) -> str:
    """Return the tier the node was started with, or the one the settings draw for it."""
    config, tiers = context.node_config, get_tiers(settings)
    if config.get("tier") == AUTO:
        return _chosen_tier(context, settings)
    if "tier" in config:
        return str(config["tier"])
    if "partition-id" in config:
        return _assigned_tiers(settings, int(config["num-partitions"]))[int(config["partition-id"])]
    if len(tiers) == 1:
        return tiers[0].name
    raise SettingsError(
        'this node has no tier: add tier="..." to its --node-config, one of '
        f"{', '.join(tier.name for tier in tiers)}."
    )


def _chosen_tier(context: Context, settings: Settings) -> str:
    """Return the tier that fits this node; it stays the same for the run, in Flower's state."""
    kept = context.state.config_records
    if AUTO not in kept:
        source = get_source(settings, str(context.node_config.get("data-dir", settings.data_dir)))
        budget = context.node_config.get("memory-budget")
        tier = choose_tier(settings, len(source.train.classes), budget)
        kept[AUTO] = ConfigRecord({"tier": tier})
    return str(kept[AUTO]["tier"])


@lru_cache(maxsize=4)
def _assigned_tiers(settings: Settings, total: int) -> list[str]:
    return assign_tiers(get_tiers(settings), total, settings.seed)
