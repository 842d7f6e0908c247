"""Who the nodes are: profiles asked once per node, and seeded sampling over them."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from logging import INFO, WARNING

import numpy as np
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.common import log
from flwr.serverapp import Grid

from .errors import StrategyError
from .plans import Planner

PROFILE = "profile"
NOTICE_SECONDS = 10.0
# A node that hangs must not hold up the others; starting its app may take a minute.
PROFILE_SECONDS = 120.0
MOST_KEY = 200  # characters of a client key


@dataclass(frozen=True)
class Profile:
    """A node's answer to the profile query.

    Attributes
    ----------
    node_id : int
        Flower's id; random per run in simulation.
    client_key : str
        The stable identity of the client's data.
    tier : str
    num_examples : int
        Training examples on the node.
    dtypes : tuple[str, ...]
        Wire dtypes the node understands.
    """

    node_id: int
    client_key: str
    tier: str = ""
    num_examples: int = 0
    dtypes: tuple[str, ...] = ("fp32",)

    def to_record(self) -> ConfigRecord:
        """Make the record that answers the query (a node does not send its own id)."""
        return ConfigRecord(
            {
                "client-key": self.client_key,
                "tier": self.tier,
                "num-examples": self.num_examples,
                "dtypes": list(self.dtypes),
            }
        )

    @classmethod
    def from_reply(cls, reply: Message) -> Profile:
        """Read an answer; raises StrategyError for anything but the form of `to_record`."""
        record = reply.content.get(PROFILE)
        values = dict(record.items()) if isinstance(record, ConfigRecord) else {}
        key, tier = values.get("client-key"), values.get("tier")
        examples, dtypes = values.get("num-examples"), values.get("dtypes")
        if not (
            isinstance(key, str)
            and isinstance(tier, str)
            and isinstance(examples, int)
            and isinstance(dtypes, list)
            and len(key) <= MOST_KEY
        ):
            raise StrategyError("its profile cannot be read; its app is another version")
        known = tuple(str(dtype) for dtype in dtypes)
        return cls(reply.metadata.src_node_id, key, tier, examples, known)


class NodeRegistry:
    """The profiles of all nodes seen, asked once each.

    Parameters
    ----------
    ask : bool
        Query nodes for their profile; without it a node's id is its client key, as other
        people's apps answer no query.
    wire_dtype : str
        Nodes that do not understand it take no part.
    """

    def __init__(self, *, ask: bool, wire_dtype: str = "fp32") -> None:
        self.ask = ask
        self.wire_dtype = wire_dtype
        self.profiles: dict[int, Profile] = {}
        self._asked: dict[int, float] = {}

    @property
    def num_clients(self) -> int:
        """Count the clients seen so far, whether online or not."""
        return len({profile.client_key for profile in self.profiles.values()})

    def wait_for(self, grid: Grid, minimum: int, timeout: float) -> list[Profile]:
        """Wait until `minimum` nodes are online and known; return all, by client key.

        Raises
        ------
        StrategyError
            When every node answers the query with an error; the sentence is the first node's.
        """
        notice = time.monotonic()
        while True:
            online = self._online(grid, minimum, timeout)
            if len(online) >= minimum:
                return online
            if time.monotonic() >= notice:
                log(
                    WARNING,
                    "Waiting for nodes: %d of %d are there. Start more, or lower "
                    "clients-per-round.",
                    len(online),
                    minimum,
                )
                notice = time.monotonic() + NOTICE_SECONDS
            time.sleep(1)

    def _online(self, grid: Grid, minimum: int, timeout: float) -> list[Profile]:
        """Return the profiles of the nodes that are online, sorted by client key."""
        node_ids = sorted(grid.get_node_ids())
        # A node that gave no profile is asked again, but not every second of a wait.
        since = time.monotonic() - NOTICE_SECONDS
        new = [n for n in node_ids if n not in self.profiles and self._asked.get(n, since) <= since]
        if new and self.ask:
            reasons = self._query(grid, new, timeout)
            if reasons and not self.profiles and len(node_ids) >= minimum:
                raise StrategyError(f"no node can take part: {reasons[0]}")
        elif new:
            # Nobody asked them, so they are taken to know what the strategy was told to use.
            known = (self.wire_dtype,)
            self.profiles.update({n: Profile(n, str(n), dtypes=known) for n in new})
        by_key: dict[str, Profile] = {}
        # Whoever was there first keeps its key: nobody takes a client's place while it is online.
        online = set(node_ids)
        for node_id, profile in self.profiles.items():
            if node_id not in online or self.wire_dtype not in profile.dtypes:
                continue
            if profile.client_key in by_key:
                log(
                    WARNING,
                    "Nodes %d and %d both hold client '%s'; the second is left out. Give each "
                    "node its own client-key or partition-id.",
                    by_key[profile.client_key].node_id,
                    node_id,
                    profile.client_key,
                )
                continue
            by_key[profile.client_key] = profile
        return sorted(by_key.values(), key=client_order)

    def _query(self, grid: Grid, node_ids: list[int], timeout: float) -> list[str]:
        """Ask nodes for their profile; return why some gave none."""
        messages = [
            Message(
                content=RecordDict({PROFILE: ConfigRecord()}),
                message_type=MessageType.QUERY,
                dst_node_id=node_id,
            )
            for node_id in node_ids
        ]
        self._asked.update(dict.fromkeys(node_ids, time.monotonic()))
        reasons: dict[int, str] = {}
        replies = grid.send_and_receive(messages, timeout=min(timeout, PROFILE_SECONDS))
        for reply in sorted(replies, key=lambda reply: reply.metadata.src_node_id):
            node_id = reply.metadata.src_node_id
            if reply.has_error():
                reasons[node_id] = reply.error.reason or "it gave no reason"
                continue
            try:
                profile = Profile.from_reply(reply)
            except StrategyError as error:
                reasons[node_id] = str(error)
                continue
            self.profiles[node_id] = profile
            if self.wire_dtype not in profile.dtypes:
                log(
                    WARNING,
                    "Client '%s' does not understand wire-dtype %s and is left out; it knows %s.",
                    profile.client_key,
                    self.wire_dtype,
                    ", ".join(profile.dtypes),
                )
        # Where nobody answered, the caller tells the reason once.
        for node_id, reason in reasons.items() if self.profiles else ():
            log(WARNING, "Node %d gave no profile: %s", node_id, reason)
        answered = len(node_ids) - len(reasons)
        log(INFO, "Profiles: %d of %d new nodes answered", answered, len(node_ids))
        return list(reasons.values())


def client_order(profile: Profile) -> tuple[int, int, str]:
    """Sort key: numeric client keys by value, then names."""
    key = profile.client_key
    return (0, int(key), key) if key.isdecimal() else (1, 0, key)


def training_nodes(
    profiles: list[Profile], planner: Planner | None, server_round: int
) -> list[Profile]:
    """Leave out the nodes of tiers that are not asked to train in a round.

    Those of an unknown tier stay, to be refused by name when they are asked.

    Raises
    ------
    StrategyError
        When nobody is left.
    """
    if planner is None:
        return profiles
    idle = set()
    for tier in {profile.tier for profile in profiles}:
        with contextlib.suppress(StrategyError):
            if not planner(tier, server_round).drawn:
                idle.add(tier)
    training = [profile for profile in profiles if profile.tier not in idle]
    if not training:
        raise StrategyError(
            f"tiers: all {len(profiles)} nodes are of tiers that train nothing in this method "
            f"({', '.join(sorted(idle))}); give the deepest tier some clients."
        )
    return training


def sample(profiles: list[Profile], count: int, seed: int, server_round: int) -> list[Profile]:
    """Draw `count` profiles for a round, in client order.

    The generator is a function of seed and round alone, so a resumed run draws as the
    uninterrupted one would have.
    """
    count = min(count, len(profiles))
    generator = np.random.default_rng([seed, server_round])
    chosen = generator.choice(len(profiles), size=count, replace=False)
    return [profiles[i] for i in sorted(chosen)]
