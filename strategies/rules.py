"""How a round's replies become the new bank: the rule, clipping and noise, as one choice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from .aggregation import Aggregator, HolderEqualMean, HolderMean
from .errors import StrategyError
from .lora_product import Factors, HolderProduct
from .privacy import Clipped, HolderNoisyMean
from .robust import HolderMedian, HolderTrimmedMean
from .wire import Layout

RULES = ("mean", "median", "trimmed-mean")


@dataclass(frozen=True)
class Aggregation:
    """The choice of an aggregator, made once and used in every round.

    Attributes
    ----------
    rule : str
        ``mean`` (weighted), ``median`` or ``trimmed-mean`` over the holders of each tensor.
    trim_share : float
        Share of the values that ``trimmed-mean`` drops at each end.
    clip : float
        Largest L2 norm of a client's update; 0 is off.
    noise_multiplier : float
        Standard deviation of the noise on a sum, in units of `clip`; 0 is off. With noise all
        clients weigh the same.
    weighted : bool
        Whether a client's weight counts in the mean; without, all clients weigh the same.
    factors : tuple[Factors, ...]
        Keys of LoRA factors whose products are averaged in their place; see `HolderProduct`.
    generator : np.random.Generator | None
        Source of the noise; the operating system where there is none.

    Raises
    ------
    StrategyError
        For an unknown rule or values that do not go together.
    """

    rule: str = "mean"
    trim_share: float = 0.1
    clip: float = 0.0
    noise_multiplier: float = 0.0
    weighted: bool = True
    factors: tuple[Factors, ...] = ()
    generator: np.random.Generator | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Check what depends on each other."""
        if self.rule not in RULES:
            raise StrategyError(
                f"aggregation: '{self.rule}' is unknown; choose one of {', '.join(RULES)}."
            )
        if not 0 < self.trim_share < 0.5:
            raise StrategyError(f"trim-share: {self.trim_share} must be above 0 and below 0.5.")
        if self.clip < 0 or self.noise_multiplier < 0:
            raise StrategyError("clip-update and noise-multiplier: they must be 0 or more.")
        if self.noise_multiplier and not (self.clip and self.rule == "mean"):
            raise StrategyError(
                "noise-multiplier: noise needs a clip-update above 0 and aggregation=mean."
            )
        if self.factors and (self.rule != "mean" or self.noise_multiplier or not self.weighted):
            raise StrategyError(
                "rank-aggregation: product is a weighted mean without noise; use aggregation=mean "
                "and noise-multiplier=0, or rank-aggregation=truncate."
            )

    @property
    def counts_clients(self) -> bool:
        """Whether the result is the unweighted mean of what was sent, and nothing else."""
        altered = self.clip or self.noise_multiplier
        return self.rule == "mean" and not (self.weighted or altered)

    def begin(
        self, layout: Layout, row_keys: Iterable[str], bank: Mapping[str, np.ndarray]
    ) -> Aggregator:
        """Return the aggregator of a round that starts from the vectors of `bank`."""
        aggregator: Aggregator
        if self.noise_multiplier:
            deviation = self.noise_multiplier * self.clip
            aggregator = HolderNoisyMean(layout, deviation, row_keys, self.generator)
        elif self.rule == "median":
            aggregator = HolderMedian(layout, row_keys)
        elif self.rule == "trimmed-mean":
            aggregator = HolderTrimmedMean(layout, self.trim_share, row_keys)
        elif self.weighted:
            aggregator = HolderMean(layout, row_keys)
        else:
            aggregator = HolderEqualMean(layout, row_keys)
        if self.factors:
            aggregator = HolderProduct(aggregator, layout, self.factors, bank)
        return Clipped(aggregator, bank, self.clip) if self.clip else aggregator
