"""One exchange of messages with the nodes: who was asked for what, and whose answer counts."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from logging import WARNING

from flwr.app import Message, MessageType, RecordDict
from flwr.common import log
from flwr.serverapp import Grid

from .callbacks import ClientRow, RoundReport
from .codec_mod import Encoder, decode_reply
from .errors import StrategyError
from .holdings import Holdings
from .nodes import Profile
from .plans import Plan, Planner, travelling
from .wire import Layout, record_bytes

# Between two looks for replies. Flower's own loops wait 0.1 s (simulation) or 3 s (deployment),
# which for few clients is most of a round.
# So a pause is a share of the time since the last reply, and costs a round about that share.
SHORTEST_PAUSE, LONGEST_PAUSE, PAUSE_SHARE = 0.002, 1.0, 0.1


def receive(grid: Grid, messages: Iterable[Message], timeout: float) -> Iterator[Message]:
    """Send messages and yield each reply when it comes, until all are there or time is over.

    What comes later is dropped: replies are fetched by the ids of this call's messages alone.

    Parameters
    ----------
    grid : Grid
        If it has a method ``wait(seconds)``, this is called between two looks for replies, and may
        return as soon as there is one.
    messages : Iterable[Message]
    timeout : float
        Seconds.
    """
    wait = getattr(grid, "wait", time.sleep)
    latest = time.monotonic()
    deadline = latest + timeout
    missing = set(grid.push_messages(messages))
    while missing:
        replies = [r for r in grid.pull_messages(missing) if _answered(r) in missing]
        now = time.monotonic()
        if now > deadline:
            return
        if replies:
            missing.difference_update(_answered(reply) for reply in replies)
            latest = now
            yield from replies
        else:
            # At most half of what is left, so that the last look comes just before the deadline.
            pause = min(PAUSE_SHARE * (now - latest), LONGEST_PAUSE, (deadline - now) / 2)
            wait(max(pause, SHORTEST_PAUSE))


def _answered(reply: Message) -> str:
    return str(reply.metadata.reply_to_message_id)


class Exchange:
    """The messages of one phase of a round.

    Parameters
    ----------
    report : RoundReport
        Gets a row for every client that is asked.
    message_type : str
        Flower's message type, ``train`` or ``evaluate``, with an action or without.
    phase : str
        The name under which rows are entered in the report.
    layout : Layout
        Of the bank: which tensors are packed in an Array.
    wire_dtype : str
        A name in `WIRE_DTYPES`.
    holdings : Holdings, optional
        Hears who answered what.
    """

    def __init__(
        self,
        report: RoundReport,
        message_type: str,
        phase: str,
        layout: Layout,
        wire_dtype: str = "fp32",
        holdings: Holdings | None = None,
    ) -> None:
        self.report = report
        self.message_type = message_type
        self.phase = phase
        self.wire_dtype = wire_dtype
        self.layout = layout
        self.holdings = holdings or Holdings()
        self._encoder = Encoder(wire_dtype)
        self._asked: dict[int, tuple[ClientRow, Plan | None, RecordDict]] = {}

    def ask(
        self,
        profiles: Iterable[Profile],
        planner: Planner | None,
        make_content: Callable[[Profile, Plan | None], RecordDict],
    ) -> list[Message]:
        """Make a message per node, each with a content of its own, and enter it in the report.

        A node that the planner has no plan for is refused.
        """
        messages = []
        for profile in profiles:
            row, plan = ClientRow(profile.client_key, profile.tier, self.phase), None
            self.report.clients.append(row)
            try:
                if planner is not None:
                    plan = planner(profile.tier, self.report.server_round, row.client_key)
                    if self.message_type == MessageType.TRAIN:
                        row.skipped = plan.skipped
            except StrategyError as error:
                self.refuse(row, str(error))
                continue
            content = make_content(profile, plan)
            sizes = travelling(plan, self.layout).sizes
            encoded = self._encoder.encode_content(content, sizes)
            row.bytes_down = record_bytes(encoded)
            self._asked[profile.node_id] = row, plan, content
            messages.append(Message(encoded, profile.node_id, self.message_type))
        return messages

    def answers(
        self, replies: Iterable[Message]
    ) -> Iterator[tuple[ClientRow, Message, Plan | None]]:
        """Yield the replies of asked nodes in the order of client keys, so that sums repeat.

        A reply is kept only until those before it have come, so memory does not grow with the
        number of clients unless one of the first is the last to answer. The absent are noted.
        """
        early: dict[int, Message] = {}
        queue = deque(self._asked)
        for reply in replies:
            early.setdefault(reply.metadata.src_node_id, reply)
            while queue and queue[0] in early:
                node_id = queue.popleft()
                yield from self._decoded(node_id, early.pop(node_id))
        for node_id in queue:
            if node_id in early:
                yield from self._decoded(node_id, early.pop(node_id))
            else:
                self.refuse(self._asked[node_id][0], "it did not come in time")

    def _decoded(
        self, node_id: int, reply: Message
    ) -> Iterator[tuple[ClientRow, Message, Plan | None]]:
        """Yield a reply with ordinary Arrays; nothing where they do not decode."""
        row, plan, sent = self._asked[node_id]
        if reply.has_error():
            self.holdings.forget(node_id)
        else:
            self.holdings.note(node_id, sent)
            row.bytes_up = record_bytes(reply.content)
        if not reply.has_error() and self.wire_dtype != "fp32":
            try:
                reply.content = decode_reply(reply.content, sent)
            except StrategyError as error:
                self.refuse(row, str(error))
                return
        yield row, reply, plan

    def refuse(self, row: ClientRow, reason: str) -> None:
        """Note why a client does not count; the round goes on without it."""
        row.refused = reason
        self._warn(f"client '{row.client_key}' does not count ({self.phase}): {reason}")

    def note_unchanged(self, row: ClientRow, units: Iterable[str]) -> None:
        """Warn of units whose training changed nothing, as a client reports."""
        if names := ", ".join(units):
            self._warn(
                f"client '{row.client_key}' trained {names} without any change; check its learning "
                "rate"
            )

    def _warn(self, sentence: str) -> None:
        log(WARNING, "Round %d: %s.", self.report.server_round, sentence.rstrip("."))
