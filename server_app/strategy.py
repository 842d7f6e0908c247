"""From settings to a strategy: which planner and which server step a method has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from models import AdapterModel
from settings import Settings, SettingsError
from strategies import (
    AdapterFedAvg,
    Aggregation,
    CutPlanner,
    DepthPlanner,
    ExclusivePlanner,
    InclusiveFL,
    InclusivePlanner,
    Planner,
    ServerAdam,
    ServerDyn,
    ServerMomentum,
    ServerOptimizer,
    ServerSgd,
    ServerYogi,
    Tier,
)
from wiring import get_layout, get_layouts, get_tiers

RESERVED_TIERS = ("mean", "worst-decile")
# Methods that are not here need no more than these.
STRATEGIES: dict[str, Callable[..., AdapterFedAvg]] = {"inclusivefl": InclusiveFL}
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
    make_planner = PLANNERS.get(settings.method, DepthPlanner)
    planner = make_planner(tiers, get_layout(model).units, model.exits)
    if layouts := get_layouts(settings, model):
        planner = CutPlanner(planner, layouts)
    return STRATEGIES.get(settings.method, AdapterFedAvg)(
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
        wire_dtype=settings.wire_dtype,
        seed=settings.seed,
        **settings.server_options(),
    )


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
            return ServerDyn()
    adaptive = ServerYogi if settings.server_optimizer == "yogi" else ServerAdam
    return adaptive(
        **rate,
        momentum=settings.server_momentum,
        beta2=settings.server_beta2,
        tau=settings.server_tau,
    )
