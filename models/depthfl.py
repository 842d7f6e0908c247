"""Method `depthfl`: the heads of `exits`, where every exit teaches every other.

Source: M. Kim et al., *DepthFL: Depthwise Federated Learning for Heterogeneous Clients*, ICLR 2023,
in the form of ReeFL's code (arXiv 2405.14791): a layer norm and a linear head at each exit, the
running backbone frozen or adapted, and ``sum_i CE_i + w(r)/e sum_i sum_{j != i} KL(y_j || y_i)`` at
a client with e + 1 exits. With the server optimiser ``dyn`` it is DepthFL with FedDyn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .backbone import Backbone
from .distillation import Distillation
from .exits import ExitsModel


class DepthflModel(ExitsModel):
    """Heads that teach each other; ``2D + DC + C`` parameters per exit.

    Parameters
    ----------
    ramp_rounds : int
        Rounds until distillation has its full weight.
    """

    def __init__(
        self,
        backbone: Backbone,
        exits: tuple[int, ...],
        num_classes: int,
        *,
        ramp_rounds: int = 300,
        **adapter: Any,
    ) -> None:
        super().__init__(backbone, exits, num_classes, **adapter)
        self.distillation = Distillation("all", ramp_rounds)

    def begin_round(self, server_round: int) -> None:
        """Let the distillation start afresh, at the round's weight."""
        self.distillation.begin_round(server_round)

    def loss(self, logits: Mapping[int, Tensor], labels: Tensor) -> Tensor:
        """Return cross-entropies and mutual distillation; see `Distillation`."""
        return self.distillation.loss(logits, labels)
