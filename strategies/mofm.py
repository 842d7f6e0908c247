"""`TwoStage`: a global expert first, then a local expert and a gate on each client.

In the style of FedMS (arXiv 2312.15926). In stage 1 clients train and send the blocks of the global
expert that are active, and its heads. In stage 2 the global expert stays as it is: a client gets it
once. The gate is averaged, and the local expert never leaves its client.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord

from .activation import Activation
from .adapter_fedavg import AdapterFedAvg
from .plans import DepthPlanner, Plan, block_number

VALIDATION = "validation-accuracy"  # of the model that came, in a client's reply
GATE, HEAD, LOCAL = "gate", "head", "local-"
ACTIVATION = "activation."


class StagePlanner:
    """Plans of two stages.

    The units are ``block<b>``, ``embed`` and ``head<b>`` of the global expert, the same with
    ``local-`` before them of the local one, and ``gate<b>``. Units of the local expert are among
    the trained ones; a `KeepingPlanner` around this one keeps them with the clients.

    Parameters
    ----------
    planner : DepthPlanner
        Says where a tier ends; the blocks it trains at most are the tier's capacity.
    activation : Activation
        How many blocks are active in a round of stage 1; in stage 2 as many as in its last one.
    stage_one_rounds : int
        Rounds of stage 1; all later ones are of stage 2.
    top_down : bool
        Whether blocks become active from a tier's last one downwards, so that autograd stops at
        the lowest of them, or from the first one upwards.
    """

    def __init__(
        self,
        planner: DepthPlanner,
        activation: Activation,
        stage_one_rounds: int,
        *,
        top_down: bool = True,
    ) -> None:
        self.planner = planner
        self.activation = activation
        self.stage_one_rounds = stage_one_rounds
        self.top_down = top_down

    def __call__(self, tier: str, server_round: int, client: str = "") -> Plan:
        """Return the plan of a tier for a round; see `Planner`."""
        end = self.planner(tier, server_round, client).depth
        units = [unit for unit in self.planner.units if block_number(unit) <= end]
        active = self._active(tier, server_round)
        # What nobody has trained yet is the same on every machine.
        tiers = self.planner.tiers if self.stage_one_rounds else ()
        moved = set().union(*(self._active(name, server_round) for name in tiers))
        shared = [unit for unit in units if not unit.startswith((LOCAL, GATE))]
        if server_round <= self.stage_one_rounds:
            trained = [unit for unit in shared if _is_in(unit, active)]
            read = [u for u in shared if _is_in(u, moved) and u not in trained]
            return Plan(end, tuple(trained), tuple(read))
        own = [u for u in units if u.startswith(LOCAL) and _is_in(u.removeprefix(LOCAL), active)]
        gates = [unit for unit in units if unit.startswith(GATE)]
        frozen = tuple(unit for unit in shared if _is_in(unit, moved))
        return Plan(end, (*gates, *own), frozen, lasting=frozen)

    def active_blocks(self, server_round: int) -> int:
        """Return how many blocks of the deepest tier are active in a round."""
        return self.activation(min(server_round, self.stage_one_rounds))

    def _active(self, tier: str, server_round: int) -> set[int]:
        """Return the numbers of a tier's active blocks; with all of them, 0 for what is below."""
        end = self.planner.ends[tier]
        count = min(self.active_blocks(server_round), self.planner.tiers[tier].trained, end)
        lowest = end - count + 1 if self.top_down else 1
        return {*range(lowest, lowest + count), *([0] if count == end else [])}


def _is_in(unit: str, blocks: set[int]) -> bool:
    """Tell whether a unit of the global expert goes with these blocks; heads always do."""
    return unit.startswith(HEAD) or block_number(unit) in blocks


class TwoStage(AdapterFedAvg):
    """Averaging in two stages.

    Parameters
    ----------
    schedule : StagePlanner
        Which the `planner` is, or holds. Its activation hears the clients' validation accuracy,
        where they tell it.
    options
        Those of `AdapterFedAvg`.
    """

    def __init__(self, *args: Any, schedule: StagePlanner, **options: Any) -> None:
        super().__init__(*args, **options)
        self.schedule = schedule

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average as ever; then let the activation hear how good the round's model was."""
        arrays, metrics = super().aggregate_train(server_round, replies)
        self.report.figures["active-blocks"] = self.schedule.active_blocks(server_round)
        if metrics is not None and VALIDATION in metrics:
            accuracy = float(metrics[VALIDATION])  # type: ignore[arg-type]  # a mean
            self.report.figures[VALIDATION] = accuracy
            self.schedule.activation.note(server_round, accuracy)
        return arrays, metrics

    def server_state(self) -> dict[str, np.ndarray]:
        """Return what the activation and the server optimiser remember."""
        own = {ACTIVATION + name: value for name, value in self.schedule.activation.state().items()}
        return super().server_state() | own

    def load_server_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Take back what `server_state` returned."""
        own = {
            name.removeprefix(ACTIVATION): value
            for name, value in state.items()
            if name.startswith(ACTIVATION)
        }
        self.schedule.activation.load_state(own)
        super().load_server_state(
            {name: value for name, value in state.items() if not name.startswith(ACTIVATION)}
        )
