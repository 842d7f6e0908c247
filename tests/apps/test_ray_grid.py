"""The grid on Ray: nodes keep their state, and a process that ends costs one reply alone."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from flwr.app import Message, RecordDict
from support import SMALL

from server_app.ray_grid import RayGrid
from settings import Settings
from strategies import receive

NODES = 6


@pytest.fixture(scope="module")
def grid(tiny_vit: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayGrid]:
    values = {**SMALL, "backbone": str(tiny_vit), "num-clients": NODES}
    values["output-dir"] = str(tmp_path_factory.mktemp("out"))
    ray.init(num_cpus=2, include_dashboard=False)
    yield RayGrid(2, NODES, dict(Settings.from_dict(values).to_dict()))
    ray.shutdown()


def ask(grid: RayGrid) -> list[Message]:
    """Ask every node who it is."""
    return [grid.create_message(RecordDict(), "query", n, "1") for n in grid.get_node_ids()]


def process_of(actor: Any) -> int:
    """Ask one of Ray's processes for its number."""
    return int(ray.get(actor.__ray_call__.remote(lambda _: os.getpid())))


def test_every_node_answers_for_itself(grid: RayGrid) -> None:
    replies = list(grid.send_and_receive(ask(grid)))
    assert sorted(reply.metadata.src_node_id for reply in replies) == list(range(1, NODES + 1))
    assert [reply.error.reason for reply in replies if reply.has_error()] == []


def test_a_process_that_ends_costs_one_reply(grid: RayGrid) -> None:
    """Another one takes its place, and the node has the state that it had before."""
    list(grid.send_and_receive(ask(grid)))
    before = dict(grid._states)
    os.kill(process_of(grid._free[-1]), signal.SIGKILL)
    replies = list(grid.send_and_receive(ask(grid)))
    failed = [reply for reply in replies if reply.has_error()]
    assert len(replies) == NODES
    assert len(failed) == 1
    assert failed[0].error.reason.startswith("Ray: ")
    changed = {node for node, state in grid._states.items() if state is not before[node]}
    assert changed == set(range(1, NODES + 1)) - {failed[0].metadata.src_node_id}
    assert len({process_of(actor) for actor in grid._free}) == 2
    assert not any(reply.has_error() for reply in grid.send_and_receive(ask(grid)))


def test_a_wait_ends_with_the_first_reply(grid: RayGrid) -> None:
    ids = set(grid.push_messages(ask(grid)))
    assert grid.wait(60) is not None
    replies = list(grid.pull_messages(ids))
    assert 1 <= len(replies) <= NODES
    while len(replies) < NODES:
        grid.wait(60)
        replies += grid.pull_messages(ids)
    assert {reply.metadata.reply_to_message_id for reply in replies} == ids
    assert grid.wait(60) is None  # at once, as nothing is on its way


def test_what_comes_too_late_is_nobodys_reply(grid: RayGrid) -> None:
    assert list(receive(grid, ask(grid), timeout=0)) == []
    later = list(grid.send_and_receive(ask(grid)))
    assert sorted(reply.metadata.src_node_id for reply in later) == list(range(1, NODES + 1))
