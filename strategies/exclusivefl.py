"""ExclusiveFL: only the clients that can run the whole model train it.

The baseline that inclusive methods are held against: every client of a shallower tier is left out
of the training, and is scored with what the others made of its blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from .plans import DepthPlanner, Plan, Tier


class ExclusivePlanner:
    """Plans by depth, where all but the deepest tiers train nothing.

    Parameters
    ----------
    tiers : Sequence[Tier]
    units : Iterable[str]
        All units of the bank, in order.

    Raises
    ------
    StrategyError
        When a tier could train nothing even if it were asked to.
    """

    def __init__(self, tiers: Sequence[Tier], units: Iterable[str]) -> None:
        self.by_depth = DepthPlanner(tiers, units)
        self.deepest = max(tier.depth for tier in tiers)

    def __call__(self, tier: str, server_round: int) -> Plan:
        """Return the plan of a tier; it is the same in every round."""
        plan = self.by_depth(tier, server_round)
        if plan.depth == self.deepest:
            return plan
        return replace(plan, trained=(), frozen=plan.units)
