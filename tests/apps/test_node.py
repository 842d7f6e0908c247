"""Who a node is: simulated by partition, or real with a folder, a name and a tier of its own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, RecordDict
from PIL import Image

from client_app.node import LocalNode, local_node
from data import DataError, load_source, register_source
from models import ModelError
from settings import Settings, SettingsError
from wiring import make_model


def node(settings: Settings, **config: Any) -> LocalNode:
    names = {key.replace("_", "-"): value for key, value in config.items()}
    context = Context(run_id=1, node_id=77, node_config=names, state=RecordDict(), run_config={})
    return local_node(context, settings)


def write_images(folder: Path, *classes: str) -> Path:
    for level, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(10):
            pixels = np.full((16, 16, 3), 40 * level + number, np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def settings_for(tiny_vit: Path, **values: Any) -> Settings:
    tiers = "small depth=2 share=0.5; large depth=6 share=0.5"
    return Settings(backbone=str(tiny_vit), exits="3", tiers=tiers, **values)


def test_a_simulated_node_is_its_partition(tiny_vit: Path) -> None:
    settings = settings_for(tiny_vit)
    nodes = [node(settings, partition_id=n, num_partitions=4) for n in range(4)]
    assert [one.client_key for one in nodes] == ["0", "1", "2", "3"]
    assert sorted(one.tier for one in nodes) == ["large", "large", "small", "small"]
    # All but the central test set: 1,797 images less a fifth.
    assert sum(len(one.train) + len(one.test) for one in nodes) == 1437
    assert all(len(one.train) > len(one.test) > 0 for one in nodes)


def test_a_simulated_nodes_test_part_may_be_of_the_central_test_set(tiny_vit: Path) -> None:
    """Equal parts of both sets, 1437 and 360 images, and of the same classes."""
    settings = settings_for(tiny_vit, partition="dirichlet-equal", alpha=0.1, client_test="central")
    nodes = [node(settings, partition_id=n, num_partitions=4) for n in range(4)]
    assert sorted(len(one.train) for one in nodes) == [359, 359, 359, 360]
    assert [len(one.test) for one in nodes] == [90] * 4
    for one in nodes:
        assert one.train.images is one.source.train
        assert one.test.images is one.source.test
        shares = [np.bincount(p.labels, minlength=10) / len(p) for p in (one.train, one.test)]
        assert np.abs(shares[0] - shares[1]).sum() < 0.7
    together = np.concatenate([one.test.positions for one in nodes])
    assert sorted(together) == list(range(360))


def test_a_central_test_part_needs_a_central_test_set(tiny_vit: Path) -> None:
    source = replace(load_source("digits", image_size=16), test=None)
    register_source("digits-without-test", lambda *_: source)
    settings = settings_for(
        tiny_vit, dataset="digits-without-test", partition="iid", client_test="central"
    )
    with pytest.raises(SettingsError) as caught:
        node(settings, partition_id=0, num_partitions=2)
    assert str(caught.value) == (
        "client-test: dataset 'digits-without-test' has no test set here; set it to split."
    )


def test_a_real_node_has_a_folder_a_name_and_a_tier(tiny_vit: Path, tmp_path: Path) -> None:
    folder = write_images(tmp_path, "cat", "dog")
    settings = settings_for(tiny_vit, dataset="folder")
    named = node(settings, data_dir=str(folder), client_key="ward-3", tier="small")
    assert (named.client_key, named.tier, named.num_classes) == ("ward-3", "small", 2)
    assert len(named.train) + len(named.test) == 20
    assert node(settings, data_dir=str(folder), tier="large").client_key == "77"


def test_labels_count_in_the_federations_classes(tiny_vit: Path, tmp_path: Path) -> None:
    """A node that holds one class of three."""
    folder = write_images(tmp_path, "dog")
    settings = settings_for(tiny_vit, dataset="folder", classes="ant, cat, dog")
    real = node(settings, data_dir=str(folder), tier="small")
    assert real.num_classes == 3
    assert set(real.train.labels) == {2}


def test_one_class_alone_is_nothing_to_learn(tiny_vit: Path, tmp_path: Path) -> None:
    settings = settings_for(tiny_vit, dataset="folder")
    real = node(settings, data_dir=str(write_images(tmp_path, "dog")), tier="small")
    with pytest.raises(ModelError, match="nothing to tell apart"):
        make_model(settings, real.num_classes)


def test_a_class_outside_the_list_is_named(tiny_vit: Path, tmp_path: Path) -> None:
    settings = settings_for(tiny_vit, dataset="folder", classes="ant,cat")
    with pytest.raises(DataError, match="'dog', which is not among"):
        node(settings, data_dir=str(write_images(tmp_path, "cat", "dog")), tier="small")


def test_a_node_without_data_is_told_what_to_add(tiny_vit: Path) -> None:
    with pytest.raises(SettingsError, match="start its SuperNode with --node-config"):
        node(settings_for(tiny_vit))


def test_a_node_without_a_tier_is_told_the_names(tiny_vit: Path, tmp_path: Path) -> None:
    settings = settings_for(tiny_vit, dataset="folder")
    with pytest.raises(SettingsError, match="one of small, large"):
        node(settings, data_dir=str(write_images(tmp_path, "cat", "dog")))


def test_a_single_tier_needs_no_name(tiny_vit: Path, tmp_path: Path) -> None:
    settings = Settings(
        backbone=str(tiny_vit), exits="3", tiers="all depth=6 share=1", dataset="folder"
    )
    assert node(settings, data_dir=str(write_images(tmp_path, "cat", "dog"))).tier == "all"


def test_personal_adapters_go_where_the_node_says(tiny_vit: Path, tmp_path: Path) -> None:
    """A simulated node follows the run's setting, a real one its own config alone."""
    settings = settings_for(tiny_vit, personal_dir="/runs/own")
    assert node(settings, partition_id=0, num_partitions=2).personal_dir == "/runs/own"
    folder = str(write_images(tmp_path, "cat", "dog"))
    real = settings_for(tiny_vit, dataset="folder", personal_dir="/runs/own")
    assert node(real, data_dir=folder, tier="small").personal_dir == ""
    own = node(real, data_dir=folder, tier="small", personal_dir="/var/own")
    assert own.personal_dir == "/var/own"
