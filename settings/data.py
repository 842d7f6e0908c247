"""Settings of the data: type, default, allowed values and meaning."""

from __future__ import annotations

from dataclasses import dataclass

from .checks import setting


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """The data set, its division among clients, and what is done to images."""

    dataset: str = setting(
        "digits", "`digits`, `cifar10`, `cifar100`, `femnist`, `folder`, or a registered source."
    )
    data_dir: str = setting(
        "", "Folder or file of the data set; empty for the hub (digits needs none)."
    )
    classes: str = setting(
        "",
        "Class names, separated by commas, where the server has no data of its own; otherwise "
        "they are read from the data.",
    )
    partition: str = setting(
        "dirichlet",
        "How a simulation splits the data among the clients.",
        choices=("iid", "dirichlet", "dirichlet-equal", "pathological", "natural"),
    )
    alpha: float = setting(
        0.5,
        "Concentration of the Dirichlet partitions; smaller is more uneven.",
        above=0,
        maximum=1e9,
    )
    classes_per_client: int = setting(
        2, "Classes of each client in the pathological partition.", minimum=1
    )
    client_test: str = setting(
        "split",
        "A simulated client's own test part: split off its data, or its part of the server's test "
        "set, divided like the training data.",
        choices=("split", "central"),
    )
    test_pooled: bool = setting(
        False,
        "Simulated clients score the server's whole test set, too, where they keep a part of the "
        "model to themselves.",
    )
    test_share: float = setting(
        0.2, "Share of a client's data that is split off as its test part.", above=0, maximum=0.9
    )
    augment: str = setting(
        "none",
        "Train on images that are randomly shifted, or cropped and resized; where the label "
        "allows, also mirrored.",
        choices=("none", "shift", "crop"),
    )
    stored_views: int = setting(
        0,
        "Random views of each image that `augment`, or `simclr`, chooses from: always the same "
        "ones, so that what is computed from them can be kept. 0 draws new ones in every epoch.",
        minimum=0,
        maximum=1000,
    )
    normalise: str = setting(
        "backbone",
        "Whose mean and standard deviation pixels are normalised with: the backbone's or the "
        "data set's.",
        choices=("backbone", "dataset"),
    )
    sampling: str = setting(
        "shuffled",
        "An epoch of training: every image once, or as many draws with every class equally likely.",
        choices=("shuffled", "class-balanced"),
    )
