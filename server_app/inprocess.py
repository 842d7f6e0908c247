"""A Grid that calls the ClientApp in this process: no Ray, no SuperLink, breakpoints work."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flwr.app import Message
from flwr.clientapp import ClientApp

from server_app.local_grid import LocalGrid, answer, make_context


class InProcessGrid(LocalGrid):
    """Runs each message through the ClientApp at once, one node after the other.

    Parameters
    ----------
    client_app : ClientApp
    num_nodes : int
    run_config : dict
        The run config every node sees.
    """

    def __init__(self, client_app: ClientApp, num_nodes: int, run_config: dict[str, Any]) -> None:
        super().__init__()
        self.client_app = client_app
        self.contexts = {
            node_id: make_context(node_id, num_nodes, run_config)
            for node_id in range(1, num_nodes + 1)
        }
        self._queue: dict[str, Message] = {}

    def get_node_ids(self) -> Iterable[int]:
        """Return all node ids, from 1."""
        return list(self.contexts)

    def take(self, message_id: str, message: Message) -> None:
        """Queue a message; it runs when its reply is pulled."""
        self._queue[message_id] = message

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Run the message that was pushed first; return its reply.

        One at a time, so that no more than one reply is in memory.
        """
        wanted = set(message_ids)
        first = next((message_id for message_id in self._queue if message_id in wanted), None)
        return [] if first is None else [self._call(self._queue.pop(first))]

    def _call(self, message: Message) -> Message:
        return answer(self.client_app, message, self.contexts[message.metadata.dst_node_id])
