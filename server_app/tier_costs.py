"""What each tier of a run costs: memory of its training, bytes of a round, operations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from client_app.feature_cache import EVALUATION_BATCH
from models import (
    LOCAL,
    AdapterModel,
    MemoryEstimate,
    MofmModel,
    evaluation_bytes,
    predict_step,
)
from settings import Settings
from strategies import BYTES_PER_NUMBER, Layout, Plan, Planner
from wiring import Cut, get_cut, get_layout, get_tiers, make_model


@dataclass(frozen=True)
class TierCost:
    """What a tier costs; where rounds differ, each figure is that of its dearest round.

    Attributes
    ----------
    plan : Plan
        Of the round whose training takes most memory.
    longest : Plan
        Of the round whose training takes most operations.
    memory : MemoryEstimate
    evaluation : int
        Bytes that scoring takes at most.
    up, down : int
        Bytes of the tensors of a round, without names and metadata; a node that keeps finished
        units gets fewer.
    trained : int
        Trained numbers.
    """

    plan: Plan
    longest: Plan
    memory: MemoryEstimate
    evaluation: int
    up: int
    down: int
    trained: int

    @property
    def peak(self) -> int:
        """The most memory that training or scoring takes."""
        return max(self.memory.total, self.evaluation)


def tier_costs(settings: Settings, model: AdapterModel, planner: Planner) -> dict[str, TierCost]:
    """Predict the costs of every tier; `model` is the bank's, and stays as it is."""
    return {
        tier.name: _cost(
            settings,
            get_layout(model),
            tier_model(settings, model, tier.name),
            _plans(settings, planner, tier.name),
        )
        for tier in get_tiers(settings)
    }


def tier_model(settings: Settings, model: AdapterModel, tier: str) -> AdapterModel:
    """Return the model of a tier: the bank's, or one of its own."""
    cut = get_cut(settings, tier)
    if cut == Cut(settings.adapter_rank):
        return model
    return make_model(settings, model.num_classes, cut)


def _plans(settings: Settings, planner: Planner, tier: str) -> list[Plan]:
    """Return a tier's different plans; blocks that a budget skips hold no memory beside weights."""
    plans = (planner(tier, number) for number in range(1, settings.rounds + 1))
    return list({(plan.depth, plan.trained, plan.kept): plan for plan in plans}.values())


def _cost(settings: Settings, bank: Layout, model: AdapterModel, plans: list[Plan]) -> TierCost:
    layout, width = plans[0].layout or bank, BYTES_PER_NUMBER[settings.wire_dtype]

    def numbers(*units: str) -> int:
        return sum(map(layout.size, units))

    def reach(plan: Plan) -> tuple[int, int, bool]:
        units = (*plan.trained, *plan.kept)
        # Who trains a local expert runs the global one, too.
        has_two = any(unit.startswith(LOCAL) for unit in units)
        return plan.depth, -model.lowest_block(units), has_two

    memories = [_memory(settings, model, plan) for plan in plans]
    most = max(range(len(plans)), key=lambda i: memories[i].total)
    asked = [plan for plan in plans if plan.drawn]
    return TierCost(
        plans[most],
        max(plans, key=reach),
        memories[most],
        evaluation_bytes(model, EVALUATION_BATCH),
        up=width * max((numbers(*p.trained) for p in asked), default=0),
        down=width * max((numbers(*p.trained, *p.frozen) for p in asked), default=0),
        trained=max((numbers(*p.trained, *p.kept) for p in asked), default=0),
    )


def _memory(settings: Settings, model: AdapterModel, plan: Plan) -> MemoryEstimate:
    units = [*plan.trained, *plan.kept]
    with as_planned(model, plan):
        return predict_step(
            model, units, settings.batch_size, plan.depth, optimizer=settings.optimizer
        )


@contextmanager
def as_planned(model: AdapterModel, plan: Plan) -> Iterator[None]:
    """Let a model be, for a while, what it is in the training of a client with this plan."""
    there = {*plan.trained, *plan.frozen, *plan.kept}
    planned: dict[str, Any] = {"missing": frozenset(model.units) - there}
    if isinstance(model, MofmModel):
        planned["mixing"] = any(unit.startswith(LOCAL) for unit in there)
    before = {name: getattr(model, name) for name in planned}
    try:
        for name, value in planned.items():
            setattr(model, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(model, name, value)
