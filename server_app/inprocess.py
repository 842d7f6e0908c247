"""A Grid that calls the ClientApp in this process: no Ray, no SuperLink, breakpoints work."""

from __future__ import annotations

import time
from collections.abc import Iterable
from logging import ERROR
from typing import Any
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common import log
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp import Grid

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
        self._replies: dict[str, Message] = {}
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
        """Run each message and keep its reply."""
        ids = []
        for message in messages:
            message_id = str(uuid4())
            message.metadata.__dict__["_message_id"] = message_id
            self._replies[message_id] = self._call(message)
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Hand out the replies."""
        return [self._replies.pop(message_id) for message_id in message_ids]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Run the messages; those not begun when the time is over get no reply."""
        deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
        ids: list[str] = []
        for message in messages:
            if time.monotonic() > deadline:
                break
            ids.extend(self.push_messages([message]))
        return self.pull_messages(ids)

    def _call(self, message: Message) -> Message:
        """Call the app; what it raises becomes an error reply, as on a real node."""
        try:
            return self.client_app(message, self.contexts[message.metadata.dst_node_id])
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
