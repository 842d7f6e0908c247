"""A Grid that calls the ClientApp in this process: no Ray, no SuperLink, breakpoints work."""

from __future__ import annotations

from collections.abc import Iterable
from logging import ERROR
from typing import Any
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common import log
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp import Grid

from strategies import receive

RUN_ID = 1


class InProcessGrid(Grid):
    """Runs each message through the ClientApp at once, one node after the other.

    Nodes have the partitions 0 to ``num_nodes - 1`` and keep their Context, and so their state,
    over the whole run, as on Flower's own runtimes.

    Parameters
    ----------
    client_app : ClientApp
    num_nodes : int
    run_config : dict
        The run config every node sees.
    """

    def __init__(self, client_app: ClientApp, num_nodes: int, run_config: dict[str, Any]) -> None:
        self.client_app = client_app
        self.contexts = {
            number + 1: Context(
                run_id=RUN_ID,
                node_id=number + 1,
                node_config={"partition-id": number, "num-partitions": num_nodes},
                state=RecordDict(),
                run_config=run_config,
            )
            for number in range(num_nodes)
        }
        self._run: Any = None
        self._queue: dict[str, Message] = {}
        _introduce_process()

    def set_run(self, run: Any) -> None:
        """Set the run (its id, before flwr 1.30)."""
        self._run = run

    @property
    def run(self) -> Any:
        """Return what `set_run` was given."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return all node ids: the partition id plus 1."""
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages; a message runs when its reply is pulled."""
        ids = []
        for message in messages:
            message_id = str(uuid4())
            message.metadata.__dict__["_message_id"] = message_id
            self._queue[message_id] = message
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Run the message that was pushed first; return its reply.

        One at a time, so that no more than one reply is in memory.
        """
        wanted = set(message_ids)
        first = next((message_id for message_id in self._queue if message_id in wanted), None)
        return [] if first is None else [self._call(self._queue.pop(first))]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Run the messages; those that did not end in time get no reply."""
        return list(receive(self, messages, float("inf") if timeout is None else timeout))

    def _call(self, message: Message) -> Message:
        """Call the app; what it raises becomes an error reply, as on a real node."""
        try:
            reply = self.client_app(message, self.contexts[message.metadata.dst_node_id])
            if reply.metadata.reply_to_message_id == message.metadata.message_id:
                return reply
            # A mod of Flower that fails answers its own reply: nobody would wait for that.
            return Message(reply.error, reply_to=message)
        except Exception as error:
            log(ERROR, "ClientApp raised an exception", exc_info=error)
            reason = f"{type(error).__name__}: {error}"
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)


def _introduce_process() -> None:
    """Tell newer Flower releases who sends: their Message takes its sender from the process."""
    try:
        from flwr.supercore.task_identity import TaskIdentity
    except ImportError:
        return
    TaskIdentity.task_id, TaskIdentity.run_id = 1, RUN_ID
    TaskIdentity.node_id = SUPERLINK_NODE_ID
