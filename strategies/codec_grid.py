"""A wire dtype for other people's strategies."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from .codec import check_wire_dtype
from .codec_mod import Encoder, decode_reply, with_content
from .errors import StrategyError


class CodecGrid(Grid):
    """A Grid that encodes what a strategy sends, and decodes what clients with `wire_codec` reply.

    ``strategy.start(CodecGrid(grid, "int8"), ...)`` works with every strategy. A reply that does
    not decode becomes an error reply.

    Parameters
    ----------
    grid : Grid
    wire_dtype : str
        A name in `WIRE_DTYPES`.
    """

    def __init__(self, grid: Grid, wire_dtype: str) -> None:
        self.grid = grid
        self.wire_dtype = check_wire_dtype(wire_dtype)
        self._sent: dict[str, Message] = {}

    def __getattr__(self, name: str) -> Any:
        """Look up on the inner grid what a Grid need not have."""
        return getattr(self.grid, name)

    def set_run(self, run: Any) -> None:
        """Set the run (its id, before flwr 1.30)."""
        self.grid.set_run(run)

    @property
    def run(self) -> Any:
        """Return the run."""
        return self.grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message."""
        return self.grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the nodes."""
        return self.grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Encode and push messages.

        What was sent is kept, to decode the reply, until that was pulled, the message's time to
        live is over, or Arrays were pushed to the same node anew.
        """
        messages = list(messages)
        ids = self.grid.push_messages(self._encode(messages))
        news = [message for message in messages if message.content.array_records]
        nodes, now = {message.metadata.dst_node_id for message in news}, time.time()
        self._sent = {
            message_id: message
            for message_id, message in self._sent.items()
            if message.metadata.dst_node_id not in nodes
            and message.metadata.created_at + message.metadata.ttl > now
        } | {message.metadata.message_id: message for message in news}
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pull replies and decode them."""
        replies = list(self.grid.pull_messages(message_ids))
        decoded = [self._decode(reply, self._sent) for reply in replies]
        for reply in replies:
            self._sent.pop(reply.metadata.reply_to_message_id, None)
        return decoded

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Encode and send messages, and decode the replies that came in time."""
        messages = list(messages)
        replies = list(self.grid.send_and_receive(self._encode(messages), timeout=timeout))
        sent = {message.metadata.message_id: message for message in messages}
        return [self._decode(reply, sent) for reply in replies]

    def _encode(self, messages: list[Message]) -> list[Message]:
        """Return the messages with encoded contents; they share their metadata, and so the id."""
        encoder = Encoder(self.wire_dtype)
        return [
            with_content(message, encoder.encode_content(message.content)) for message in messages
        ]

    @staticmethod
    def _decode(reply: Message, sent: Mapping[str, Message]) -> Message:
        """Decode a reply in place."""
        if reply.has_error():
            return reply
        request = sent.get(reply.metadata.reply_to_message_id)
        try:
            base = RecordDict() if request is None else request.content
            reply.content = decode_reply(reply.content, base)
        except StrategyError as error:
            reply.__dict__["_content"] = None  # a message holds a content or an error
            reply.error = Error(ErrorCode.MOD_FAILED_PRECONDITION, str(error))
        return reply
