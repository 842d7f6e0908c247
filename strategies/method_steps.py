"""What a method may do its own way in a round; here, what most do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from .aggregation import Aggregator
from .bank import Bank
from .callbacks import ClientRow
from .nodes import Profile
from .optimizers import ServerOptimizer
from .replies import TrainReply
from .rules import Aggregation
from .wire import Vectors


class MethodSteps:
    """The steps of a round that strategies of methods override; `AdapterFedAvg` calls them."""

    aggregation: Aggregation
    bank: Bank | None
    row_keys: tuple[str, ...]
    server_optimizer: ServerOptimizer

    def learn_held_out(self, replies: Iterable[tuple[ClientRow, TrainReply]]) -> None:
        """Learn about clients that took no part, and about nothing else; here nothing."""

    def personal_vectors(self, profiles: Sequence[Profile]) -> Mapping[str, Vectors]:
        """Return units that clients get in place of the bank's, by client key; here none."""
        del profiles
        return {}

    def take_reply(
        self, aggregator: Aggregator, row: ClientRow, reply: TrainReply
    ) -> dict[str, float]:
        """Add a sound reply; return figures for the client's row.

        Raises
        ------
        StrategyError
            When its values cannot be used.
        """
        del row
        return aggregator.add(reply.vectors, reply.weight, reply.plan)

    def begin_aggregation(self) -> Aggregator:
        """Return what the replies of a round are added to."""
        assert self.bank is not None
        return self.aggregation.begin(self.bank.layout, self.row_keys, self.bank.vectors)

    def update_bank(self, means: Vectors, shares: Mapping[str, np.ndarray]) -> None:
        """Let the bank take its step towards the round's means; see `ServerOptimizer.step`."""
        assert self.bank is not None
        self.bank.update(self.server_optimizer.step(self.bank.vectors, means, shares))

    def server_state(self) -> dict[str, np.ndarray]:
        """Return what is kept on the server beside the bank, by name, for a checkpoint."""
        return self.server_optimizer.state()

    def load_server_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Take back what `server_state` returned."""
        self.server_optimizer.load_state(state)
