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
