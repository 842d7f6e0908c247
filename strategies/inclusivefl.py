"""`InclusiveFL`: tiers with an exit each, which share lower blocks and learn from deeper ones.

Source: R. Liu et al., *No One Left Behind: Inclusive Federated Learning over Heterogeneous
Devices*, KDD 2022, in the form of ReeFL's code (arXiv 2405.14791). A tier e is all the clients that
end at one exit. Of its units it has one to itself: the head and what is trained in its last block
(``exit<b>``; for the deepest tier the last block itself). In a round::

    mean_e    the mean within the tier;  g_e = theta - mean_e
    g_e  <-   beta mu_{e+1} + (1 - beta) g_e            on the tier's own block, not on its head
    mu_e <-   mean of g_e over the blocks above exit e - 1, up to the tier's own
    theta_e   theta - g_e, or the step of a server optimiser of the tier
    theta <-  mean of theta_e over the tiers, weighted by their numbers of clients

``mu`` is that of the round before. Elements for which there is none (the deeper tier was not drawn,
or does not hold them) keep their gradient as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .adapter_fedavg import AdapterFedAvg
from .aggregation import Aggregator, HolderMean, Holders
from .errors import StrategyError
from .optimizers import ServerDyn, ServerOptimizer
from .plans import SHARED, DepthPlanner, Plan
from .tiers import Tier
from .wire import Vectors, first_part

EXIT, BLOCK, HEAD = "exit", "block", "head"
MOMENTUM, OPTIMIZER = "momentum", "optimizer"


def _number(unit: str, prefix: str) -> int:
    """Return b for ``<prefix><b>``, and 0 for other units."""
    return int(unit.removeprefix(prefix)) if unit.startswith(prefix) else 0


def tier_ends(units: Iterable[str]) -> dict[int, str]:
    """Return the unit that each tier has to itself, by the block after which the tier ends."""
    last = max(units, key=lambda unit: _number(unit, BLOCK))
    own = {_number(unit, EXIT): unit for unit in units if unit.startswith(EXIT)}
    return {**dict(sorted(own.items())), _number(last, BLOCK): last}


class InclusivePlanner(DepthPlanner):
    """Plans as `DepthPlanner` does, with the tier's own version of the block at which it ends.

    Raises
    ------
    StrategyError
        When two tiers that end at the same exit differ in what they train: they are one tier here.
    """

    def __init__(self, tiers: Sequence[Tier], units: Iterable[str], exits: Sequence[int]) -> None:
        super().__init__(tiers, units, exits)
        ending: dict[int, tuple[Tier, Plan]] = {}
        for tier in tiers:
            plan = self(tier.name, 1)
            other, its = ending.setdefault(plan.depth, (tier, plan))
            if (its, other.rank) != (plan, tier.rank):
                same = "train the same blocks"
                if other.rank != tier.rank:
                    same = f"have one rank (now {other.rank} and {tier.rank})"
                raise StrategyError(
                    f"tiers: '{other.name}' and '{tier.name}' both end at the exit after block "
                    f"{plan.depth}, which makes them one tier of InclusiveFL; let them {same}, or "
                    "end at different exits."
                )

    def __call__(self, tier: str, server_round: int, client: str = "") -> Plan:
        """Return the plan of a tier; it is the same in every round."""
        end = super().__call__(tier, server_round).depth
        below = [u for u in self.units if not u.startswith(EXIT) and _number(u, BLOCK) < end]
        units = [*below, tier_ends(self.units)[end]]
        lowest = end - self.tiers[tier].trained
        # Who trains all its blocks trains what is below them, too.
        trained = tuple(
            unit
            for unit in units
            if unit in (SHARED, units[-1]) or lowest <= 0 or _number(unit, BLOCK) > lowest
        )
        return Plan(end, trained, tuple(unit for unit in units if unit not in trained))


@dataclass
class TierRound:
    """What came from a tier in a round: its plan, the aggregator of its replies, their number."""

    plan: Plan
    aggregator: Aggregator
    clients: int = 0


class TierAggregator:
    """An aggregator for each tier, and what becomes of their results.

    Parameters
    ----------
    begin : Callable[[], Aggregator]
        Makes the aggregator of a tier.
    merge : Callable[[Mapping[int, TierRound]], Vectors]
        Makes the new vectors of the bank from the rounds of the tiers, by the block after which
        each ends.
    """

    def __init__(
        self,
        begin: Callable[[], Aggregator],
        merge: Callable[[Mapping[int, TierRound]], Vectors],
    ) -> None:
        self.begin = begin
        self.merge = merge
        self.tiers: dict[int, TierRound] = {}

    def add(
        self, vectors: Mapping[str, np.ndarray], weight: float, plan: Plan | None
    ) -> dict[str, float]:
        """Hand a client's units to its tier; see `Aggregator.add`."""
        assert plan is not None
        tier = self.tiers.get(plan.depth) or TierRound(plan, self.begin())
        figures = tier.aggregator.add(vectors, weight, plan)
        tier.clients += 1
        self.tiers[plan.depth] = tier
        return figures

    def result(self, bank: Mapping[str, np.ndarray]) -> Vectors:
        """Return the new vectors; see `Aggregator.result`."""
        del bank  # the strategy's own
        return self.merge(dict(sorted(self.tiers.items())))


class InclusiveFL(AdapterFedAvg):
    """Averaging within tiers, then between them, with momentum from each tier to the one below.

    Parameters
    ----------
    beta : float (default: 0.2)
        Share of the deeper tier's momentum in the step of a tier's own block, from 0 (none) to 1.
    options
        Those of `AdapterFedAvg`; `planner` is an `InclusivePlanner`. The aggregation works within
        each tier, the server optimiser has a memory for each tier.
    """

    def __init__(self, *args: Any, beta: float = 0.2, **options: Any) -> None:
        super().__init__(*args, **options)
        if isinstance(self.server_optimizer, ServerDyn):
            raise StrategyError(
                "server-optimizer: dyn mirrors one mean over all clients, and InclusiveFL has one "
                "for each tier; choose another."
            )
        self.beta = beta
        self.momenta: dict[int, dict[str, np.ndarray]] = {}
        self._optimizers: dict[int, ServerOptimizer] = {}

    def begin_aggregation(self) -> Aggregator:
        """Return an aggregator that keeps the tiers apart."""
        return TierAggregator(super().begin_aggregation, self.merge)

    def merge(self, tiers: Mapping[int, TierRound]) -> Vectors:
        """Do the steps of the module's head; return the new vectors of what was trained."""
        assert self.bank is not None
        bank, momenta = self.bank.vectors, {}
        merged = HolderMean(self.bank.layout)
        for end, tier in tiers.items():
            means = tier.aggregator.result(bank)
            self._distil(end, means)
            momenta[end] = self._momentum(end, means)
            # All clients of a tier own the same elements.
            holders = Holders(self.bank.layout, self.row_keys)
            holders.add(means, tier.plan)
            stepped = self._optimizer(end).step(bank, means, holders.shares(1))
            # Twice as precise as the bank: a unit that one tier alone holds comes out as it is.
            values = {unit: vector.astype(np.float64) for unit, vector in stepped.items()}
            merged.add(values, tier.clients, tier.plan)
        self.momenta = momenta
        return merged.result(bank)

    def update_bank(self, means: Vectors, shares: Mapping[str, np.ndarray]) -> None:
        """Put in what `merge` returned; the server optimisers have done their steps there."""
        del shares
        assert self.bank is not None
        self.bank.update(means)

    def _optimizer(self, end: int) -> ServerOptimizer:
        """Return the server optimiser of a tier: that of the settings, with a memory of its own."""
        return self._optimizers.setdefault(end, copy.deepcopy(self.server_optimizer))

    def _distil(self, end: int, means: Vectors) -> None:
        """Mix the deeper tier's momentum of the last round into the tier's own block, in place."""
        assert self.bank is not None
        ends = tier_ends(self.bank.layout.units)
        deeper = next((block for block in ends if block > end), 0)
        new, gradients = self._in_block(ends[end], means), self._gradients(ends[end], means)
        for name, momentum in self.momenta.get(deeper, {}).items():
            if name not in new or momentum.shape != new[name].shape:
                raise StrategyError(
                    f"resume: the checkpoint's momentum of '{name}' does not fit the bank; resume "
                    "from another copy."
                )
            step = self.beta * (momentum - gradients[name])
            new[name] -= np.where(momentum == 0, 0, step)

    def _momentum(self, end: int, means: Vectors) -> dict[str, np.ndarray]:
        """Return the tier's mean gradient, by name, over the blocks that the one below lacks."""
        assert self.bank is not None
        ends = tier_ends(self.bank.layout.units)
        below = max((block for block in ends if block < end), default=0)
        units = [*(f"{BLOCK}{block}" for block in range(below + 1, end)), ends[end]]
        found = [self._gradients(unit, means) for unit in units if unit in means]
        return {name: np.mean([g[name] for g in found], axis=0) for name in found[0]}

    def _gradients(self, unit: str, means: Vectors) -> dict[str, np.ndarray]:
        """Return how far a unit's mean lies from the bank, by name, inside its block."""
        assert self.bank is not None
        old, new = (self._in_block(unit, vectors) for vectors in (self.bank.vectors, means))
        return {name: old[name] - new[name] for name in old}

    def _in_block(self, unit: str, vectors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return what is trained inside a unit's block, by name and as views: not its head."""
        assert self.bank is not None
        tensors = self.bank.layout.split({unit: vectors[unit]})
        named = {key.partition(".")[2]: tensor for key, tensor in tensors.items()}
        return {name: tensor for name, tensor in named.items() if first_part(name) != HEAD}

    def server_state(self) -> dict[str, np.ndarray]:
        """Return momenta and the memories of the server optimisers, by kind, tier and name."""
        state = {
            f"{MOMENTUM}.{end}.{name}": values
            for end, momentum in self.momenta.items()
            for name, values in momentum.items()
        }
        for end, optimizer in self._optimizers.items():
            named = optimizer.state().items()
            state |= {f"{OPTIMIZER}.{end}.{name}": vector for name, vector in named}
        return state

    def load_server_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Take back what `server_state` returned; raises StrategyError for anything else."""
        memories: dict[int, dict[str, np.ndarray]] = {}
        for key, values in state.items():
            kind, _, place = key.partition(".")
            end, _, name = place.partition(".")
            known = kind in (MOMENTUM, OPTIMIZER) and end.isdecimal()
            if not known or not np.isfinite(values).all():
                raise StrategyError(
                    f"resume: '{key}' in the checkpoint is nothing that InclusiveFL keeps; resume "
                    "from another copy."
                )
            kept = self.momenta if kind == MOMENTUM else memories
            kept.setdefault(int(end), {})[name] = values
        for tier, memory in memories.items():
            self._optimizer(tier).load_state(memory)
