"""Settings of the run: type, default, allowed values and meaning."""

from __future__ import annotations

from dataclasses import dataclass

from .checks import setting


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Evaluation, output, and the machine."""

    state_dir: str = setting(
        "",
        "Folder in which each client keeps what is its own between rounds, on its own machine, so "
        "that it survives a restart; empty keeps it in Flower's state, which ends with the run.",
    )
    evaluate_every: int = setting(
        5, "Rounds between evaluations; the last round always has one.", minimum=1
    )
    downstream_images: int = setting(
        5000,
        "With `simclr`: how many labelled images of its training set the server fits classifiers "
        "on; 0 is all.",
        minimum=0,
    )
    downstream_epochs: int = setting(
        10,
        "With `simclr`: epochs of fine-tuning the whole model on these, after the last round; 0 is "
        "off.",
        minimum=0,
    )
    downstream_rate: float = setting(
        0.0, "Learning rate of these epochs; 0 is `learning-rate`.", minimum=0
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
        "Room per process, for all its models together, for features that training does not "
        "change (what enters the lowest trained block, or the heads, without random transforms); 0 "
        "computes them in every epoch.",
        minimum=0,
    )
    cache_place: str = setting(
        "memory",
        "Where the tokens that enter the lowest trained block are kept: the memory of `device`, or "
        "a file in the machine's temporary folder (TMPDIR).",
        choices=("memory", "disk"),
    )
    cache_dtype: str = setting(
        "fp32",
        "Form in which these tokens are kept; fp16 takes half the room and rounds them.",
        choices=("fp32", "fp16"),
    )
    seed: int = setting(
        0,
        "Seed of partition, tiers, adapters, sampling and training.",
        minimum=0,
        maximum=2**32 - 1,
    )
    output_dir: str = setting("runs/latest", "Where the results go; made if it is missing.")
    resume: str = setting("", "Output folder of a run to continue from its last checkpoint.")
