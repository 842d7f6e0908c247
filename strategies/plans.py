"""What a tier becomes for a method and a round: its plan."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from .errors import StrategyError
from .tiers import Tier
from .wire import Layout

SHARED = "shared"


@dataclass(frozen=True)
class Plan:
    """A tier made concrete: what runs, what is trained and travels, what is only read.

    Attributes
    ----------
    depth : int
        Blocks that run: all up to the last exit that the tier's device reaches.
    trained : tuple[str, ...]
        Units that are trained; they travel both ways.
    frozen : tuple[str, ...]
        Units the forward pass needs as well; they travel to the client only.
    layout : Layout | None
        Of the tier's own model, where it holds the leading parts of the bank's tensors alone;
        None where it holds them whole.
    drawn : bool
        Whether nodes of the tier are asked to train in the round. Others are scored all the same,
        and may train for themselves.
    kept : tuple[str, ...]
        Units that the client trains as well, and keeps: they do not travel.
    lasting : tuple[str, ...]
        Those of `frozen` that will not change any more: a client gets them once, and keeps them.
    skipped : tuple[int, ...]
        Blocks within the depth that do not run in the training.
    """

    depth: int
    trained: tuple[str, ...]
    frozen: tuple[str, ...] = ()
    layout: Layout | None = None
    drawn: bool = True
    kept: tuple[str, ...] = ()
    lasting: tuple[str, ...] = ()
    skipped: tuple[int, ...] = ()

    @property
    def units(self) -> tuple[str, ...]:
        """All units of the plan: what an evaluation needs."""
        return self.trained + self.frozen


def travelling(plan: Plan | None, bank: Layout) -> Layout:
    """Return the layout in which the units of a plan travel; without one, that of the bank."""
    return bank if plan is None or plan.layout is None else plan.layout


class Planner(Protocol):
    """How a method turns a tier and a round into a plan."""

    def __call__(self, tier: str, server_round: int, client: str = "") -> Plan:
        """Return the plan of a tier (by name) for a round (from 1).

        Plans may differ between the clients of a tier; without a client's key it is the plan of
        one that is nothing special.
        """


class DepthPlanner:
    """Plans by depth: a tier trains the shared unit and its last `trained` blocks.

    Parameters
    ----------
    tiers : Sequence[Tier]
    units : Iterable[str]
        All units of the bank, in order (``shared``, ``block1``, ...).
    exits : Sequence[int], optional
        Blocks after which there is a prediction; without any, all are. A plan ends at the last one
        within the tier's depth, as nothing above it would get a gradient.

    Attributes
    ----------
    ends : dict[str, int]
        By tier, the block at which its plan ends.

    Raises
    ------
    StrategyError
        When a tier reaches no exit, or would train nothing.
    """

    def __init__(
        self, tiers: Sequence[Tier], units: Iterable[str], exits: Sequence[int] = ()
    ) -> None:
        self.tiers = {tier.name: tier for tier in tiers}
        self.units = tuple(units)
        self.ends: dict[str, int] = {}
        for tier in tiers:
            reached = [block for block in exits or [tier.depth] if block <= tier.depth]
            if not reached:
                raise StrategyError(
                    f"tiers: '{tier.name}' reaches no exit, as the first is after block "
                    f"{min(exits)}; make the tier deeper, or add an exit."
                )
            self.ends[tier.name] = max(reached)
            if not self(tier.name, 1).trained:
                raise StrategyError(
                    f"tiers: '{tier.name}' trains nothing (its last {tier.trained} of "
                    f"{self.ends[tier.name]} blocks hold no adapter); give it more trained "
                    "blocks, or an exit."
                )

    def __call__(self, tier: str, server_round: int, client: str = "") -> Plan:
        """Return the plan of a tier; it is the same in every round."""
        if tier not in self.tiers:
            raise StrategyError(
                f"a node calls itself '{tier}', which is no tier; the tiers are "
                f"{', '.join(self.tiers)}. Set tier in its --node-config to one of these."
            )
        end = self.ends[tier]
        reached = [unit for unit in self.units if block_number(unit) <= end]
        lowest = end - self.tiers[tier].trained
        # Who trains all its blocks trains what is below them, too.
        trained = [u for u in reached if u == SHARED or lowest <= 0 or block_number(u) > lowest]
        return Plan(end, tuple(trained), tuple(u for u in reached if u not in trained))


class CutPlanner:
    """Another planner's plans for tiers whose own models hold parts of the bank's tensors.

    Parameters
    ----------
    planner : Planner
    layouts : Mapping[str, Layout]
        Layout of the tier's own model by name, for the tiers that have one.
    """

    def __init__(self, planner: Planner, layouts: Mapping[str, Layout]) -> None:
        self.planner = planner
        self.layouts = layouts

    def __call__(self, tier: str, server_round: int, client: str = "") -> Plan:
        """Return the plan of a tier for a round; see `Planner`."""
        return replace(self.planner(tier, server_round, client), layout=self.layouts.get(tier))


class KeepingPlanner:
    """Another planner's plans, with some of the units left to the clients.

    Parameters
    ----------
    planner : Planner
    prefixes : tuple[str, ...]
        How the names of units begin that do not travel.
    """

    def __init__(self, planner: Planner, prefixes: tuple[str, ...]) -> None:
        self.planner = planner
        self.prefixes = prefixes

    def __call__(self, tier: str, server_round: int, client: str = "") -> Plan:
        """Return the plan of a tier for a round; see `Planner`."""
        plan = self.planner(tier, server_round, client)
        return replace(
            plan,
            trained=tuple(unit for unit in plan.trained if not unit.startswith(self.prefixes)),
            frozen=tuple(unit for unit in plan.frozen if not unit.startswith(self.prefixes)),
            kept=tuple(unit for unit in plan.trained if unit.startswith(self.prefixes)),
            lasting=tuple(unit for unit in plan.lasting if not unit.startswith(self.prefixes)),
        )


def block_number(unit: str) -> int:
    """Return b for ``block<b>``, ``personal<b>`` and their like, and 0 for what no block owns."""
    found = re.search(r"\d+$", unit)
    return int(found.group()) if found else 0
