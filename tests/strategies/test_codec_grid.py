"""Other people's strategies with a wire dtype: Flower's own, around a `CodecGrid`."""

import re
from typing import Any

import numpy as np
import pytest
from codec_apps import LOSSY, add_one, app_of, encoded, message_of
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod
from flwr.serverapp.strategy import DifferentialPrivacyClientSideFixedClipping, FedAvg
from support import ROOT

from server_app.inprocess import InProcessGrid
from strategies import AdapterFedAvg, StrategyError, plain_record, record_bytes
from strategies.codec import WIRE_DTYPES, form
from strategies.codec_grid import CodecGrid
from strategies.codec_mod import wire_codec


class CountingGrid(CodecGrid):
    """Counts what the grid inside gets and gives, by `record_bytes`, and keeps the messages."""

    def __init__(self, grid: InProcessGrid, wire_dtype: str) -> None:
        super().__init__(grid, wire_dtype)
        self.down: list[Message] = []
        self.up: list[tuple[str, int]] = []
        inner = grid.client_app

        def spy(message: Message, context: Context) -> Message:
            self.down.append(message)
            reply = inner(message, context)
            if not reply.has_error():
                self.up.append((message.metadata.message_type, record_bytes(reply.content)))
            return reply

        grid.client_app = spy  # type: ignore[assignment]


def federate(
    app: ClientApp,
    wire_dtype: str,
    tensors: dict[str, np.ndarray],
    rounds: int = 1,
    fraction_evaluate: float = 1.0,
) -> tuple[dict[str, np.ndarray], CountingGrid]:
    grid = CountingGrid(InProcessGrid(app, 2, {}), wire_dtype)
    strategy = FedAvg(fraction_evaluate=fraction_evaluate)
    result = strategy.start(grid, plain_record(tensors), num_rounds=rounds)
    return {key: array.numpy() for key, array in result.arrays.items()}, grid


BANK = {
    "w": np.array([[0.1, -1], [100, 3]], np.float32),
    "b": np.float32(1e-3).reshape(()),
    "steps": np.array([7], np.int64),
}


@pytest.mark.parametrize("wire_dtype", WIRE_DTYPES)
def test_plain_fedavg_with_the_mod(wire_dtype: str) -> None:
    """Clients of weight 1 and 2 add 1 and 2: the mean difference is 5/3, twice."""
    got, grid = federate(app_of(add_one), wire_dtype, BANK, rounds=2)
    assert {key: value.shape for key, value in got.items()} == {"w": (2, 2), "b": (), "steps": (1,)}
    # The error of what came down cancels; that of the difference is below a percent.
    for key in ("w", "b"):
        np.testing.assert_allclose(got[key] - BANK[key], 10 / 3, rtol=0.01)
    # Integers travel as they are.
    assert grid.down[0].content["arrays"]["steps"].stype == "numpy.ndarray"
    assert form(grid.down[0].content["arrays"]["w"]) == wire_dtype


@pytest.mark.parametrize("wire_dtype", LOSSY)
def test_evaluations_get_decoded_arrays(wire_dtype: str) -> None:
    app = app_of(lambda _, tensors: tensors)
    grid = CodecGrid(InProcessGrid(app, 2, {}), wire_dtype)
    result = FedAvg().start(grid, plain_record(BANK), num_rounds=1)
    assert result.evaluate_metrics_clientapp[1]["largest"] == pytest.approx(100, rel=1e-3)


@pytest.mark.parametrize(("wire_dtype", "size"), [("fp16", 2), ("bf16", 2), ("int8", 1)])
def test_bytes_of_both_directions(wire_dtype: str, size: int) -> None:
    """1000 numbers; int8 12 bytes more; then 7 dtype, 8 + n stype, 8 shape, and the names."""
    _, grid = federate(app_of(add_one), wire_dtype, {"w": np.ones(1000, np.float32)})
    array = 1000 * size + (12 if size == 1 else 0) + 7 + 9 + len(wire_dtype) + 8 + len("w")
    config = len("config") + len("server-round") + 8
    metrics = len("metrics") + len("num-examples") + 8
    assert record_bytes(grid.down[0].content) == len("arrays") + array + config
    assert grid.up[0] == ("train", len("arrays") + array + metrics)


@pytest.mark.parametrize("wire_dtype", LOSSY)
def test_small_updates_are_not_lost_in_the_weights(wire_dtype: str) -> None:
    """A weight of 100 in these forms has steps of 1/16 and more; 20 updates of 0.001 count."""
    app = app_of(
        lambda _, tensors: {key: value + np.float32(1e-3) for key, value in tensors.items()}
    )
    got, _ = federate(app, wire_dtype, {"w": np.array([100, 0], np.float32)}, rounds=20)
    np.testing.assert_allclose(got["w"], [100.02, 0.02], atol=2e-4)


def test_a_bad_reply_becomes_an_error_reply() -> None:
    """FedAvg goes on with the other client."""

    def tearing(message: Message, context: Context, call_next: Any) -> Message:
        reply = call_next(message, context)
        if message.metadata.message_type == "train" and context.node_config["partition-id"] == 0:
            reply.content["arrays"]["w"].data = b"1"
        return reply

    app = app_of(add_one, (tearing, wire_codec))
    got, _ = federate(app, "bf16", {"w": np.array([1, 2], np.float32)})
    assert got["w"].tolist() == [3, 4]


@pytest.mark.parametrize("wire_dtype", WIRE_DTYPES)
def test_clipping_mod_sees_floats(wire_dtype: str) -> None:
    """Both clients add (3, 4) or (6, 8), norms 5 and 10, clipped to (0.6, 0.8)."""
    direction = np.array([3, 4], np.float32)
    app = app_of(
        lambda number, tensors: {"w": tensors["w"] + (number + 1) * direction},
        (wire_codec, fixedclipping_mod),
    )
    strategy = DifferentialPrivacyClientSideFixedClipping(FedAvg(), 1e-9, 1.0, 2)
    grid = CodecGrid(InProcessGrid(app, 2, {}), wire_dtype)
    result = strategy.start(grid, plain_record({"w": np.ones(2, np.float32)}), num_rounds=1)
    np.testing.assert_allclose(result.arrays["w"].numpy(), [1.6, 1.8], rtol=0.01)


def test_a_mod_before_the_codec_cannot_read() -> None:
    """The order matters; outermost, a mod gets what is on the wire, and says so."""
    app = app_of(add_one, (LocalDpMod(1.0, 1.0, 1.0, 0.1), wire_codec))
    grid = InProcessGrid(app, 1, {})
    message = encoded(message_of({"w": np.ones(2, np.float32)}), "int8")
    (reply,) = grid.send_and_receive([message])
    assert "Unsupported serialization" in reply.error.reason


def test_local_dp_mod_adds_its_noise_before_the_rounding() -> None:
    app = app_of(add_one, (wire_codec, LocalDpMod(1.0, 1e-6, 1.0, 0.1)))
    # No evaluation: the mod wants Arrays in every reply.
    got, _ = federate(app, "bf16", {"w": np.zeros(4, np.float32)}, fraction_evaluate=0.0)
    np.testing.assert_allclose(got["w"], 0.5, rtol=0.01)  # a norm of 1


class Silent(InProcessGrid):
    """A grid whose node 1 never replies."""

    def pull_messages(self, message_ids: Any) -> list[Message]:
        replies = super().pull_messages(message_ids)
        return [reply for reply in replies if reply.metadata.src_node_id != 1]


def push(grid: CodecGrid, node_ids: list[int], ttl: float | None = None) -> list[str]:
    tensors = {"w": np.ones(2, np.float32)}
    content = RecordDict({"arrays": plain_record(tensors)})
    return list(grid.push_messages([Message(content, n, "train", ttl=ttl) for n in node_ids]))


def test_pushed_and_pulled_messages_are_decoded() -> None:
    grid = CodecGrid(InProcessGrid(app_of(add_one), 2, {}), "int8")
    ids = push(grid, [1, 2])
    # A message without Arrays to the same node changes nothing.
    grid.push_messages([Message(RecordDict(), 1, "query")])
    for message_id, expected in zip(ids, (2, 3), strict=True):
        (reply,) = grid.pull_messages([message_id])
        assert reply.content["arrays"]["w"].numpy().tolist() == [expected] * 2
    assert not grid._sent


def test_memory_does_not_grow_when_replies_never_come() -> None:
    grid = CodecGrid(Silent(app_of(add_one), 3, {}), "int8")
    for _ in range(5):
        ids = push(grid, [1, 2])
        assert [len(list(grid.pull_messages([message_id]))) for message_id in ids] == [0, 1]
    assert len(grid._sent) == 1
    push(grid, [3], ttl=1e-6)
    push(grid, [2])
    assert sorted(m.metadata.dst_node_id for m in grid._sent.values()) == [1, 2]


def test_a_reply_to_what_was_forgotten_is_an_error_reply() -> None:
    grid = CodecGrid(InProcessGrid(app_of(add_one), 1, {}), "int8")
    (first,) = push(grid, [1])
    push(grid, [1])
    (reply,) = grid.pull_messages([first])
    assert "'w' is a difference from an array that was not sent" in reply.error.reason


def test_the_grid_inside_can_be_reached() -> None:
    inner = InProcessGrid(app_of(add_one), 2, {})
    grid = CodecGrid(inner, "bf16")
    grid.set_run("a run")
    assert (inner.run, grid.run, list(grid.get_node_ids())) == ("a run", "a run", [1, 2])
    assert grid.contexts is inner.contexts
    assert grid.create_message(RecordDict(), "train", 2, "").metadata.dst_node_id == 2
    with pytest.raises(StrategyError, match="choose one of"):
        CodecGrid(inner, "int4")


def test_the_example_of_the_page_runs() -> None:
    """Two nodes, 20 rounds of least squares."""
    page = (ROOT / "docs" / "wire-format.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    space: dict[str, Any] = {}
    # Installed, the package is `fedgraft.strategies`; here it stands at the top level.
    exec(example.replace("from fedgraft.", "from "), space)
    context = Context(1, 0, {}, RecordDict(), {})
    space["server_app"](InProcessGrid(space["client_app"], 2, {}), context)
    assert space["weights"] == pytest.approx([2, -1], abs=0.01)


@pytest.mark.parametrize("wire_dtype", LOSSY)
def test_adapter_fedavg_needs_no_grid_around_it(wire_dtype: str) -> None:
    """Nodes 0 and 1 with 1 and 2 examples add 1 and 2: the mean rises by 5/3, up to a step."""
    strategy = AdapterFedAvg(fraction_evaluate=0.0, wire_dtype=wire_dtype)
    start = {"w": np.array([0.5, 64.0], np.float32)}
    result = strategy.start(InProcessGrid(app_of(add_one), 2, {}), plain_record(start), 1)
    step = 1 / 127 if wire_dtype == "int8" else 2**-8
    np.testing.assert_allclose(result.arrays["w"].numpy() - start["w"], 5 / 3, atol=2 * step)
