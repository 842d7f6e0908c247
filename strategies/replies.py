"""What a reply must hold to be used, and the mean of the clients' metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from .bank import Bank
from .callbacks import ClientRow
from .errors import StrategyError
from .plans import Plan, travelling
from .wire import Vectors

# Beyond these no adapter tensor and no number of examples makes sense; a sum of them overflows.
MOST_NORM, MOST_WEIGHT = 1e18, 1e12
# The record in which a client names units whose training changed nothing.
REPORT = "report"


def read_metrics(reply: Message) -> dict[str, float]:
    """Return the numbers of a reply's single MetricRecord, by name.

    Raises
    ------
    StrategyError
        When the node answered with an error, or without metrics.
    """
    if reply.has_error():
        raise StrategyError(reply.error.reason or "it answered with an error")
    records = [record for record in reply.content.values() if isinstance(record, MetricRecord)]
    if len(records) != 1:
        raise StrategyError(f"it holds {len(records)} MetricRecords, expected one")
    return {key: value for key, value in records[0].items() if isinstance(value, int | float)}


def read_weight(metrics: Mapping[str, float], key: str) -> float:
    """Return the reply's weight in the mean; raises StrategyError unless it is a sound number."""
    weight = metrics.get(key, math.nan)
    if not 1 / MOST_WEIGHT <= weight <= MOST_WEIGHT:
        raise StrategyError(
            f"its weight '{key}' is {weight}, expected a number above 0 and up to {MOST_WEIGHT:g}"
        )
    return float(weight)


@dataclass(frozen=True, eq=False)
class TrainReply:
    """A training reply whose form has been checked.

    Attributes
    ----------
    vectors : Vectors
        By unit, in the bank's layout: views into the reply's buffers, or, of a tier that holds
        parts of tensors, these parts between the bank's own values.
    weight : float
    plan : Plan | None
        What the client was asked for; None where there are no tiers.
    unchanged : tuple[str, ...]
        Units whose training changed nothing, as the client reports.
    """

    vectors: Vectors
    weight: float
    plan: Plan | None
    unchanged: tuple[str, ...]


def read_train_reply(
    row: ClientRow, message: Message, plan: Plan | None, bank: Bank, weighted_by_key: str
) -> TrainReply:
    """Check a training reply against the plan and the bank; note its metrics in `row`.

    Without a plan a reply may hold any part of the bank.

    Raises
    ------
    StrategyError
        For an error reply, a bad weight, foreign or missing units, wrong shapes or dtypes, and
        values that are not finite or so large that a sum may overflow.
    """
    row.metrics = read_metrics(message)
    weight = read_weight(row.metrics, weighted_by_key)
    records = [record for record in message.content.values() if isinstance(record, ArrayRecord)]
    if len(records) != 1:
        raise StrategyError(f"it holds {len(records)} ArrayRecords, expected one")
    vectors = travelling(plan, bank.layout).read(records[0], bank.dtype)
    if plan is not None and list(vectors) != list(plan.trained):
        raise StrategyError(f"it holds the units {list(vectors)}, expected {list(plan.trained)}")
    with np.errstate(over="ignore", invalid="ignore"):
        is_sound = all(_is_sound(vector) for vector in vectors.values())
    if not is_sound:
        raise StrategyError("it holds values that are not finite, or too large to be summed")
    report = message.content.get(REPORT)
    unchanged = report.get("unchanged", []) if isinstance(report, ConfigRecord) else []
    return TrainReply(
        bank.in_place(vectors, plan),
        weight,
        plan,
        tuple(str(unit) for unit in unchanged) if isinstance(unchanged, list) else (),
    )


def _is_sound(vector: np.ndarray) -> bool:
    """Tell whether the norm is finite and no larger than makes sense.

    A product with itself is one look at every value; what is not finite, or overflows, shows in it.
    """
    if vector.dtype.kind != "f":
        return True
    values = vector.astype(np.float32) if vector.dtype == np.float16 else vector
    return bool(np.dot(values, values) <= MOST_NORM**2)


def without_arrays(content: RecordDict) -> RecordDict:
    """Return a content without its ArrayRecords, which are what takes memory."""
    return RecordDict({k: v for k, v in content.items() if not isinstance(v, ArrayRecord)})


def mean_metrics(contents: list[RecordDict], weighted_by_key: str) -> MetricRecord:
    """Average metrics over the replies that hold them, weighted; lists and the weight are left out.

    Replies of different tiers hold different metrics (one per exit reached).
    """
    sums: dict[str, float] = {}
    weights: dict[str, float] = {}
    for content in contents:
        (metrics,) = (record for record in content.values() if isinstance(record, MetricRecord))
        weight = float(metrics[weighted_by_key])  # type: ignore[arg-type]  # checked before
        for key, value in metrics.items():
            if key != weighted_by_key and isinstance(value, int | float):
                sums[key] = sums.get(key, 0.0) + weight * value
                weights[key] = weights.get(key, 0.0) + weight
    return MetricRecord({key: total / weights[key] for key, total in sums.items()})
