"""From settings to a strategy: which planner and which server step a method has."""

from __future__ import annotations

from models import AdapterModel
from settings import Settings, SettingsError
from strategies import AdapterFedAvg, Aggregation, DepthPlanner
from wiring import get_layout, get_tiers

RESERVED_TIERS = ("mean", "worst-decile")
# Methods that are not here need no more than these.
STRATEGIES: dict[str, type[AdapterFedAvg]] = {}
PLANNERS: dict[str, type[DepthPlanner]] = {}


def make_strategy(settings: Settings, model: AdapterModel) -> AdapterFedAvg:
    """Build the strategy of the settings."""
    tiers = get_tiers(settings)
    for tier in tiers:
        if tier.name in RESERVED_TIERS:
            raise SettingsError(
                f"tiers: '{tier.name}' is a field of summary.json; give the tier another name."
            )
        model.reach(tier.depth)
    make_planner = PLANNERS.get(settings.method, DepthPlanner)
    return STRATEGIES.get(settings.method, AdapterFedAvg)(
        min_train_nodes=1,
        min_evaluate_nodes=1,
        min_available_nodes=settings.clients_per_round,
        planner=make_planner(tiers, get_layout(model).units),
        row_keys=model.row_keys if settings.row_averaging == "masked" else (),
        train_nodes=settings.clients_per_round,
        min_replies=settings.min_replies,
        evaluate_every=settings.evaluate_every,
        aggregation=Aggregation(
            settings.aggregation,
            settings.trim_share,
            settings.clip_update,
            settings.noise_multiplier,
        ),
        personalise=settings.personalise_epochs > 0,
        wire_dtype=settings.wire_dtype,
        seed=settings.seed,
    )
