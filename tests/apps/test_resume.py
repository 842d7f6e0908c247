"""Stop and continue: killed processes, bit-identical continuation, and checkpoints refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, SMALL, Run

from settings import SettingsError

RunApp = Callable[..., Any]
VARIANTS: dict[str, dict[str, Any]] = {
    "exits": {"method": "exits"},
    "accumulator": {"method": "accumulator"},
    # Ramps of all four rounds: distillation counts, and its weight is another in each.
    "reefl": {"method": "reefl", "reefl_ramp_rounds": 4, "adapter": "lora", "adapter_rank": 4},
    "depthfl": {"method": "depthfl", "depthfl_ramp_rounds": 4, "adapter": "ssf"},
    "scalefl": {"method": "scalefl", "adapter": "full"},
    "exclusivefl": {"method": "exclusivefl", "adapter": "serial", "adapter_rank": 4},
    # A phase change after the second round; a server optimiser that starts afresh there.
    "layerwise": {
        "method": "layerwise",
        "adapter": "parallel",
        "adapter_rank": 4,
        "window": 3,
        "server_optimizer": "adam",
    },
    "mofm": {
        "method": "mofm",
        "stage_one_rounds": 3,
        "activation": "plateau",
        "activation_patience": 1,
    },
    "adam": {"method": "exits", "server_optimizer": "adam"},
    "inclusivefl": {
        "method": "inclusivefl",
        "adapter": "parallel",
        "adapter_rank": 4,
        "server_optimizer": "adam",
    },
    # Rows, hypernetwork, its momentum, and the memory of the averaged units' optimiser.
    "hyper-attention": {"method": "hyper-attention", "server_optimizer": "adam"},
    # In files of each client's own, which the stopped run has written on.
    "personal heads": {"method": "hyper-attention", "personal_heads": True, "state_dir": "own"},
    "local-attention": {"method": "local-attention", "state_dir": "own"},
    "shared-attention": {"method": "shared-attention", "wire_dtype": "bf16"},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_run_resumed_after_any_round_ends_bit_identical(
    run_app: RunApp, variant: str, stop: int, tmp_path: Path
) -> None:
    values = {**VARIANTS[variant], "rounds": 4, "evaluate_every": 2}
    if "state_dir" in values:
        values["state_dir"] = str(tmp_path / values["state_dir"])
    whole = run_app("whole", **values)
    cut = whole.output.parent / "cut"
    shutil.copytree(whole.output, cut)
    shutil.rmtree(cut / "checkpoint")
    # What a kill right after round `stop` leaves: its checkpoint, and rows maybe one round ahead.
    first = run_app_until(whole, stop, run_app, values)
    shutil.copytree(first / "checkpoint", cut / "checkpoint")
    rest = run_app("cut", **values, resume=str(cut))
    for key, value in whole.bank().items():
        assert rest.bank()[key].tobytes() == value.tobytes()
    assert [row["round"] for row in rest.metrics] == [0, 1, 2, 3, 4]
    # Who holds what was finished is known no more, and it is sent again.
    down = ("bytes-down", "evaluate-bytes-down") if variant == "layerwise" else ()
    keep = [k for k in whole.metrics[-1] if k not in ("seconds", *down)]
    for mine, other in zip(rest.metrics, whole.metrics, strict=True):
        assert {k: mine.get(k) for k in keep} == {k: other.get(k) for k in keep}
    assert down or rest.summary["bytes"] == whole.summary["bytes"]
    assert len(rest.clients) == len(whole.clients)


def run_app_until(whole: Run, stop: int, run_app: RunApp, values: dict[str, Any]) -> Path:
    """Run the same settings and fail on purpose in the round after `stop`; return the folder."""
    import server_app.checkpoint as checkpoint

    class StopError(Exception):
        pass

    write = checkpoint.Checkpoints.write

    def write_and_stop(self: Any, strategy: Any, server_round: int) -> None:
        write(self, strategy, server_round)
        if server_round == stop:
            raise StopError

    checkpoint.Checkpoints.write = write_and_stop  # type: ignore[method-assign]
    try:
        with pytest.raises(StopError):
            run_app("until", **values)
    finally:
        checkpoint.Checkpoints.write = write  # type: ignore[method-assign]
    return whole.output.parent / "until"


def test_a_killed_process_loses_at_most_the_current_round(
    run_app: RunApp, tiny_vit: Path, tmp_path: Path
) -> None:
    """SIGKILL at an arbitrary moment after the second checkpoint; then resume in that folder."""
    rounds = 25
    output = tmp_path / "killed"
    settings = {**SMALL, "backbone": str(tiny_vit), "rounds": rounds, "evaluate-every": 25}
    command = [sys.executable, "run_simulation.py", f"output-dir={output}"]
    process = subprocess.Popen(
        [*command, *(f"{key}={value}" for key, value in settings.items())],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not (output / "checkpoint" / "round-00002").is_dir():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.137)
    process.send_signal(signal.SIGKILL)
    process.wait()
    last = sorted((output / "checkpoint").glob("round-*"))[-1]
    reached = json.loads((last / "state.json").read_text())["round"]
    assert 2 <= reached < rounds
    logged = (output / "metrics.jsonl").read_text().splitlines()
    assert len(logged) - 1 - reached in (0, 1)
    resumed = run_app("killed", rounds=rounds, evaluate_every=25, resume=str(output))
    whole = run_app("whole", rounds=rounds, evaluate_every=25)
    for key, value in whole.bank().items():
        assert resumed.bank()[key].tobytes() == value.tobytes()


def test_a_new_run_moves_an_earlier_one_aside(run_app: RunApp) -> None:
    first = run_app("same", method="exits", rounds=3)
    second = run_app("same", method="exits", rounds=1)
    aside = second.output.with_name("same-1")
    assert Run(aside).summary == first.summary
    assert [f.name for f in (second.output / "checkpoint").iterdir()] == ["round-00001"]
    assert len(list((aside / "checkpoint").iterdir())) == 2


def test_other_settings_are_refused_with_the_difference(run_app: RunApp) -> None:
    run = run_app("first", method="exits")
    with pytest.raises(SettingsError) as error:
        run_app("second", method="exits", seed=5, batch_size=8, resume=str(run.output))
    assert "batch-size was 32 and is 8, seed was 0 and is 5" in str(error.value)


def test_a_folder_without_checkpoints_is_refused(run_app: RunApp, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no checkpoint in"):
        run_app(resume=str(tmp_path))


@pytest.mark.parametrize("damage", ["bank.safetensors", "state.json", "method.safetensors"])
def test_a_damaged_checkpoint_is_refused_and_kept(run_app: RunApp, damage: str) -> None:
    run = run_app("first", method="exits", rounds=1)
    file = run.output / "checkpoint" / "round-00001" / damage
    file.write_bytes(file.read_bytes()[:-9] if damage != "method.safetensors" else b"\x80pickle")
    with pytest.raises(SettingsError, match="is no checkpoint of fedgraft"):
        run_app("second", method="exits", rounds=1, resume=str(run.output))
    assert file.exists()


def test_a_checkpoint_of_another_format_is_refused(run_app: RunApp) -> None:
    run = run_app("first", method="exits", rounds=1)
    file = run.output / "checkpoint" / "round-00001" / "state.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 99}))
    with pytest.raises(SettingsError, match="has format 99, this version reads 1"):
        run_app("second", method="exits", rounds=1, resume=str(run.output))


def test_a_strategys_own_state_is_kept(tmp_path: Path) -> None:
    """A method with server state gets it back bit for bit."""
    import numpy as np

    from server_app.checkpoint import Checkpoints, read_checkpoint
    from settings import Settings
    from strategies import AdapterFedAvg, Bank, plain_record

    class Counting(AdapterFedAvg):
        def server_state(self) -> dict[str, Any]:
            return {"moment": np.arange(3, dtype=np.float32)}

    settings = Settings(output_dir=str(tmp_path))
    strategy = Counting()
    strategy.bank = Bank(plain_record({"a.x": np.ones(2, np.float32)}), packed=True)
    Checkpoints(settings, tmp_path).write(strategy, 4)
    checkpoint = read_checkpoint(tmp_path, settings)
    assert checkpoint.server_round == 4
    assert checkpoint.method["moment"].tolist() == [0, 1, 2]
    assert checkpoint.bank["a.x"].tolist() == [1, 1]
