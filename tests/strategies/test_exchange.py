"""Deadlines, late and stray replies, pauses, and replies that come in any order."""

import itertools
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from adding_app import BANK, Recorder, adding_app, federate, partition_of, planner
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from server_app.inprocess import InProcessGrid
from strategies import AdapterFedAvg, exchange, plain_record
from strategies.exchange import receive

LATE = "it did not come in time"


class Clock:
    """Time that passes only when something is waited for; a wait is a little too long."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.pauses.append(seconds)
        self.now += seconds + 1e-4


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(exchange, "time", found)
    return found


class Mailbox(InProcessGrid):
    """Gives the replies that are due at a time, all that are there, and counts the looks."""

    def __init__(self, clock: Clock, due: dict[int, float]) -> None:
        super().__init__(adding_app(), len(due), {})
        self.clock, self.due = clock, due
        self.looks = 0

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self.looks += 1
        waiting = {i: self._queue[i].metadata.dst_node_id for i in {*message_ids} & {*self._queue}}
        ready = [i for i, node in waiting.items() if self.due[node] <= self.clock.now]
        return [self._call(self._queue.pop(message_id)) for message_id in ready]

    def ask(self, timeout: float) -> list[int]:
        """Ask all nodes; return those whose replies came, in that order."""
        messages = adding_messages(self, len(self.due))
        return [reply.metadata.src_node_id for reply in receive(self, messages, timeout)]


def adding_messages(grid: InProcessGrid, nodes: int) -> list[Message]:
    strategy = AdapterFedAvg(min_available_nodes=nodes)
    return list(strategy.configure_train(1, plain_record(BANK), ConfigRecord(), grid))


def test_replies_that_are_there_are_fetched_in_one_look(clock: Clock) -> None:
    mailbox = Mailbox(clock, {1: 0, 2: 0, 3: 0})
    assert sorted(mailbox.ask(timeout=10)) == [1, 2, 3]
    assert (mailbox.looks, clock.pauses) == (1, [])


def test_pauses_are_a_tenth_of_the_wait_between_two_milliseconds_and_a_second(
    clock: Clock,
) -> None:
    """Replies at 0, 4 and 34 seconds: the wait begins anew with each."""
    mailbox = Mailbox(clock, {1: 0, 2: 4, 3: 34})
    assert mailbox.ask(timeout=3600) == [1, 2, 3]
    now, waited, expected = 0.0, 0.0, []
    for pause in clock.pauses:
        expected.append(min(max(waited / 10, 0.002), 1))
        before, now = now, now + pause + 1e-4
        waited = 0.0 if before < 4 <= now else waited + pause + 1e-4
    assert clock.pauses == pytest.approx(expected)
    assert max(clock.pauses) == 1
    assert mailbox.looks < 200


def test_a_reply_just_before_the_deadline_counts_and_one_after_it_does_not(clock: Clock) -> None:
    mailbox = Mailbox(clock, {1: 9.99, 2: 10.01})
    assert mailbox.ask(timeout=10) == [1]
    assert 10 < clock.now < 10.01


def test_no_time_limit(clock: Clock) -> None:
    assert Mailbox(clock, {1: 5000}).ask(timeout=float("inf")) == [1]


def slow(clock: Clock, seconds: Callable[[int, int], float]) -> Any:
    """A mod that lets training take time, told by partition id and round."""

    def mod(message: Message, context: Context, call_next: Any) -> Message:
        server_round = int(message.content["config"]["server-round"])
        clock.now += seconds(partition_of(context), server_round)
        return call_next(message, context)

    return mod


def test_a_client_slower_than_the_deadline_is_left_out_in_process(clock: Clock) -> None:
    """Of partitions 0 to 2 with weights 1 to 3, which add 1 to 3, the last is late in round 1.

    Mean of the first two: (1 + 2 * 2) / 3 = 5/3; of all three: (1 + 4 + 9) / 6 = 7/3.
    """
    app = adding_app(mods=[slow(clock, lambda number, r: 100.0 if (number, r) == (2, 1) else 1.0)])
    recorder = Recorder()
    strategy = AdapterFedAvg(
        min_available_nodes=3, planner=planner(), fraction_evaluate=0, callbacks=[recorder]
    )
    grid = InProcessGrid(app, 3, {})
    result = strategy.start(grid, plain_record(BANK), num_rounds=2, timeout=10)
    reasons = [{row.client_key: row.refused for row in r.clients} for r in recorder.reports]
    assert reasons == [{"0": "", "1": "", "2": LATE}, {"0": "", "1": "", "2": ""}]
    np.testing.assert_allclose(result.arrays["shared.token"].numpy(), [1 + 4, 2 + 4], rtol=1e-6)


class ThreadGrid(InProcessGrid):
    """Runs every message in a thread of its own; replies come when they are done.

    With `strays` it hands out all that came, whoever is asked for, and every reply twice.
    """

    def __init__(self, app: ClientApp, nodes: int, *, strays: bool) -> None:
        super().__init__(app, nodes, {})
        self.strays = strays
        self.handed_out: set[str] = set()
        self.done: dict[str, Message] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = list(super().push_messages(messages))
        for message_id in ids:
            threading.Thread(target=self._work, args=[message_id], daemon=True).start()
        return ids

    def _work(self, message_id: str) -> None:
        self.done[message_id] = self._call(self._queue.pop(message_id))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        wanted = list(self.done) if self.strays else {*message_ids} & {*self.done}
        self.handed_out.update(wanted)
        replies = [self.done[message_id] for message_id in wanted]
        return replies * 2 if self.strays else replies


@pytest.mark.parametrize("strays", [False, True])
def test_a_late_reply_is_not_mixed_into_the_next_round(strays: bool) -> None:
    """Partition 1 of three answers round 1 in round 2, with a 1000 and before its own reply.

    Weights are 1, 2, 3. Round 1 adds the mean of 1 and 3, (1 + 9) / 4 = 5/2; round 2 all: 7/3.
    """
    second_round = threading.Event()
    late: set[str] = set()

    def until(happened: Callable[[], Any]) -> None:
        deadline = time.monotonic() + 30
        while not happened():
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def answer_late(message: Message, context: Context, call_next: Any) -> Message:
        reply = call_next(message, context)
        if partition_of(context) == 1 and message.content["config"]["server-round"] == 1:
            until(second_round.is_set)
            record = reply.content["arrays"]
            for key in list(record):
                record[key] = Array(np.full_like(record[key].numpy(), 1000))
            late.add(message.metadata.message_id)
        elif partition_of(context) == 1:
            until(lambda: late & (grid.handed_out if strays else {*grid.done}))
        return reply

    grid = ThreadGrid(adding_app(mods=[answer_late]), 3, strays=strays)
    strategy = AdapterFedAvg(min_available_nodes=3)
    bank, reasons = plain_record(BANK), []
    for server_round, timeout in ((1, 0.5), (2, 30.0)):
        messages = strategy.configure_train(server_round, bank, ConfigRecord(), grid)
        if server_round == 2:
            second_round.set()
        bank, _ = strategy.aggregate_train(server_round, receive(grid, messages, timeout))
        assert bank is not None
        reasons.append([row.refused for row in strategy.report.clients])
    assert reasons == [["", LATE, ""], ["", "", ""]]
    moved = 5 / 2 + 7 / 3
    np.testing.assert_allclose(bank["shared.token"].numpy(), [1 + moved, 2 + moved], rtol=1e-6)


VALUES = [(1e8, 1), (-1e8, 1), (3.3, 0.1), (0.7, 5)]  # (what is sent, its weight)


def prepared(nodes: int) -> tuple[AdapterFedAvg, dict[int, Message]]:
    """A strategy that has asked some nodes, and what it asked, by node."""
    strategy = AdapterFedAvg(min_available_nodes=nodes)
    grid = InProcessGrid(ClientApp(), nodes, {})
    messages = strategy.configure_train(1, plain_record(BANK), ConfigRecord(), grid)
    return strategy, {message.metadata.dst_node_id: message for message in messages}


def reply_to(message: Message, value: float, weight: float) -> Message:
    record = ArrayRecord({"block1.w": Array(np.array([value], np.float32))})
    metrics = MetricRecord({"num-examples": weight})
    return Message(RecordDict({"arrays": record, "metrics": metrics}), reply_to=message)


def test_replies_in_any_order_give_the_same_bits() -> None:
    """Summed as they come, these four give other bits in another order."""
    sums = {
        float(sum(np.float32(v) * np.float32(w) for v, w in order))
        for order in itertools.permutations(VALUES)
    }
    assert len(sums) > 1
    found = set()
    for order in itertools.permutations([1, 2, 3, 4]):
        strategy, asked = prepared(4)
        replies = (reply_to(asked[node], *VALUES[node - 1]) for node in order)
        bank, _ = strategy.aggregate_train(1, replies)
        assert bank is not None
        found.add(bank["block1.w"].numpy().tobytes())
    assert len(found) == 1


@pytest.mark.parametrize(
    ("order", "most"),
    [
        # Beside those that wait for one before them: the last that came, the last that was added.
        (range(1, 31), 1),
        ([2, 1, 4, 3, *range(5, 31)], 2),
        ([*range(2, 6), 1, *range(6, 31)], 2),
    ],
)
def test_a_reply_is_let_go_when_those_before_it_have_come(order: Any, most: int) -> None:
    strategy, asked = prepared(30)
    alive: list[weakref.ref[Message]] = []
    arrived: set[int] = set()

    def arriving() -> Iterator[Message]:
        for node in order:
            reply = reply_to(asked[node], 1, 1)
            alive.append(weakref.ref(reply))
            arrived.add(node)
            yield reply
            del reply
            first_missing = next(n for n in itertools.count(1) if n not in arrived)
            waiting = sum(n > first_missing for n in arrived)
            assert sum(ref() is not None for ref in alive) <= waiting + most

    bank, _ = strategy.aggregate_train(1, arriving())
    assert bank is not None
    assert bank["block1.w"].numpy().tolist() == [1]


def test_memory_in_process_does_not_grow_with_the_clients() -> None:
    """Arrays of replies that are alive at the same time, by the number of clients."""

    def peak(nodes: int) -> int:
        seen: list[weakref.ref[Array]] = []
        counts = [0]

        def count(message: Message, context: Context, call_next: Any) -> Message:
            reply = call_next(message, context)
            seen.extend(map(weakref.ref, reply.content["arrays"].values()))
            counts.append(sum(ref() is not None for ref in seen))
            return reply

        federate(adding_app(mods=[count]), nodes, rounds=2, planner=None, fraction_evaluate=0)
        assert len(seen) == 2 * nodes * len(BANK)
        return max(counts)

    # A reply and the one before it.
    assert peak(5) == peak(60) == 2 * len(BANK)
