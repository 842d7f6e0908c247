"""What grids have in common that reach all nodes from this machine, without a SuperLink."""

from __future__ import annotations

from abc import abstractmethod
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


class LocalGrid(Grid):
    """Takes messages one by one; what happens to them is a matter of each kind."""

    def __init__(self) -> None:
        self._run: Any = None
        introduce_process()

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

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Give each message an id, and take it."""
        ids = []
        for message in messages:
            message_id = str(uuid4())
            message.metadata.__dict__["_message_id"] = message_id
            self.take(message_id, message)
            ids.append(message_id)
        return ids

    @abstractmethod
    def take(self, message_id: str, message: Message) -> None:
        """Take a message that was pushed."""

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Exchange messages; those that are not answered in time get no reply."""
        return list(receive(self, messages, float("inf") if timeout is None else timeout))


def make_context(node_id: int, num_nodes: int, run_config: dict[str, Any]) -> Context:
    """Return what a node knows at first; it has the partition of its id less 1.

    As on Flower's own runtimes it is kept, and so its state, over the whole run.
    """
    return Context(
        run_id=RUN_ID,
        node_id=node_id,
        node_config={"partition-id": node_id - 1, "num-partitions": num_nodes},
        state=RecordDict(),
        run_config=run_config,
    )


def answer(client_app: ClientApp, message: Message, context: Context) -> Message:
    """Call the app; what it raises becomes an error reply, as on a real node."""
    try:
        reply = client_app(message, context)
        if reply.metadata.reply_to_message_id == message.metadata.message_id:
            return reply
        # A mod of Flower that fails answers its own reply: nobody would wait for that.
        return Message(reply.error, reply_to=message)
    except Exception as error:
        log(ERROR, "ClientApp raised an exception", exc_info=error)
        reason = f"{type(error).__name__}: {error}"
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)


def introduce_process() -> None:
    """Tell newer Flower releases who sends: their Message takes its sender from the process."""
    try:
        from flwr.supercore.task_identity import TaskIdentity
    except ImportError:
        return
    TaskIdentity.task_id, TaskIdentity.run_id = 1, RUN_ID
    TaskIdentity.node_id = SUPERLINK_NODE_ID
