"""Bad input: what a user types, and the one sentence that it gets; replies; runs that die.

The rows stand in tests/bad_settings.py, bad_methods.py, bad_tiers.py, bad_sources.py and
bad_runs.py; in them {files} holds what tests/bad_files.py writes, {vit} is a sound backbone of six
blocks, and {tmp} an empty folder.
"""

from __future__ import annotations

import os
import shlex
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bad_files import write_backbones, write_configs, write_data, write_runs
from bad_methods import METHOD_SETTINGS
from bad_replies import FAILED, REPLIES, Reply
from bad_runs import COMPARE, OUTPUT, PREDICT, RESUME
from bad_settings import SETTINGS
from bad_sources import BACKBONES, DATA
from bad_tiers import TIERS_AND_FILES
from flwr.app import Context, Message
from safetensors.numpy import load_file
from support import SMALL, Run

import run_simulation
from client_app.app import create_client_app
from data import ImageSet, Source, register_source, source_names
from models import METHODS, predict
from server_app import compare
from server_app.app import run
from server_app.inprocess import InProcessGrid
from settings import Settings
from strategies import AdapterFedAvg, Callback, RoundReport

# A sound command, which each row spoils in one place.
SOUND = (
    "backbone={vit} exits=3 num-clients=4 clients-per-round=2 rounds=3 local-epochs=1 "
    "evaluate-every=3 report=false tiers='all depth=6 share=1' output-dir={tmp}/out "
)
COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": run_simulation.main,
    "compare": compare.main,
    "predict": predict.main,
}
RUN = SETTINGS | METHOD_SETTINGS | TIERS_AND_FILES | BACKBONES | DATA | OUTPUT | RESUME
TABLE = [
    *(("run", SOUND + given, sentence) for given, sentence in RUN.items()),
    *(("compare", *row) for row in COMPARE.items()),
    *(("predict", *row) for row in PREDICT.items()),
]


@pytest.fixture(scope="module")
def files(tiny_vit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All wrong files, written once; and a run that went well, with spoiled copies."""
    folder = tmp_path_factory.mktemp("files")
    write_configs(folder / "configs")
    write_data(folder / "data")
    write_backbones(folder / "backbones", tiny_vit)
    sound = SOUND.format(vit=tiny_vit, tmp=folder)
    assert run_simulation.main(shlex.split(sound)) == 0
    write_runs(folder / "runs", folder / "out")
    return folder


def test_the_table_is_long() -> None:
    assert len(TABLE) >= 180


@pytest.mark.parametrize(
    ("command", "given", "sentence"), TABLE, ids=[row[1].removeprefix(SOUND) for row in TABLE]
)
def test_bad_input_gets_one_sentence(
    command: str,
    given: str,
    sentence: str,
    files: Path,
    tiny_vit: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exit code 2, the whole sentence on stderr, and nothing else anywhere."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    places = {"{vit}": tiny_vit, "{files}": files, "{tmp}": tmp_path}
    for name, place in places.items():
        given, sentence = given.replace(name, str(place)), sentence.replace(name, str(place))
    capfd.readouterr()
    assert COMMANDS[command](shlex.split(given)) == 2
    printed = capfd.readouterr()
    # Other tests may have added sources.
    expected = sentence.format(
        gpus=torch.cuda.device_count(),
        methods=", ".join(sorted(METHODS)),
        sources=", ".join(source_names()),
    )
    assert printed.err == f"error: {expected}\n"
    assert printed.out == ""


def settings_for(vit: Path, output: Path, **values: Any) -> Settings:
    given = {key.replace("_", "-"): value for key, value in values.items()}
    places = {"backbone": str(vit), "output-dir": str(output)}
    federation = {"num-clients": 2, "clients-per-round": 2, "tiers": "all depth=6 share=1"}
    return Settings.from_dict({**SMALL, **federation, "method": "exits", **places, **given})


def federate(
    settings: Settings, spoil: Callable[[Message, int], Reply | None], *callbacks: Callback
) -> None:
    """Run; `spoil` gets a reply to a training message and its client, and may give another."""

    def mod(message: Message, context: Context, call_next: Any) -> Message:
        reply = call_next(message, context)
        if message.metadata.message_type == "train":
            other = spoil(reply, int(context.node_config["partition-id"]))
            return reply if other is None else Message(other, reply_to=message)
        return reply

    app = create_client_app(mods=[mod])
    grid = InProcessGrid(app, settings.num_clients, dict(settings.to_dict()))
    run(grid, settings, callbacks, simulated=True)


@pytest.mark.parametrize("case", REPLIES)
def test_a_bad_reply_is_refused_in_a_sentence(case: str, tiny_vit: Path, tmp_path: Path) -> None:
    """The sentence stands in clients.jsonl, and the other client's update counts."""
    spoil, sentence = REPLIES[case]
    federate(
        settings_for(tiny_vit, tmp_path, rounds=1),
        lambda reply, client: spoil(reply.content) if client == 0 else None,
    )
    done = Run(tmp_path)
    refused = {row["client"]: row["refused"] for row in done.clients if row["phase"] == "train"}
    assert refused == {"0": sentence, "1": ""}
    assert done.metrics[-1]["replies"] == 1
    assert all(np.isfinite(tensor).all() for tensor in done.bank().values())


def test_a_node_that_does_not_answer_in_time(tiny_vit: Path, tmp_path: Path) -> None:
    settings = settings_for(tiny_vit, tmp_path, rounds=1, round_timeout=1, evaluate_every=9)
    federate(settings, lambda _, client: time.sleep(1.2) if client == 1 else None)
    trained = [row for row in Run(tmp_path).clients if row["phase"] == "train"]
    assert [row["refused"] for row in trained] == ["", "it did not come in time"]


def test_what_was_learned_stays_when_all_nodes_fail(tiny_vit: Path, tmp_path: Path) -> None:
    """From round 2 on every client fails: the bank is that of round 1, and the run ends well."""
    rounds: list[RoundReport] = []

    class Count(Callback):
        def on_round_end(self, strategy: AdapterFedAvg, report: RoundReport) -> None:
            del strategy
            rounds.append(report)

    whole = settings_for(tiny_vit, tmp_path / "all", rounds=3, schedule="constant")
    federate(whole, lambda *_: FAILED if rounds else None, Count())
    one = settings_for(tiny_vit, tmp_path / "one", rounds=1, schedule="constant")
    federate(one, lambda *_: None)
    assert [row["replies"] for row in Run(tmp_path / "all").metrics[1:]] == [2, 0, 0]
    expected = Run(tmp_path / "one").bank()
    for key, tensor in Run(tmp_path / "all").bank().items():
        assert tensor.tobytes() == expected[key].tobytes()


def test_a_run_that_dies_says_how_to_go_on(tiny_vit: Path, tmp_path: Path) -> None:
    class Die(Callback):
        def on_round_end(self, strategy: AdapterFedAvg, report: RoundReport) -> None:
            del strategy
            if report.server_round == 2:
                raise OSError("something nobody thought of")

    settings = settings_for(tiny_vit, tmp_path / "run", rounds=3)
    with pytest.raises(OSError, match="nobody thought of") as died:
        federate(settings, lambda *_: None, Die())
    (note,) = died.value.__notes__
    resume = f"resume={tmp_path}/run"
    assert note == f"The run is kept up to round 2; to go on, repeat the command with {resume}"
    bank = load_file(tmp_path / "run/checkpoint/round-00002/bank.safetensors")
    assert all(np.isfinite(tensor).all() for tensor in bank.values())
    config = ["--config", f"{tmp_path}/run/settings.toml"]
    assert run_simulation.main([*config, resume]) == 0
    assert [row["round"] for row in Run(tmp_path / "run").metrics] == [0, 1, 2, 3]


def test_ctrl_c_says_how_to_go_on(
    tiny_vit: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = SOUND.replace("rounds=3", "rounds=1000").format(vit=tiny_vit, tmp=tmp_path)
    # A shell's background jobs, such as a CI's, are started deaf to it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def press() -> None:
        deadline = time.monotonic() + 30
        while (
            time.monotonic() < deadline and not (tmp_path / "out/checkpoint/round-00002").exists()
        ):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    try:
        assert run_simulation.main(shlex.split(given)) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    first, note = capfd.readouterr().err.splitlines()
    assert first == "stopped."
    assert note.startswith("The run is kept up to round ")
    assert note.endswith(f"; to go on, repeat the command with resume={tmp_path}/out")


def load_enormous(data_dir: str, image_size: int, seed: int) -> Source:
    """Three petabytes: more than any machine's memory."""
    del data_dir, seed
    pixels = np.empty((2**20, 2**10, 2**10, 3), np.uint8)
    train = ImageSet(pixels, np.zeros(len(pixels), np.int64), ("a", "b"))
    return Source(train, None, flip=False, crop_scale=(1.0, image_size))


def test_memory_that_does_not_suffice_is_told(
    tiny_vit: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    register_source("enormous", load_enormous)
    given = f"{SOUND} dataset=enormous".format(vit=tiny_vit, tmp=tmp_path)
    assert run_simulation.main(shlex.split(given)) == 2
    assert capfd.readouterr().err == (
        "error: the memory of this machine does not suffice; lower image-size, num-clients, "
        "adapter-rank or cache-megabytes.\n"
    )


def test_a_start_that_fails_leaves_an_earlier_run_in_its_place(
    tiny_vit: Path, tmp_path: Path
) -> None:
    sound = SOUND.format(vit=tiny_vit, tmp=tmp_path)
    assert run_simulation.main(shlex.split(f"{sound} rounds=1")) == 0
    before = sorted(tmp_path.rglob("*"))
    for spoil in ("num-clients=1000", "classes=a,b", "tiers='all depth=6 clients=0'"):
        assert run_simulation.main(shlex.split(f"{sound} {spoil}")) == 2
        assert sorted(tmp_path.rglob("*")) == before
