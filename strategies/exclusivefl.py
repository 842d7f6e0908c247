"""ExclusiveFL: only the clients that can run the whole model train it.

The baseline that inclusive methods are held against: every client of a shallower tier is left out
of the training, and is scored with what the others made of its blocks.
"""

from __future__ import annotations

from dataclasses import replace

from .plans import DepthPlanner, Plan


class ExclusivePlanner(DepthPlanner):
    """Plans by depth, where nodes are drawn of those tiers alone that reach the last exit of all.

    The plan of another tier says what it would train, which is what it personalises.
    """

    def __call__(self, tier: str, server_round: int, client: str = "") -> Plan:
        """Return the plan of a tier; it is the same in every round."""
        plan = super().__call__(tier, server_round)
        return replace(plan, drawn=plan.depth == max(self.ends.values()))
