"""Every setting of the app: its type, default, allowed values and meaning.

The same keys, in kebab-case, stand with the same defaults in ``[tool.flwr.app.config]`` of
pyproject.toml (a test compares the two); docs/settings.md is made from this file.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from .checks import SettingsError, Value, check, convert, setting


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a run, checked; see each field's metadata for its meaning."""

    method: str = setting(
        "accumulator", "What is trained on the frozen backbone.", choices=("accumulator", "exits")
    )
    backbone: str = setting(
        "builtin", "`builtin`, a folder in Hugging Face's form, or a hub id of a ViT or DeiT."
    )
    image_size: int = setting(
        0, "Side of the input in pixels; 0 is the backbone's own.", minimum=0, maximum=4096
    )
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
        choices=("iid", "dirichlet", "pathological", "natural"),
    )
    alpha: float = setting(
        0.5,
        "Concentration of the Dirichlet partition; smaller is more uneven.",
        above=0,
        maximum=1e9,
    )
    classes_per_client: int = setting(
        2, "Classes of each client in the pathological partition.", minimum=1
    )
    test_share: float = setting(
        0.2, "Share of a client's data that is its own test part.", above=0, maximum=0.9
    )
    augment: str = setting(
        "none",
        "Train on images that are randomly shifted, or cropped and resized; where the label "
        "allows, also mirrored.",
        choices=("none", "shift", "crop"),
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
    num_clients: int = setting(20, "Clients of a simulation.", minimum=1, maximum=1_000_000)
    clients_per_round: int = setting(10, "Clients that train in a round.", minimum=1)
    rounds: int = setting(30, "Rounds of training.", minimum=1, maximum=1_000_000)
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
    weight_decay: float = setting(0.0, "Weight decay of the clients' optimiser.", minimum=0)
    clip_norm: float = setting(
        1.0, "Largest norm of a gradient; longer ones are scaled down. 0 is off.", minimum=0
    )
    exits: str = setting(
        "4", "A number of evenly spaced exits, or the blocks they follow, such as 3,6,9,12."
    )
    tiers: str = setting(
        "small depth=0.5 share=0.4; medium depth=0.75 share=0.3; large depth=1.0 share=0.3",
        "What devices can afford: `name depth=D [trained=T] share=S` or `clients=0,3,5-9` "
        "instead of the share, separated by semicolons. D counts blocks, or with a point is a "
        "fraction of the backbone; T, the trained ones of these from the last, likewise.",
    )
    adapter: str = setting(
        "none", "Adapter inside every block, beside the method.", choices=("none", "parallel")
    )
    adapter_rank: int = setting(32, "Width of the adapter's bottleneck.", minimum=1, maximum=4096)
    accumulator_sharing: str = setting(
        "shared",
        "One accumulator and head for all blocks, or each block its own.",
        choices=("shared", "per-block"),
    )
    accumulator_history: str = setting(
        "modulated",
        "Which class tokens of earlier blocks are attended to.",
        choices=("modulated", "raw"),
    )
    accumulator_size: str = setting(
        "bottleneck",
        "Attention 16 wide and MLP 1.35 D, or D and 4 D.",
        choices=("bottleneck", "full"),
    )
    accumulator_tap: str = setting(
        "block",
        "Where the class token is read and written: after the block or after its attention.",
        choices=("block", "attention"),
    )
    row_averaging: str = setting(
        "masked",
        "Average rows that belong to blocks over their owners only, or plainly over all holders.",
        choices=("masked", "plain"),
    )
    aggregation: str = setting(
        "mean",
        "What is made of the values that the clients send for a tensor; median and trimmed mean "
        "bound what a few wrong clients can do.",
        choices=("mean", "median", "trimmed-mean"),
    )
    trim_share: float = setting(
        0.1,
        "Share of the values that the trimmed mean drops at each end.",
        above=0,
        maximum=0.49,
    )
    clip_update: float = setting(
        0.0,
        "Largest L2 norm of a client's whole update; the server scales longer ones down. 0 is off.",
        minimum=0,
    )
    noise_multiplier: float = setting(
        0.0,
        "Standard deviation of the Gaussian noise on the sum of clipped updates, in units of "
        "`clip-update`. 0 is off.",
        minimum=0,
    )
    privacy_delta: float = setting(
        1e-5, "Delta at which epsilon is reported; well below 1 / clients.", above=0, maximum=0.1
    )
    wire_dtype: str = setting(
        "fp32",
        "How numbers travel, in both directions; int8 with error feedback on the clients.",
        choices=("fp32", "fp16", "bf16", "int8"),
    )
    min_replies: int = setting(
        1, "Valid replies below which a round leaves the bank unchanged.", minimum=1
    )
    round_timeout: float = setting(
        3600.0, "Seconds after which a round goes on with the replies that came.", minimum=1
    )
    personalise_epochs: int = setting(
        0,
        "Local epochs from the final bank on each client, after the last round, to compare before "
        "and after on its own test part; 0 is off.",
        minimum=0,
    )
    personal_dir: str = setting(
        "",
        "Folder in which each client saves its personalised adapters, on its own machine; empty "
        "saves none.",
    )
    evaluate_every: int = setting(
        5, "Rounds between evaluations; the last round always has one.", minimum=1
    )
    checkpoint_every: int = setting(1, "Rounds between checkpoints.", minimum=1)
    report: bool = setting(
        True, "Write `report.html` and its figures after the last round; they take some seconds."
    )
    tensorboard: bool = setting(
        False, "Write the rounds for TensorBoard, too; needs the extra `fedgraft[tensorboard]`."
    )
    client_cpus: int = setting(
        1,
        "CPU cores per client: threads in-process, resources of a Ray actor.",
        minimum=1,
        maximum=1024,
    )
    client_processes: int = setting(
        0,
        "Processes on Ray that run clients; 0 is as many as the cores hold at `client-cpus` each. "
        "With more, one trains while another waits for its next message; each takes memory.",
        minimum=0,
        maximum=1024,
    )
    client_gpus: float = setting(
        0.0,
        "Share of a GPU per client on Ray; 0 divides the GPUs among the client processes.",
        minimum=0,
    )
    device: str = setting(
        "auto", "Where models run: `cpu`, `cuda`, `cuda:1`, `mps`; `auto` is CUDA's GPU or the CPU."
    )
    precision: str = setting(
        "auto",
        "Of matrix products in training and evaluation; `auto` is bf16 on a GPU that has it, "
        "otherwise fp32. Adapters and the bank are fp32 in any case.",
        choices=("auto", "fp32", "bf16"),
    )
    cache_megabytes: int = setting(
        1000,
        "Memory per process for features that training does not change (frozen exits without "
        "random transforms); 0 computes them in every epoch.",
        minimum=0,
    )
    seed: int = setting(
        0,
        "Seed of partition, tiers, adapters, sampling and training.",
        minimum=0,
        maximum=2**32 - 1,
    )
    output_dir: str = setting("runs/latest", "Where the results go; made if it is missing.")
    resume: str = setting("", "Output folder of a run to continue from its last checkpoint.")

    def __post_init__(self) -> None:
        """Check every value, and those that depend on each other."""
        for spec in fields(self):
            check(spec.name.replace("_", "-"), getattr(self, spec.name), spec.metadata)
        if self.clients_per_round > self.num_clients:
            raise SettingsError(
                f"clients-per-round: {self.clients_per_round} is more than the num-clients of "
                f"{self.num_clients}; lower it, or raise num-clients."
            )

        if self.min_replies > self.clients_per_round:
            raise SettingsError(
                f"min-replies: {self.min_replies} can never come from the clients-per-round of "
                f"{self.clients_per_round}; lower it."
            )
        if self.noise_multiplier and not (self.clip_update and self.aggregation == "mean"):
            raise SettingsError(
                "noise-multiplier: noise needs a clip-update above 0 and aggregation=mean; set "
                "both, or leave noise-multiplier at 0."
            )

    def method_options(self) -> dict[str, Any]:
        """Return the settings named after the method, as its keyword arguments."""
        prefix = f"{self.method.replace('-', '_')}_"
        return {
            spec.name.removeprefix(prefix): getattr(self, spec.name)
            for spec in fields(self)
            if spec.name.startswith(prefix)
        }

    def to_dict(self) -> dict[str, Value]:
        """Return all settings by their kebab-case keys."""
        return {spec.name.replace("_", "-"): getattr(self, spec.name) for spec in fields(self)}

    def to_toml(self) -> str:
        """Write all settings as TOML, which `load_toml` reads back."""
        return "".join(f"{key} = {json.dumps(value)}\n" for key, value in self.to_dict().items())

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Settings:
        """Read kebab-case keys; text is converted to the setting's type.

        Raises
        ------
        SettingsError
            For an unknown key or a bad value.
        """
        types = {spec.name.replace("_", "-"): type(spec.default) for spec in fields(cls)}
        for key in values:
            if key not in types:
                near = difflib.get_close_matches(key, types, n=3, cutoff=0.5)
                hint = f"did you mean {' or '.join(near)}?" if near else "see docs/settings.md."
                raise SettingsError(f"'{key}' is no setting; {hint}")
        converted: dict[str, Any] = {
            key.replace("-", "_"): convert(key, value, types[key]) for key, value in values.items()
        }
        return cls(**converted)
