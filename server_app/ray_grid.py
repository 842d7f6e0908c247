"""A Grid whose nodes share the processes that Ray runs on this machine, several at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import ray
from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from ray.exceptions import RayError

from server_app.local_grid import LocalGrid, answer, introduce_process, make_context


class ClientProcess:
    """What runs in each of Ray's processes: the ClientApp, for one node after the other.

    Parameters
    ----------
    num_nodes : int
    run_config : dict
        The run config every node sees.
    """

    def __init__(self, num_nodes: int, run_config: dict[str, Any]) -> None:
        from client_app.app import app

        self.client_app = app
        self.num_nodes = num_nodes
        self.run_config = run_config
        introduce_process()

    def answer(self, message: Message, state: RecordDict) -> tuple[Message, RecordDict]:
        """Return the reply of a node, and its state after it."""
        context = make_context(message.metadata.dst_node_id, self.num_nodes, self.run_config)
        context.state = state
        return answer(self.client_app, message, context), context.state


@dataclass(frozen=True)
class Task:
    """A message that a process answers; references to its node's state before and after it."""

    message_id: str
    message: Message
    process: Any
    before: Any
    after: Any


class RayGrid(LocalGrid):
    """Gives messages to Ray's processes as these become free.

    Flower's own engine on Ray looks for messages every 0.1 s, and a process waits for its next one
    while the last reply is stored: a fifth of a round of short trainings (docs/benchmarks.md). A
    node's state stays in Ray's store, where only these processes read it.

    Parameters
    ----------
    processes : int
    num_nodes : int
    run_config : dict
        The run config every node sees.
    cpus, gpus : float
        Ray's resources of a process.
    """

    def __init__(
        self,
        processes: int,
        num_nodes: int,
        run_config: dict[str, Any],
        *,
        cpus: float = 1,
        gpus: float = 0,
    ) -> None:
        super().__init__()
        remote: Any = ray.remote(num_cpus=cpus, num_gpus=gpus)(ClientProcess)
        self._start = lambda: remote.remote(num_nodes, run_config)
        self._free = [self._start() for _ in range(processes)]
        self._states = dict.fromkeys(range(1, num_nodes + 1), ray.put(RecordDict()))
        self._waiting: deque[tuple[str, Message]] = deque()
        self._tasks: dict[Any, Task] = {}  # by the reference to the reply
        self._replies: dict[str, Message] = {}

    def get_node_ids(self) -> Iterable[int]:
        """Return all node ids, from 1."""
        return list(self._states)

    def take(self, message_id: str, message: Message) -> None:
        """Hand a message to a process, or let it wait for one."""
        self._waiting.append((message_id, message))
        self._feed()

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that have come."""
        while (reference := self.wait(0)) is not None:
            task = self._tasks.pop(reference)
            self._replies[task.message_id] = self._fetch(reference, task)
        found = [message_id for message_id in message_ids if message_id in self._replies]
        return [self._replies.pop(message_id) for message_id in found]

    def wait(self, seconds: float) -> Any:
        """Wait for a reply, no longer than some seconds; return the reference to it, if any."""
        done, _ = ray.wait(list(self._tasks), timeout=seconds) if self._tasks else ([], [])
        return done[0] if done else None

    def _feed(self) -> None:
        """Give messages to free processes."""
        while self._waiting and self._free:
            (message_id, message), process = self._waiting.popleft(), self._free.pop()
            node = message.metadata.dst_node_id
            before = self._states[node]
            reply, after = process.answer.options(num_returns=2).remote(message, before)
            self._states[node] = after
            self._tasks[reply] = Task(message_id, message, process, before, after)

    def _fetch(self, reference: Any, task: Task) -> Message:
        """Return a reply; where its process ended, an error, with another process in its place."""
        process = task.process
        try:
            reply: Message = ray.get(reference)
        except RayError as error:
            ray.kill(process)
            process = self._start()
            node = task.message.metadata.dst_node_id
            if self._states[node] is task.after:
                self._states[node] = task.before
            reason = f"Ray: {str(error).splitlines()[0]}"
            failure = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason)
            reply = Message(failure, reply_to=task.message)
        self._free.append(process)
        self._feed()
        return reply
