"""Settings of the model: type, default, allowed values and meaning."""

from __future__ import annotations

from dataclasses import dataclass

from .checks import setting


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Method, backbone, exits, tiers and adapters."""

    method: str = setting(
        "accumulator", "What is trained on the frozen backbone.", choices=("accumulator", "exits")
    )
    backbone: str = setting(
        "builtin", "`builtin`, a folder in Hugging Face's form, or a hub id of a ViT or DeiT."
    )
    image_size: int = setting(
        0, "Side of the input in pixels; 0 is the backbone's own.", minimum=0, maximum=4096
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
