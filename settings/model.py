"""Settings of the model: type, default, allowed values and meaning."""

from __future__ import annotations

from dataclasses import dataclass

from .checks import setting


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Method, backbone, exits, tiers and adapters."""

    method: str = setting(
        "accumulator",
        "What is trained on the frozen backbone.",
        choices=(
            "accumulator",
            "depthfl",
            "exclusivefl",
            "exits",
            "hyper-attention",
            "inclusivefl",
            "layerwise",
            "local-attention",
            "mofm",
            "reefl",
            "scalefl",
            "shared-attention",
        ),
    )
    backbone: str = setting(
        "builtin", "`builtin`, a folder in Hugging Face's form, or a hub id of a ViT or DeiT."
    )
    image_size: int = setting(
        0, "Side of the input in pixels; 0 is the backbone's own.", minimum=0, maximum=4096
    )
    backbone_start: str = setting(
        "pretrained",
        "Weights of the backbone: those of its files, or drawn from the seed, the same on every "
        "machine; for training from scratch, with `adapter=full`.",
        choices=("pretrained", "random"),
    )
    exits: str = setting(
        "4", "A number of evenly spaced exits, or the blocks they follow, such as 3,6,9,12."
    )
    tiers: str = setting(
        "small depth=0.5 share=0.4; medium depth=0.75 share=0.3; large depth=1.0 share=0.3",
        "What devices can afford: `name depth=D [trained=T] [rank=R] share=S` or "
        "`clients=0,3,5-9` instead of the share, separated by semicolons. D counts blocks, or with "
        "a point is a fraction of the backbone; T, the trained ones from the tier's last exit "
        "down, likewise of D; R is the tier's own `adapter-rank`.",
    )
    adapter: str = setting(
        "none",
        "What is trained inside the backbone, beside the method.",
        choices=("none", "lora", "parallel", "serial", "ssf", "full"),
    )
    adapter_rank: int = setting(
        32, "Rank of LoRA, or width of the adapter's bottleneck.", minimum=1, maximum=4096
    )
    adapter_alpha: float = setting(
        64.0, "Scale of LoRA: its product is multiplied by alpha / adapter-rank.", above=0
    )
    adapter_targets: str = setting(
        "",
        "Where in a block: with `lora` some of q, k, v, o, fc1, fc2, else q,v; with `parallel` and "
        "`serial` attention or mlp, else both.",
    )
    layer_order: str = setting(
        "top-down",
        "With `layerwise`: from the last blocks to the first, with the heads of the exits above "
        "them; from the first to the last; or this with nothing frozen again (`progressive`).",
        choices=("top-down", "bottom-up", "progressive"),
    )
    window: int = setting(
        1,
        "With `layerwise`: adjacent blocks that a phase trains; all of them are one phase.",
        minimum=1,
        maximum=1000,
    )
    depth_budget: int = setting(
        0,
        "With `layerwise`: most blocks of a client's training pass; others are drawn to be left "
        "out, but for the first, those that are trained and the last. 0 leaves out none.",
        minimum=0,
    )
    reefl_history: str = setting(
        "modulated",
        "Which class tokens of earlier blocks are attended to; `modulated` is what the published "
        "code does.",
        choices=("modulated", "raw"),
    )
    reefl_start: str = setting(
        "published",
        "Start of the recurrent module: random, as published, or at zero, so that the first pass "
        "is the pretrained one.",
        choices=("published", "zero"),
    )
    reefl_teacher: str = setting(
        "best",
        "Which exit teaches the others: the client's best, the deepest, all each other, or none.",
        choices=("best", "forward", "all", "none"),
    )
    reefl_ramp_rounds: int = setting(
        300, "Rounds until distillation has its full weight; 0 is from the start.", minimum=0
    )
    depthfl_ramp_rounds: int = setting(
        300, "Rounds until distillation has its full weight; 0 is from the start.", minimum=0
    )
    scalefl_widths: str = setting(
        "",
        "Width of the sub-model of each exit as ascending shares of the backbone's, such as "
        "0.4,0.55,0.75,1; empty: the published ones for 4 and 12 exits, else evenly from 0.4 to 1.",
    )
    scalefl_distillation: float = setting(
        0.05, "Weight of what the earlier exits learn from a sub-model's last one.", minimum=0
    )
    scalefl_temperature: float = setting(
        3.0, "Temperature of this distillation.", above=0, maximum=1000
    )
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
    personal_heads: bool = setting(
        False, "With a method of attention: each client keeps its own heads (FedTP-Per)."
    )
    attention_form: str = setting(
        "factors",
        "Personal attention: low-rank factors beside the projections, or whole projections, as "
        "published.",
        choices=("factors", "projections"),
    )
    attention_rank: int = setting(
        4, "Rank of the factors of personal attention.", minimum=1, maximum=4096
    )
    attention_alpha: float = setting(
        8.0, "Scale of these factors: alpha / rank times their product.", above=0
    )
    attention_factor_seed: int = setting(
        0,
        "Seed of the fixed factors, which never travel.",
        minimum=0,
        maximum=2**32 - 1,
    )
    mofm_rank: int = setting(
        8,
        "Rank of the LoRA that makes an expert of `mofm`; with another `adapter` than none, that "
        "takes its place.",
        minimum=1,
        maximum=4096,
    )
    mofm_alpha: float = setting(
        16.0, "Scale of this LoRA: alpha / rank times its product.", above=0
    )
    mofm_factors: str = setting(
        "B",
        "What the global expert trains and sends of it: B alone (FFA-LoRA), with A fixed, or both.",
        choices=("B", "both"),
    )
    mofm_factor_seed: int = setting(
        0, "Seed of the fixed factors A, which never travel.", minimum=0, maximum=2**32 - 1
    )
    mofm_gate: str = setting(
        "adapter",
        "How the experts are weighed: by an averaged gate adapter; by one that each client keeps "
        "to itself; by one number per client; half and half; or the local expert alone.",
        choices=("adapter", "private", "scalar", "half", "local"),
    )
    mofm_gate_width: int = setting(
        32, "Width of the gate adapter's bottleneck.", minimum=1, maximum=4096
    )
    mofm_temperature: float = setting(
        1.0, "Temperature of the gate's softmax.", above=0, maximum=1000
    )
    mofm_local_weight: float = setting(
        0.5, "Weight of the local expert's own loss beside that of the mixture.", minimum=0
    )
    mofm_proximal: float = setting(
        0.0, "How strongly the local expert is pulled to the global one, as in Ditto.", minimum=0
    )
