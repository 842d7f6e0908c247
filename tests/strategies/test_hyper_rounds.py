"""`HyperAttention` with a real hypernetwork, through messages: who gets and moves what."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adding_app import Recorder
from flwr.app import ArrayRecord, Context, Message, RecordDict
from personal_app import BANK, NODES, UNITS, client_app, federation, make, run, state_of
from safetensors.numpy import load_file, save_file

from models import Hypernetwork, HypernetworkTrainer
from strategies import Callback, RoundReport, StrategyError, plain_record


def test_node_ids_do_not_matter() -> None:
    """Another federation of the same clients: all ids are new, and their order is turned round."""
    first = run(make(), federation(client_app(), NODES))
    other = run(make(), federation(client_app(), {900: "a", 800: "b", 700: "c"}))
    assert state_of(first) == state_of(other)


def test_after_a_restart_clients_with_new_ids_find_their_rows(tmp_path: Path) -> None:
    """Through a checkpoint's form: what each client is sent is what it would have been sent."""
    before: list[tuple[str, Message]] = []
    after: list[tuple[str, Message]] = []
    strategy = make()
    run(strategy, federation(client_app(seen=before), NODES), rounds=3)
    stopped = run(make(), federation(client_app(), NODES), rounds=2)
    assert stopped.bank is not None
    save_file(stopped.server_state(), tmp_path / "state")
    resumed = make()
    resumed.load_server_state(load_file(tmp_path / "state"))
    resumed.completed_rounds = 2
    grid = federation(client_app(seen=after), {7: "c", 8: "b", 9: "a"})
    resumed.start(grid, plain_record(stopped.bank.tensors()), num_rounds=3)
    assert state_of(resumed) == state_of(strategy)
    assert packs(before)[-3:] == packs(after)[-3:]


def packs(seen: list[tuple[str, Message]]) -> list[tuple[str, dict[str, bytes]]]:
    """What came to whom, as bits."""
    return [(key, {u: a.data for u, a in m.content["arrays"].items()}) for key, m in seen]


def test_replies_in_any_order_give_the_same_bits() -> None:
    found = set()
    for order in itertools.permutations(range(3)):
        strategy = make()
        strategy.take_bank(plain_record(BANK))
        grid = federation(client_app(), NODES)
        assert strategy.bank is not None
        messages = list(strategy.configure_train(1, strategy.bank.record(), {}, grid))
        replies = [grid.client_app(m, grid.contexts[m.metadata.dst_node_id]) for m in messages]
        strategy.aggregate_train(1, [replies[place] for place in order])
        found.add(tuple(state_of(strategy).items()))
    assert len(found) == 1


def test_rows_of_clients_that_were_not_drawn_keep_their_bits() -> None:
    """Two of three train in each round; momentum and decay move nobody else's row."""
    rows: list[np.ndarray] = []
    drawn: list[set[str]] = []

    class Watch(Callback):
        def on_round_end(self, strategy: Any, report: RoundReport) -> None:
            rows.append(strategy.rows.get(["a", "b", "c"]))
            drawn.append({row.client_key for row in report.clients if row.phase == "train"})

    strategy = make(Watch(), train_nodes=2)
    rows.append(strategy.rows.get(["a", "b", "c"]))
    run(strategy, federation(client_app(), NODES), rounds=4)
    for number, clients in enumerate(drawn):
        for place, key in enumerate("abc"):
            same = rows[number][place].tobytes() == rows[number + 1][place].tobytes()
            assert same == (key not in clients)
    assert {len(clients) for clients in drawn} == {2}


def test_a_second_node_of_the_same_key_gets_nothing(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[tuple[str, Message]] = []
    run(make(), federation(client_app(seen=seen), {**NODES, 44: "b"}), rounds=1)
    assert {message.metadata.dst_node_id for _, message in seen} == {11, 22, 33}
    assert "Nodes 22 and 44 both hold client 'b'; the second is left out" in caplog.text


def test_a_newcomer_does_not_take_a_clients_place() -> None:
    """It joins in round 2 with the key of a client that is there, and with a lower id."""
    seen: list[tuple[str, Message]] = []
    grid = federation(client_app(seen=seen), NODES)

    class Join(Callback):
        def on_round_end(self, strategy: Any, report: RoundReport) -> None:
            config: dict[str, Any] = {"key": "b", "tier": "large"}
            grid.contexts[1] = Context(1, 1, config, RecordDict(), {})

    run(make(Join()), grid, rounds=3)
    assert {message.metadata.dst_node_id for _, message in seen} == {11, 22, 33}


def test_learning_about_a_held_out_client_moves_its_row_alone() -> None:
    """From the mean of the trained rows; hypernetwork, momenta, bank and other rows keep bits."""
    states: list[dict[str, bytes]] = []
    mean: list[np.ndarray] = []

    class Watch(Callback):
        def on_round_end(self, strategy: Any, report: RoundReport) -> None:
            states.append(state_of(strategy))
            mean.append(strategy.rows.mean())

        def on_finish(self, strategy: Any) -> None:
            states.append(state_of(strategy))

    seen: list[tuple[str, Message]] = []
    held = {"held_out": ["d"], "held_out_rounds": [0, 2]}
    strategy = make(Watch(), **held)
    run(strategy, federation(client_app(seen=seen), {**NODES, 44: "d"}), rounds=2)
    before, after = states[-2:]
    assert {name for name, bits in after.items() if bits != before[name]} == {"row.d"}
    messages = [message for key, message in seen if key == "d"]
    assert [m.metadata.message_type for m in messages] == ["evaluate", "train", "train", "evaluate"]
    expected = strategy.generator.generate(mean[-1][None])
    for unit in UNITS:
        first = messages[0].content["arrays"][unit].numpy()
        np.testing.assert_array_equal(first, expected[unit][0])
        assert first.tobytes() != messages[-1].content["arrays"][unit].data


def test_a_held_out_client_that_is_not_there_is_named(caplog: pytest.LogCaptureFixture) -> None:
    run(make(held_out=["x"]), federation(client_app(), NODES), rounds=1)
    assert "held-out-clients: no node holds client 'x', so it is not scored." in caplog.text


def test_a_message_holds_the_plans_units_and_nothing_else() -> None:
    """Neither rows nor weights of the hypernetwork travel: 24 numbers a unit, and the head's 4."""
    seen: list[tuple[str, Message]] = []
    app = client_app(seen=seen)
    recorder = Recorder()
    run(make(recorder, evaluate_every=9), federation(app, NODES, tier="small"), rounds=1)
    for _, message in seen[:3]:
        arrays, config = message.content["arrays"], message.content["config"]
        assert {unit: array.shape for unit, array in arrays.items()} == {
            "head2": (4,),
            UNITS[0]: (24,),
        }
        named = {"server-round", "depth", "layout", f"frozen.{UNITS[1]}"}
        assert set(config) == named
    for row in recorder.reports[0].clients[:3]:  # 4 bytes a number, and headers and names
        assert 4 * (4 + 24 + 24) < row.bytes_down < 4 * (4 + 24 + 24) + 1500
        assert 4 * (4 + 24) < row.bytes_up < 4 * (4 + 24) + 1500


@pytest.mark.parametrize("wire_dtype", ["fp16", "bf16", "int8"])
def test_rounding_is_no_change(wire_dtype: str) -> None:
    """Clients return what they got: nothing moves, though they did not get what was made."""
    seen: list[tuple[str, Message]] = []
    app = client_app(lambda key, unit, values: values, seen)
    recorder = Recorder()
    strategy = make(recorder, wire_dtype=wire_dtype)
    before = {name: value.tobytes() for name, value in strategy.generator.state().items()}
    made = strategy.generator.generate(strategy.rows.get(["a"]))
    run(strategy, federation(app, NODES), rounds=2)
    first = next(message for key, message in seen if key == "a")
    assert not np.array_equal(first.content["arrays"][UNITS[0]].numpy(), made[UNITS[0]][0])
    after = strategy.generator.state()
    assert {name: after[name].tobytes() for name in before} == before
    trained = [row for report in recorder.reports for row in report.clients if row.phase == "train"]
    assert [row.metrics["personal-change"] for row in trained] == [0.0] * 6
    assert strategy.rows.get(["a"]).tobytes() == make().rows.get(["a"]).tobytes()


def test_a_round_without_replies_changes_nothing(tmp_path: Path) -> None:
    """All fail; the state without any row goes through a checkpoint, too."""

    def fail(key: str, unit: str, values: np.ndarray) -> np.ndarray:
        raise ValueError(f"{key} broke down")

    strategy, untouched = make(fraction_evaluate=0.0), make()
    untouched.take_bank(plain_record(BANK))
    run(strategy, federation(client_app(fail), NODES))
    assert state_of(strategy) == state_of(untouched)
    save_file(strategy.server_state(), tmp_path / "state")
    other = make()
    other.load_server_state(load_file(tmp_path / "state"))
    assert len(other.rows) == 0


@pytest.mark.parametrize(
    ("names", "shape"), [(("personal1", "personal3"), (3, 4, 2)), (UNITS, (3, 4, 3))]
)
def test_a_hypernetwork_for_other_units_is_refused(
    names: Sequence[str], shape: tuple[int, ...]
) -> None:
    """What it makes would never be used, and no error would tell."""
    strategy = make()
    network = Hypernetwork(dict.fromkeys(names, shape), embedding=5)
    strategy.generator = HypernetworkTrainer(network, rate=1)
    with pytest.raises(StrategyError, match="which is no unit of the bank of that size"):
        run(strategy, federation(client_app(), NODES))


def test_a_reply_with_another_name_is_refused() -> None:
    recorder = Recorder()

    def rename(message: Message, context: Context, call_next: Any) -> Message:
        reply = call_next(message, context)
        if message.metadata.message_type == "train" and context.node_id == 22:
            arrays = dict(reply.content["arrays"].items())
            arrays["personal7"] = arrays.pop(UNITS[0])
            reply.content["arrays"] = ArrayRecord(arrays)
        return reply

    run(make(recorder), federation(client_app(mods=[rename]), NODES), rounds=1)
    refused = {row.client_key: row.refused for row in recorder.reports[0].clients if row.refused}
    assert list(refused) == ["b"]
    assert "personal7" in refused["b"]


def test_a_hypernetwork_that_diverged_ends_the_run_in_a_sentence() -> None:
    strategy = make()
    strategy.row_rate = 1e39
    with (
        np.errstate(all="ignore"),
        pytest.raises(StrategyError, match=r"^hyper-attention-rate: .* not finite; lower it"),
    ):
        run(strategy, federation(client_app(), NODES), rounds=3)
