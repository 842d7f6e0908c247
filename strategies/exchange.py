"""One exchange of messages with the nodes: who was asked for what, and whose answer counts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from logging import WARNING

from flwr.app import Message, RecordDict
from flwr.common import log

from .callbacks import ClientRow, RoundReport
from .nodes import Profile
from .plans import Plan
from .wire import record_bytes


class Exchange:
    """The training or the evaluation messages of a round.

    Parameters
    ----------
    report : RoundReport
        Gets a row for every client that is asked.
    phase : str
        Flower's message type, ``train`` or ``evaluate``.
    """

    def __init__(self, report: RoundReport, phase: str) -> None:
        self.report = report
        self.phase = phase
        self._asked: dict[int, tuple[ClientRow, Plan | None]] = {}

    def open_row(self, profile: Profile) -> ClientRow:
        """Enter a client in the report."""
        row = ClientRow(profile.client_key, profile.tier, self.phase)
        self.report.clients.append(row)
        return row

    def ask(
        self, row: ClientRow, profile: Profile, plan: Plan | None, content: RecordDict
    ) -> Message:
        """Make the message to a node and remember what it was asked for."""
        row.bytes_down = record_bytes(content)
        self._asked[profile.node_id] = row, plan
        return Message(content, profile.node_id, self.phase)

    def answers(
        self, replies: Iterable[Message]
    ) -> Iterator[tuple[ClientRow, Message, Plan | None]]:
        """Yield the replies of asked nodes by client key, so that sums repeat; note the absent."""
        answered = {reply.metadata.src_node_id: reply for reply in replies}
        for node_id, (row, plan) in self._asked.items():
            reply = answered.get(node_id)
            if reply is None:
                self.refuse(row, "it did not come in time")
                continue
            row.bytes_up = 0 if reply.has_error() else record_bytes(reply.content)
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
                "rate, and that an exit lies above"
            )

    def _warn(self, sentence: str) -> None:
        log(WARNING, "Round %d: %s.", self.report.server_round, sentence.rstrip("."))
