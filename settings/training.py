"""Settings of the training: type, default, allowed values and meaning."""

from __future__ import annotations

from dataclasses import dataclass

from .checks import setting


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Rounds, clients, and their optimiser."""

    num_clients: int = setting(20, "Clients of a simulation.", minimum=1, maximum=1_000_000)
    clients_per_round: int = setting(10, "Clients that train in a round.", minimum=1)
    rounds: int = setting(30, "Rounds of training.", minimum=1, maximum=1_000_000)
    identity: str = setting(
        "auto",
        "What a client is known by: `client-key` of its node config, its partition id, or Flower's "
        "node id, which is another after a restart; `auto` takes the first that there is.",
        choices=("auto", "config-key", "partition", "node"),
    )
    held_out_clients: str = setting(
        "",
        "Clients that take no part in the training, such as `36-39` or names separated by commas; "
        "after the last round they are scored, and personalised if all are.",
    )
    held_out_rounds: str = setting(
        "0,10,50",
        "With `hyper-attention`: after how many rounds of learning their embeddings alone the "
        "held-out clients are scored.",
    )
    objective: str = setting(
        "supervised",
        "What clients minimise: the method's loss, or without labels SimCLR's over two random "
        "views of each image.",
        choices=("supervised", "simclr"),
    )
    simclr_temperature: float = setting(0.5, "Temperature of SimCLR's loss.", above=0, maximum=1000)
    view_crop: float = setting(
        0.2,
        "With `simclr`: smallest share of an image's area that a view shows; 0.08 as published.",
        above=0,
        maximum=1,
    )
    view_jitter: float = setting(
        0.5,
        "With `simclr`: how strongly the colours of views change; 1 is as published for ImageNet, "
        "0.5 for CIFAR, 0 not at all.",
        minimum=0,
        maximum=1,
    )
    stage_one_rounds: float = setting(
        0.7,
        "With `mofm`: rounds in which the global expert is trained, or below 1 their share of "
        "`rounds`; then the local experts and the gate are. 0: local experts from the start.",
        minimum=0,
        maximum=1_000_000,
    )
    gate_share: float = setting(
        0.15,
        "With `mofm`: share of a client's training data from which the gate learns, and the local "
        "expert does not; 0: both learn together from all.",
        minimum=0,
        maximum=0.9,
    )
    local_epochs: int = setting(2, "Passes over a client's data per round.", minimum=1)
    batch_size: int = setting(32, "Images per training step.", minimum=1)
    optimizer: str = setting(
        "adamw", "The clients' optimiser.", choices=("sgd", "momentum", "adamw")
    )
    learning_rate: float = setting(0.002, "The clients' learning rate in round 1.", above=0)
    head_rate: float = setting(
        10.0,
        "How many times faster the heads learn, which start from nothing, than what modulates the "
        "pass.",
        above=0,
    )
    schedule: str = setting(
        "cosine", "Learning rate over the rounds.", choices=("constant", "cosine")
    )
    minimum_rate: float = setting(
        0.0, "Learning rate below which the schedule does not fall.", minimum=0
    )
    weight_decay: float = setting(0.0, "Weight decay of the clients' optimiser.", minimum=0)
    clip_norm: float = setting(
        1.0, "Largest norm of a gradient; longer ones are scaled down. 0 is off.", minimum=0
    )
    clip_value: float = setting(
        0.0,
        "Largest size of each number in a gradient, before `clip-norm`; larger ones are cut. 0 is "
        "off.",
        minimum=0,
    )
    personalise_epochs: int = setting(
        0,
        "Local epochs from the final bank on each client, after the last round; its accuracy on "
        "its own test part is told before and after each. 0 is off.",
        minimum=0,
    )
    personalise_rate: float = setting(
        0.0, "Learning rate of these epochs; 0 is `learning-rate`.", minimum=0
    )
    personal_dir: str = setting(
        "",
        "Folder in which each client saves its personalised adapters, on its own machine; empty "
        "saves none.",
    )
