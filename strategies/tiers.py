"""Tiers: what devices can afford, and which client is in which."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .errors import StrategyError

MOST_CLIENTS = 1_000_000  # that tiers can list


@dataclass(frozen=True)
class Tier:
    """What a device can afford.

    Attributes
    ----------
    name : str
    depth : int
        Blocks the device runs, from the first.
    trained : int
        How many of these it trains, counted down from its last exit.
    share : float
        Share of the clients (they add up to 1), or 0 where `clients` lists them.
    clients : frozenset[int]
        Partition ids that are in this tier.
    rank : int
        Of its adapters; 0 where they have none.
    """

    name: str
    depth: int
    trained: int
    share: float = 0.0
    clients: frozenset[int] = frozenset()
    rank: int = 0


def parse_tiers(text: str, depth: int, rank: int = 0) -> tuple[Tier, ...]:
    """Read the setting `tiers`.

    Tiers stand in the form ``name depth=D [trained=T] [rank=R] share=S`` (or ``clients=0,3,5-9``
    in place of the share), separated by semicolons. D counts blocks, or, written with a point, is
    a fraction of the backbone's `depth` blocks; T likewise of D, all of them by default. R is at
    most `rank`, that of the bank's adapters, which it is by default; 0 means that they have none.

    Raises
    ------
    StrategyError
        With the part that cannot be read and what it should be.
    """
    tiers = tuple(_parse_tier(part, depth, rank) for part in text.split(";") if part.strip())
    names = [tier.name for tier in tiers]
    if not tiers or len(set(names)) < len(names):
        raise StrategyError(f"tiers: '{text}' must name one or more tiers, each once.")
    listed = [client for tier in tiers for client in tier.clients]
    if len(set(listed)) < len(listed):
        raise StrategyError("tiers: a client is listed in two tiers; list it in one.")
    total = sum(tier.share for tier in tiers)
    if total and abs(total - 1) > 1e-6:
        raise StrategyError(f"tiers: the shares add up to {total:g}; make them add up to 1.")
    return tiers


def _parse_tier(text: str, depth: int, rank: int) -> Tier:
    name, *fields = text.split()
    values = dict(field.partition("=")[::2] for field in fields)
    unknown = set(values) - {"depth", "trained", "rank", "share", "clients"}
    wrong = unknown or len(values) < len(fields) or "depth" not in values
    if wrong or ("share" in values) == ("clients" in values):
        raise StrategyError(
            f"tiers: '{text.strip()}' should read 'name depth=D [trained=T] [rank=R] share=S', "
            "or have clients=0,3,5-9 in place of the share."
        )
    try:
        blocks = _count("depth", values["depth"], depth)
        return Tier(
            name,
            blocks,
            _count("trained", values.get("trained", "1.0"), blocks),
            _share(values.get("share", "0")),
            frozenset(_client_ids(values.get("clients", ""))),
            _rank(values["rank"], rank) if "rank" in values else rank,
        )
    except StrategyError as error:
        raise StrategyError(f"tiers: '{text.strip()}' cannot be read: {error}.") from None


def _count(key: str, text: str, whole: int) -> int:
    """Read a number of blocks, or a fraction of `whole` where there is a point."""
    try:
        count = round(float(text) * whole) if "." in text else int(text)
    except (ValueError, OverflowError):
        count = 0
    if not 1 <= count <= whole:
        fraction = " (with a point it is a fraction of them)" if "." in text else ""
        raise StrategyError(f"{key}={text} is not between 1 and {whole} blocks{fraction}")
    return count


def _rank(text: str, most: int) -> int:
    if not most:
        raise StrategyError("rank needs an adapter that has one: lora, parallel or serial")
    if not (text.isdecimal() and 1 <= int(text) <= most):
        raise StrategyError(f"rank={text} is not between 1 and the adapter-rank of {most}")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise StrategyError(f"share={text} is no number from 0 to 1")
    return share


def _client_ids(text: str) -> list[int]:
    ids: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        if not (first.isdecimal() and (last or first).isdecimal()):
            raise StrategyError(f"'{part}' is neither a client such as 3 nor a range such as 5-9")
        start, stop = int(first), int(last or first) + 1
        if stop <= start:
            raise StrategyError(f"{part} runs backwards")
        if stop > MOST_CLIENTS:
            raise StrategyError(f"there is no client {stop - 1}")
        ids.extend(range(start, stop))
    return ids


def assign_tiers(tiers: Sequence[Tier], num_clients: int, seed: int) -> list[str]:
    """Name the tier of each client: listed ones first, the others by shares, seeded.

    Shares are met as nearly as whole clients allow (largest remainders).
    """
    names: Mapping[int, str] = {client: tier.name for tier in tiers for client in tier.clients}
    if names and max(names) >= num_clients:
        raise StrategyError(
            f"tiers: there is no client {max(names)}; the {num_clients} clients count from 0."
        )
    others = [client for client in range(num_clients) if client not in names]
    shares = [tier for tier in tiers if tier.share]
    if others and not shares:
        raise StrategyError(
            f"tiers: client {others[0]} is in no tier; list it, or give the tiers shares."
        )
    exact = [tier.share * len(others) for tier in shares]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(shares)), key=lambda i: counts[i] - exact[i])
    for i in by_remainder[: len(others) - sum(counts)]:
        counts[i] += 1
    random.Random(seed).shuffle(others)
    drawn = [tier.name for tier, count in zip(shares, counts, strict=True) for _ in range(count)]
    assigned = {**names, **dict(zip(others, drawn, strict=True))}
    return [assigned[client] for client in range(num_clients)]
