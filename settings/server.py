"""Settings of the server: type, default, allowed values and meaning."""

from __future__ import annotations

from dataclasses import dataclass

from .checks import setting


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """How replies become the new bank, and how they travel."""

    row_averaging: str = setting(
        "masked",
        "Average rows that belong to blocks over their owners only, or plainly over all holders.",
        choices=("masked", "plain"),
    )
    rank_aggregation: str = setting(
        "truncate",
        "What is averaged of LoRA: the factors, element by element over the clients whose rank "
        "covers it, or the clients' products, of which the bank keeps the nearest of its rank.",
        choices=("truncate", "product"),
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
    server_optimizer: str = setting(
        "sgd",
        "How the bank moves towards the round's mean: by a learning rate (1 is plain averaging), "
        "with momentum, Adam or Yogi; `dyn` is FedDyn, with a part on the clients.",
        choices=("sgd", "momentum", "adam", "yogi", "dyn"),
    )
    server_learning_rate: float = setting(
        0.0,
        "Learning rate of the server optimiser; 0 is its usual one: 1 for sgd and momentum, 0.001 "
        "for adam and yogi. dyn has none.",
        minimum=0,
    )
    server_momentum: float = setting(
        0.9,
        "How much momentum, adam and yogi keep of earlier rounds' directions.",
        minimum=0,
        maximum=0.9999,
    )
    server_beta2: float = setting(
        0.999,
        "How much adam and yogi keep of earlier rounds' squared steps.",
        minimum=0,
        maximum=0.999999,
    )
    server_tau: float = setting(
        1e-6, "Of adam and yogi: what is added to the root of the squared steps.", above=0
    )
    dyn_alpha: float = setting(
        0.1, "How strongly FedDyn holds clients back to the bank they got.", above=0
    )
    inclusivefl_beta: float = setting(
        0.2,
        "Share of the momentum of the tier above in a tier's step on its last block; 0 is off.",
        minimum=0,
        maximum=1,
    )
    activation: str = setting(
        "linear",
        "With `mofm`: how blocks of the global expert become active: linearly over the rounds, "
        "whenever the clients' validation accuracy has come to rest, or all from the start. A "
        "tier's trained blocks are its most.",
        choices=("linear", "plateau", "all"),
    )
    activation_start: int = setting(2, "Active blocks at the start.", minimum=1)
    activation_ramp: float = setting(
        0.6,
        "Share of the rounds of stage 1 after which linear activation has reached all blocks.",
        minimum=0,
        maximum=1,
    )
    activation_order: str = setting(
        "top-down",
        "Which blocks become active first: the last, so that less is computed and kept in memory, "
        "or the first, for comparison.",
        choices=("top-down", "bottom-up"),
    )
    activation_step: int = setting(1, "Blocks that a plateau makes active.", minimum=1)
    activation_patience: int = setting(
        5, "Rounds without a better accuracy that are a plateau.", minimum=1
    )
    activation_threshold: float = setting(
        0.002, "By how much an accuracy must be better to count.", minimum=0, maximum=1
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
    hyper_attention_rate: float = setting(
        0.1, "Learning rate of the hypernetwork on the server.", above=0
    )
    hyper_attention_momentum: float = setting(
        0.9, "Momentum of the hypernetwork's SGD.", minimum=0, maximum=0.999
    )
    hyper_attention_row_rate: float = setting(
        0.1, "Learning rate of the clients' embeddings: plain steps.", above=0
    )
    hyper_attention_embedding: int = setting(
        64, "Width of a client's embedding.", minimum=1, maximum=4096
    )
    hyper_attention_hidden: int = setting(
        128, "Width of the hypernetwork's layers.", minimum=1, maximum=4096
    )
    hyper_attention_layers: int = setting(
        1, "Hidden layers beyond the first linear one.", minimum=0, maximum=16
    )
    hyper_attention_shared_head: bool = setting(
        True, "One head for all blocks and slots; false is a head per block, as published."
    )
    hyper_attention_zero_start: bool = setting(
        True, "Heads start at zero, so that round 1 begins with the pretrained model."
    )
    hyper_attention_clip_delta: float = setting(
        0.0, "Largest L2 norm of a client's change of its personal tensors; 0 is off.", minimum=0
    )
    hyper_attention_share_cap: float = setting(
        1.0, "Largest share of one client in a step of the hypernetwork.", above=0, maximum=1
    )
    hyper_attention_max_parameters: int = setting(
        50_000_000,
        "Size above which a hypernetwork is refused; whole projections need hundreds of millions.",
        minimum=1,
    )
