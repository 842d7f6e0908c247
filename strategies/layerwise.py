"""Layer-wise rounds: each phase trains a few adjacent blocks, the others are frozen or not there.

Sources: P. Guo et al., *Federated Layer-wise Learning*, arXiv 2309.05213 (bottom-up, with depth
dropout); Y. L. Tun et al., *LW-FedSSL*, arXiv 2401.11647 (progressive). Top-down order with the
final heads is for adapters on a pretrained backbone.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable, Sequence
from logging import INFO
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.common import log
from flwr.serverapp import Grid

from .adapter_fedavg import AdapterFedAvg
from .errors import StrategyError
from .optimizers import ServerDyn
from .plans import DepthPlanner, Plan, block_number
from .tiers import Tier

TOP_DOWN, BOTTOM_UP, PROGRESSIVE = "top-down", "bottom-up", "progressive"
EMBED, HEAD = "embed", "head"


class LayerwiseSchedule(DepthPlanner):
    """Plans by phase. The blocks of a phase, its window, are trained in as many rounds as others'.

    Every phase has the same number of rounds, and the last one what is left over. Exits at or above
    the window are trained with it; in ``bottom-up`` and ``progressive`` the pass ends at the first
    of them. So an exit after every block gives each phase a local head, and a single one the final
    head. What a phase has finished never changes again, and blocks that no phase has reached run,
    where they are passed, as the backbone has them.

    A tier takes part in the phases whose blocks it runs, and in which the gradient crosses no more
    blocks than it trains; in the others its plan is that of its nearest phase, and it is scored
    with all that is trained within its depth.

    Parameters
    ----------
    tiers : Sequence[Tier]
    units : Iterable[str]
        All units of the bank: ``embed``, which goes with the first block, ``block<b>``, ``head<b>``
        for the head after block b, and what is trained in every phase (``projection``).
    exits : Sequence[int]
        Blocks after which there is a head, or, without labels, may be the end of a phase.
    rounds : int
        Of the whole run.
    order : str
        ``top-down``; ``bottom-up``; ``progressive``: bottom-up, and nothing is frozen.
    window : int
        Adjacent blocks of a phase; as many as there are make one phase, which trains end to end.
    budget : int
        Most blocks that a client runs in training, by depth dropout: the first one, those of the
        window and the last one stay, the others are drawn uniformly. 0: all run.
    seed : int
        Of these draws, which depend on round and client key besides.

    Raises
    ------
    StrategyError
        When there are more phases than rounds, a phase that no tier can take part in or a tier that
        can take part in no phase, or the budget is too small for what stays.
    """

    def __init__(
        self,
        tiers: Sequence[Tier],
        units: Iterable[str],
        exits: Sequence[int],
        *,
        rounds: int,
        order: str = TOP_DOWN,
        window: int = 1,
        budget: int = 0,
        seed: int = 0,
    ) -> None:
        self.exits = tuple(exits)
        self.order = order
        self.budget = budget
        self.seed = seed
        self.phases = _windows(self.exits[-1], window, descending=order == TOP_DOWN)
        self.phase_rounds = rounds // len(self.phases)
        if not self.phase_rounds:
            raise StrategyError(
                f"rounds: {rounds} are fewer than the {len(self.phases)} phases; raise it, or "
                "train more blocks at a time (window)."
            )
        super().__init__(tiers, units, exits)
        for number, (first, last) in enumerate(self.phases):
            able = [tier for tier in tiers if self._fits(tier.name, number)]
            if not able:
                raise StrategyError(
                    f"tiers: none can train blocks {first} to {last} in order {order}; give one of "
                    "them more depth, or more trained blocks."
                )
            for tier in able:
                self._check_budget(number, self._depth(tier.name, number))

    def phase(self, server_round: int) -> int:
        """Return the phase of a round (from 1), counted from 0."""
        return min((server_round - 1) // self.phase_rounds, len(self.phases) - 1)

    def __call__(self, tier: str, server_round: int, client: str = "") -> Plan:
        """Return the plan of a tier for a round; what a budget leaves out is the client's own."""
        super().__call__(tier, server_round)  # refuses an unknown tier
        now = self.phase(server_round)
        own = self._nearest(tier, now)
        depth, (first, last) = self._depth(tier, own), self.phases[own]
        skipped = self._draw(own, depth, server_round, client)
        lowest = 1 if self.order == PROGRESSIVE else first
        trained: list[str] = []
        frozen: list[str] = []
        scored: list[str] = []
        lasting: list[str] = []
        for unit in self.units:
            block = _number(unit)
            if not block or lowest <= block <= (depth if _is_head(unit) else min(last, depth)):
                (scored if block in skipped else trained).append(unit)
            elif block <= depth and self._reached(unit, now):
                # A head whose exit is finished has no part in a training.
                (scored if _is_head(unit) or block in skipped else frozen).append(unit)
            else:
                continue
            if self._finished(unit, now):
                lasting.append(unit)
        return Plan(
            depth,
            tuple(trained),
            tuple(frozen),
            drawn=own == now,
            scored=tuple(scored),
            lasting=tuple(unit for unit in lasting if unit not in trained),
            skipped=skipped,
        )

    def _depth(self, tier: str, phase: int) -> int:
        """Return where the pass of a tier ends in a phase; 0 where it does not get so far."""
        end = self.ends[tier]
        if self.order == TOP_DOWN:
            return end if self.phases[phase][0] <= end else 0
        last = self.phases[phase][1]
        return min((block for block in self.exits if last <= block <= end), default=0)

    def _fits(self, tier: str, phase: int) -> bool:
        """Tell whether a tier can take part in a phase."""
        lowest = 1 if self.order == PROGRESSIVE else self.phases[phase][0]
        depth = self._depth(tier, phase)
        return 0 < depth < lowest + self.tiers[tier].trained

    def _nearest(self, tier: str, phase: int) -> int:
        """Return the phase that a tier takes part in, the last one before it, or the first."""
        able = [number for number in range(len(self.phases)) if self._fits(tier, number)]
        if not able:
            raise StrategyError(
                f"tiers: '{tier}' can take part in no phase of order {self.order}; give it more "
                "depth, or more trained blocks."
            )
        return max((number for number in able if number <= phase), default=able[0])

    def _reached(self, unit: str, phase: int) -> bool:
        """Tell whether training has begun with a unit."""
        block, (first, last) = _number(unit), self.phases[phase]
        if self.order == TOP_DOWN:
            return block >= first
        end = min(exit_block for exit_block in self.exits if exit_block >= last)
        return block <= (end if _is_head(unit) else last)

    def _finished(self, unit: str, phase: int) -> bool:
        """Tell whether training is over with a unit."""
        block, (first, last) = _number(unit), self.phases[phase]
        if self.order == TOP_DOWN:
            return block > last and not _is_head(unit)
        return self.order == BOTTOM_UP and 0 < block < first

    def _staying(self, phase: int, depth: int) -> set[int]:
        """Return the blocks within a depth that no draw leaves out."""
        first, last = self.phases[phase]
        return {1, *range(first, min(last, depth) + 1), depth}

    def _check_budget(self, phase: int, depth: int) -> None:
        count = len(self._staying(phase, depth))
        if self.budget and self.budget < min(count, depth):
            raise StrategyError(
                f"depth-budget: {self.budget} does not hold the {count} blocks that stay in every "
                "pass (the first, those trained and the last); raise it to that."
            )

    def _draw(self, phase: int, depth: int, server_round: int, client: str) -> tuple[int, ...]:
        """Draw the blocks that a client leaves out of a round; none without a client."""
        if not self.budget or not client or depth <= self.budget:
            return ()
        others = [b for b in range(1, depth + 1) if b not in self._staying(phase, depth)]
        generator = random.Random(f"{self.seed} {server_round} {client}")
        return tuple(sorted(generator.sample(others, depth - self.budget)))


class LayerwiseFedAvg(AdapterFedAvg):
    """`AdapterFedAvg` whose server optimiser starts afresh in each phase of a schedule.

    The report of a round has its phase, from 1, among its figures.

    Parameters
    ----------
    schedule : LayerwiseSchedule
        By which the planner plans.
    options
        See `AdapterFedAvg`.
    """

    def __init__(self, *args: Any, schedule: LayerwiseSchedule, **options: Any) -> None:
        super().__init__(*args, **options)
        self.schedule = schedule
        self._fresh = copy.deepcopy(self.server_optimizer)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Begin a phase where the round is its first; then ask as ever."""
        number = self.schedule.phase(server_round)
        if server_round == 1 or number > self.schedule.phase(server_round - 1):
            first, last = self.schedule.phases[number]
            log(
                INFO,
                "Round %d: phase %d of %d begins, which trains blocks %d to %d",
                server_round,
                number + 1,
                len(self.schedule.phases),
                first,
                last,
            )
            # FedDyn's memory mirrors that of the clients, unit by unit.
            if not isinstance(self.server_optimizer, ServerDyn):
                self.server_optimizer = copy.deepcopy(self._fresh)
        messages = super().configure_train(server_round, arrays, config, grid)
        self.report.figures["phase"] = number + 1
        return messages


def _windows(blocks: int, width: int, *, descending: bool) -> list[tuple[int, int]]:
    """Return the first and last block of each phase; the last phase has what is left."""
    if descending:
        return [(max(1, last - width + 1), last) for last in range(blocks, 0, -width)]
    return [(first, min(blocks, first + width - 1)) for first in range(1, blocks + 1, width)]


def _number(unit: str) -> int:
    """Return the block that a unit goes with; 0 for what no block owns."""
    return 1 if unit == EMBED else block_number(unit)


def _is_head(unit: str) -> bool:
    return unit.startswith(HEAD)
