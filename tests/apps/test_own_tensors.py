"""What clients keep between rounds: in Flower's state, or in files that survive a restart."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import RecordDict
from safetensors.numpy import load_file

from client_app.own import OwnTensors, keep_lasting
from client_app.store import ClientStore
from settings import SettingsError

RunApp = Callable[..., Any]
LOCAL: dict[str, Any] = {"method": "local-attention", "rounds": 4, "evaluate_every": 2}


def own(place: RecordDict | Path, rounds: int = 2, run_id: str = "run") -> OwnTensors:
    return OwnTensors(store(place, run_id), rounds)


def store(place: RecordDict | Path, run_id: str = "run") -> ClientStore:
    if isinstance(place, Path):
        return ClientStore(RecordDict(), str(place), run_id, "client/7")
    return ClientStore(place, "", run_id, "client/7")


def values(number: float) -> dict[str, np.ndarray]:
    return {"personal1.B": np.full((2, 3), number, np.float32)}


@pytest.fixture(params=["state", "files"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> RecordDict | Path:
    return RecordDict() if request.param == "state" else tmp_path / "own"


def test_a_round_begins_with_what_the_one_before_left(place: RecordDict | Path) -> None:
    """Trained in rounds 2 and 5: what is seen from rounds 1 to 7."""
    for number in (2, 5):
        own(place).save(number, values(number))
    assert own(place).before(2) == {}
    for server_round, expected in ((3, 2), (5, 2), (6, 5), (7, 5)):
        found = own(place).before(server_round)
        np.testing.assert_array_equal(found["personal1.B"], values(expected)["personal1.B"])


def test_a_round_that_is_trained_again_overtakes_later_ones(place: RecordDict | Path) -> None:
    """A run killed after round 5 goes on from round 3; what round 5 left is dropped."""
    for number in (2, 3, 5):
        own(place, rounds=3).save(number, values(number))
    own(place, rounds=3).save(4, values(40))
    np.testing.assert_array_equal(own(place).before(9)["personal1.B"], values(40)["personal1.B"])


def test_old_rounds_are_dropped(place: RecordDict | Path) -> None:
    for number in range(1, 8):
        own(place, rounds=2).save(number, values(number))
    assert not own(place).before(5)
    assert own(place).before(6)


def test_other_runs_are_left_alone(tmp_path: Path) -> None:
    own(tmp_path, run_id="one").save(1, values(1))
    assert own(tmp_path, run_id="two").before(5) == {}
    assert own(tmp_path, run_id="one").before(5)


@pytest.mark.parametrize("run_id", ["..", "../..", "/absolute", "a/b"])
def test_no_mark_of_a_run_leads_out_of_the_folder(tmp_path: Path, run_id: str) -> None:
    """It comes from the server, which must not choose where a node writes."""
    folder = store(tmp_path / "own", run_id).folder
    assert folder is not None
    assert folder.resolve().parent.parent == tmp_path / "own"


def test_tensors_that_were_not_trained_stay_as_they_were(place: RecordDict | Path) -> None:
    own(place).save(2, {"a.B": np.ones(2, np.float32), "b.B": np.ones(2, np.float32)})
    own(place).save(4, {"b.B": np.full(2, 4, np.float32)})
    found = own(place).before(5)
    assert {key: value[0] for key, value in found.items()} == {"a.B": 1, "b.B": 4}


def test_a_lasting_unit_is_taken_from_what_came_once(place: RecordDict | Path) -> None:
    """It comes, is left out, comes in another version, and is missed in a third."""
    came = {"block1": np.arange(3, dtype=np.float32)}
    assert keep_lasting(store(place), {"block1": "one"}, came) == {}
    own(place).save(1, values(1))  # other tensors in the store are none of its business
    found = keep_lasting(store(place), {"block1": "one"}, {})
    np.testing.assert_array_equal(found["block1"], [0, 1, 2])
    keep_lasting(store(place), {"block1": "two"}, {"block1": -1 * came["block1"]})
    found = keep_lasting(store(place), {"block1": "two"}, {})
    np.testing.assert_array_equal(found["block1"], [0, -1, -2])
    for version in ("one", "three"):
        with pytest.raises(SettingsError, match="no longer has 'block1'"):
            keep_lasting(store(place), {"block1": version}, {})


def test_a_damaged_file_gets_a_sentence(tmp_path: Path) -> None:
    own(tmp_path).save(1, values(1))
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(b"damaged")
    with pytest.raises(SettingsError, match="cannot be read"):
        own(tmp_path).before(2)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(SettingsError, match="cannot be written to"):
        own(blocked).save(1, values(1))


def test_personal_tensors_neither_travel_nor_enter_the_bank(
    run_app: RunApp, tmp_path: Path
) -> None:
    run = run_app(**LOCAL, state_dir=str(tmp_path / "own"), learning_rate=0.01)
    sizes = {key: value.size for key, value in run.bank().items()}
    heads = {n: sum(s for k, s in sizes.items() if k.startswith(f"head{n}")) for n in (2, 4, 6)}
    trained = run.summary["trainable-parameters"]
    # `medium` trains blocks 3 and 4 of its four.
    assert trained == {"small": heads[2], "medium": heads[4], "large": sum(heads.values())}
    assert all(not value.any() for key, value in run.bank().items() if key.startswith("personal"))
    files = list((tmp_path / "own").rglob("*.safetensors"))
    blocks = {path.parent.name: {key.split(".")[0] for key in load_file(path)} for path in files}
    for client, names in blocks.items():
        expected = {0: range(1, 3), 1: range(3, 5), 2: range(1, 7)}[int(client) // 2]
        assert names == {f"personal{number}" for number in expected}
    tensors = [load_file(path) for path in files]
    assert all(value.any() for tensor in tensors for value in tensor.values())


def test_heads_may_stay_with_the_clients(run_app: RunApp, tmp_path: Path) -> None:
    """FedTP-Per: what a hypernetwork makes travels, heads do not."""
    run = run_app(
        method="hyper-attention",
        personal_heads=True,
        rounds=2,
        state_dir=str(tmp_path / "own"),
    )
    sizes = {key: value.size for key, value in run.bank().items() if key.startswith("personal")}
    assert run.summary["trainable-parameters"]["large"] == sum(sizes.values())
    keys = {key for path in (tmp_path / "own").rglob("*.safetensors") for key in load_file(path)}
    assert {key.split(".")[0] for key in keys} <= {"head2", "head4", "head6"}


def test_nothing_may_travel_at_all(run_app: RunApp) -> None:
    """Attention and heads of each client's own: what clients can learn alone."""
    few = run_app("few", **{**LOCAL, "rounds": 1, "evaluate_every": 1}, personal_heads=True)
    run = run_app(**{**LOCAL, "rounds": 6}, personal_heads=True, clients_per_round=6)
    assert set(run.summary["trainable-parameters"].values()) == {0}
    assert run.summary["bytes"]["minimum-up"] == 0
    assert run.summary["client-accuracy"]["mean"] > few.summary["client-accuracy"]["mean"]


def test_clients_go_on_from_their_own(run_app: RunApp) -> None:
    """With the averaged heads at rest, accuracy still rises: a client's attention is its own."""
    few = run_app("few", **{**LOCAL, "rounds": 1, "evaluate_every": 1}, clients_per_round=6)
    many = run_app("many", **{**LOCAL, "rounds": 6}, clients_per_round=6, learning_rate=0.01)
    accuracy = [run.summary["client-accuracy"]["mean"] for run in (few, many)]
    assert accuracy[1] > accuracy[0]


@pytest.mark.parametrize(("checkpoint_every", "stop"), [(1, 3), (2, 2)])
def test_a_resumed_run_takes_the_clients_back_with_it(
    run_app: RunApp, tmp_path: Path, checkpoint_every: int, stop: int
) -> None:
    """Clients have trained rounds that the server's checkpoint does not know of."""
    values = {**LOCAL, "checkpoint_every": checkpoint_every, "state_dir": str(tmp_path / "own")}
    whole = run_app("whole", **values)
    files = {path: path.read_bytes() for path in (tmp_path / "own").rglob("*.safetensors")}
    cut = tmp_path / "cut"
    shutil.copytree(whole.output, cut)
    shutil.rmtree(cut / "checkpoint" / "round-00004")
    assert [path.name for path in (cut / "checkpoint").iterdir()] == [f"round-{stop:05d}"]
    rest = run_app("cut", **values, resume=str(cut))
    assert rest.metrics[-1]["accuracy-mean"] == whole.metrics[-1]["accuracy-mean"]
    assert rest.summary["client-accuracy"] == whole.summary["client-accuracy"]
    for key, value in whole.bank().items():
        assert rest.bank()[key].tobytes() == value.tobytes()
    after = {path: path.read_bytes() for path in (tmp_path / "own").rglob("*.safetensors")}
    assert after == files
