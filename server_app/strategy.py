"""From settings to a strategy: which planner and which server step a method has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from logging import WARNING
from typing import Any

import torch
from flwr.common import log

from models import PERSONAL, AdapterModel, Hypernetwork, HypernetworkTrainer
from settings import Settings, SettingsError
from strategies import (
    Activation,
    AdapterFedAvg,
    Aggregation,
    CutPlanner,
    DepthPlanner,
    ExclusivePlanner,
    HyperAttention,
    InclusiveFL,
    InclusivePlanner,
    KeepingPlanner,
    LayerwiseFedAvg,
    LayerwiseSchedule,
    LinearActivation,
    Planner,
    PlateauActivation,
    ServerAdam,
    ServerDyn,
    ServerMomentum,
    ServerOptimizer,
    ServerSgd,
    ServerYogi,
    StagePlanner,
    Tier,
    TwoStage,
)
from wiring import get_layout, get_layouts, get_tiers, kept_prefixes

RESERVED_TIERS = ("mean", "worst-decile")
# Methods that are not here need no more than these.
STRATEGIES: dict[str, Callable[..., AdapterFedAvg]] = {
    "hyper-attention": HyperAttention,
    "inclusivefl": InclusiveFL,
    "layerwise": LayerwiseFedAvg,
    "mofm": TwoStage,
}
PLANNERS: dict[str, Callable[[Sequence[Tier], Iterable[str], Sequence[int]], Planner]] = {
    "exclusivefl": ExclusivePlanner,
    "inclusivefl": InclusivePlanner,
}

# Methods that average without weights, as published.
UNWEIGHTED = ("scalefl",)


def make_strategy(settings: Settings, model: AdapterModel) -> AdapterFedAvg:
    """Build the strategy of the settings."""
    tiers = get_tiers(settings)
    for tier in tiers:
        if tier.name in RESERVED_TIERS:
            raise SettingsError(
                f"tiers: '{tier.name}' is a field of summary.json; give the tier another name."
            )
    options = method_options(settings, model)
    planner = make_planner(settings, tiers, model)
    if isinstance(planner, LayerwiseSchedule | StagePlanner):
        options["schedule"] = planner
    if layouts := get_layouts(settings, model):
        planner = CutPlanner(planner, layouts)
    if prefixes := kept_prefixes(settings):
        planner = KeepingPlanner(planner, prefixes)
    return STRATEGIES.get(settings.method, AdapterFedAvg)(
        # What clients score is a classifier, and without labels there is none.
        fraction_evaluate=1.0 if settings.objective == "supervised" else 0.0,
        min_train_nodes=1,
        min_evaluate_nodes=1,
        min_available_nodes=settings.clients_per_round,
        planner=planner,
        row_keys=model.row_keys if settings.row_averaging == "masked" else (),
        train_nodes=settings.clients_per_round,
        min_replies=settings.min_replies,
        evaluate_every=settings.evaluate_every,
        aggregation=Aggregation(
            settings.aggregation,
            settings.trim_share,
            settings.clip_update,
            settings.noise_multiplier,
            weighted=settings.server_optimizer != "dyn" and settings.method not in UNWEIGHTED,
            factors=lora_factors(model) if settings.rank_aggregation == "product" else (),
        ),
        server_optimizer=make_server_optimizer(settings),
        personalise=settings.personalise_epochs > 0,
        held_out=held_out_clients(settings),
        held_out_rounds=held_out_rounds(settings),
        wire_dtype=settings.wire_dtype,
        seed=settings.seed,
        **options,
    )


def make_planner(settings: Settings, tiers: Sequence[Tier], model: AdapterModel) -> Planner:
    """Build the planner of the method."""
    units = get_layout(model).units
    if settings.method == "mofm":
        return StagePlanner(
            DepthPlanner(tiers, units, model.exits),
            make_activation(settings, model.exits[-1]),
            settings.stage_one,
            top_down=settings.activation_order == "top-down",
        )
    if settings.method != "layerwise":
        return PLANNERS.get(settings.method, DepthPlanner)(tiers, units, model.exits)
    return LayerwiseSchedule(
        tiers,
        units,
        model.exits,
        rounds=settings.rounds,
        order=settings.layer_order,
        window=settings.window,
        budget=settings.depth_budget,
        seed=settings.seed,
    )


def held_out_clients(settings: Settings) -> list[str]:
    """Read the setting `held-out-clients`: client keys, and ranges of partition ids.

    Raises
    ------
    SettingsError
        When too few clients are left.
    """
    keys: list[str] = []
    for part in filter(None, (part.strip() for part in settings.held_out_clients.split(","))):
        first, dash, last = part.partition("-")
        if not (dash and first.isdecimal() and last.isdecimal()):
            keys.append(part)
        elif int(first) <= int(last) < settings.num_clients:
            keys += map(str, range(int(first), int(last) + 1))
        else:
            raise SettingsError(
                f"held-out-clients: '{part}' is no range of the {settings.num_clients} clients, "
                "which count from 0; give one such as 0-3."
            )
    keys = list(dict.fromkeys(keys))
    if len(keys) > settings.num_clients - settings.clients_per_round:
        raise SettingsError(
            f"held-out-clients: without these {len(keys)} of {settings.num_clients} clients there "
            f"are fewer than the clients-per-round of {settings.clients_per_round}; hold out fewer."
        )
    return keys


def held_out_rounds(settings: Settings) -> list[int]:
    """Read the setting `held-out-rounds`; methods that cannot learn about a client have round 0."""
    if settings.method != "hyper-attention":
        return [0]
    parts = [part.strip() for part in settings.held_out_rounds.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise SettingsError(
            f"held-out-rounds: '{settings.held_out_rounds}' is no list of numbers of rounds; give "
            "one such as 0,10,50."
        )
    return sorted({int(part) for part in parts})


def method_options(settings: Settings, model: AdapterModel) -> dict[str, Any]:
    """Return what the method's own strategy takes beside the options of all."""
    options = settings.server_options()
    if settings.method != "hyper-attention":
        return options
    if settings.identity == "node":
        log(
            WARNING,
            "identity=node: a client that restarts has another node id, and so loses its "
            "embedding; give the nodes a client-key.",
        )
    return {
        "generator": make_hypernetwork(settings, model),
        **{name: options[name] for name in ("row_rate", "clip_delta", "share_cap")},
    }


def make_activation(settings: Settings, blocks: int) -> Activation:
    """Build the schedule by which the model's blocks become active."""
    if settings.activation == "plateau":
        return PlateauActivation(
            settings.activation_start,
            blocks,
            step=settings.activation_step,
            patience=settings.activation_patience,
            threshold=settings.activation_threshold,
        )
    start = blocks if settings.activation == "all" else settings.activation_start
    return LinearActivation(start, blocks, settings.activation_ramp * settings.stage_one)


def make_hypernetwork(settings: Settings, model: AdapterModel) -> HypernetworkTrainer:
    """Build the hypernetwork of the settings, and its optimiser.

    Raises
    ------
    SettingsError
        When it would be larger than allowed.
    """
    options = settings.server_options()
    shapes = {
        key.split(".")[0]: tuple(parameter.shape)
        for key, parameter in model.adapter_parameters().items()
        if key.startswith(PERSONAL)
    }
    form = ("embedding", "hidden", "layers", "shared_head", "zero_start")

    def build() -> Hypernetwork:
        return Hypernetwork(shapes, **{name: options[name] for name in form})

    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in build().parameters())
    if size > options["max_parameters"]:
        raise SettingsError(
            f"hyper-attention-max-parameters: the hypernetwork has {size:,} parameters, and as "
            f"many momenta and gradients; {options['max_parameters']:,} are allowed. Raise it, or "
            "take a shared head, a smaller rank or attention-form=factors."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = build()
    return HypernetworkTrainer(network, rate=options["rate"], momentum=options["momentum"])


def lora_factors(model: AdapterModel) -> tuple[tuple[str, str], ...]:
    """Return the keys of both LoRA factors of each matrix, A and B."""
    names = [key.removesuffix(".A") for key in model.adapter_parameters() if key.endswith(".A")]
    return tuple((f"{name}.A", f"{name}.B") for name in names)


def make_server_optimizer(settings: Settings) -> ServerOptimizer:
    """Build the server optimiser of the settings, with an empty memory."""
    usual = not settings.server_learning_rate
    rate = {} if usual else {"rate": settings.server_learning_rate}
    match settings.server_optimizer:
        case "sgd":
            return ServerSgd(**rate)
        case "momentum":
            return ServerMomentum(**rate, momentum=settings.server_momentum)
        case "dyn":
            return ServerDyn(lasting=bool(settings.state_dir))
    adaptive = ServerYogi if settings.server_optimizer == "yogi" else ServerAdam
    return adaptive(
        **rate,
        momentum=settings.server_momentum,
        beta2=settings.server_beta2,
        tau=settings.server_tau,
    )
