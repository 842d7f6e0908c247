"""A simulation on Ray gives the bank of the in-process runtime, bit for bit."""

import copy
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation
from support import ROOT, SMALL, Run

from client_app.app import create_client_app
from models import ADAPTERS, METHODS, load_backbone
from run_simulation import client_processes, run_on_ray
from server_app.app import run
from settings import Settings

VARIANTS: dict[str, dict[str, Any]] = {
    # All that a client keeps or sends besides: residuals, personal adapters, features.
    "exits": {
        "method": "exits",
        "wire-dtype": "int8",
        "personalise-epochs": 1,
        "client-processes": 2,
    },
    "inclusivefl": {
        "method": "inclusivefl",
        "adapter": "parallel",
        "adapter-rank": 4,
        "personalise-epochs": 1,
        "client-processes": 2,
    },
    "scalefl": {
        "method": "scalefl",
        "adapter": "lora",
        "adapter-rank": 4,
        "wire-dtype": "bf16",
        "client-processes": 2,
    },
    # A local expert that stays in Flower's state, and personal mixtures.
    "mofm": {"method": "mofm", "personalise-epochs": 1, "client-processes": 2},
    "accumulator": {"method": "accumulator", "server-optimizer": "dyn", "client-processes": 3},
    # Ramps of no round: distillation has its whole weight from the start.
    "reefl": {"method": "reefl", "reefl-ramp-rounds": 0, "adapter": "ssf", "client-processes": 2},
    "depthfl": {
        "method": "depthfl",
        "depthfl-ramp-rounds": 0,
        "adapter": "full",
        "client-processes": 2,
    },
    # Units that clients keep, blocks that are drawn, tokens that are pushed on.
    "layerwise": {
        "method": "layerwise",
        "adapter": "parallel",
        "adapter-rank": 4,
        "layer-order": "bottom-up",
        "window": 2,
        "depth-budget": 5,
        "client-processes": 2,
    },
    "exclusivefl": {
        "method": "exclusivefl",
        "adapter": "serial",
        "adapter-rank": 4,
        "client-processes": 2,
    },
    "hyper-attention": {
        "method": "hyper-attention",
        "personal-heads": True,
        "wire-dtype": "int8",
        "clients-per-round": 3,
        "held-out-clients": "3-5",
        "held-out-rounds": "0,1",
        "personalise-epochs": 1,
        "client-processes": 2,
    },
    # What clients keep travels in Flower's state to whichever process has its turn.
    "local-attention": {"method": "local-attention", "wire-dtype": "bf16", "client-processes": 2},
    "shared-attention": {"method": "shared-attention", "client-processes": 2},
}
# What these do on Ray the others do as well.
SLOW = ("depthfl", "exclusivefl", "local-attention", "reefl", "scalefl", "shared-attention")
ROWS = [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in VARIANTS]
OPENED = "preprocessor_config.json"  # of a backbone's files the one that Python itself opens
# Python runs a module of this name at its start, in Ray's processes too.
SITE = f"""
import os, sys

def note(event, arguments):
    if event == "open" and str(arguments[0]).endswith("{OPENED}"):
        descriptor = os.open(os.environ["LOADS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, f"{{os.getpid()}}\\n".encode())
        os.close(descriptor)

sys.addaudithook(note)
"""


@pytest.fixture
def loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file to which every process adds its number when it opens a backbone's files."""
    site, file = tmp_path / "site", tmp_path / "loads.txt"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE)
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("LOADS", str(file))
    return file


def opened_by_one_load(backbone: Path) -> int:
    """How often a single load opens the file."""
    seen: list[str] = []
    watching = True

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event == "open":
            seen.append(str(arguments[0]))

    sys.addaudithook(note)  # for good; there is no way to take it away
    load_backbone.__wrapped__(str(backbone))
    watching = False
    return sum(name.endswith(OPENED) for name in seen)


def test_every_method_and_adapter_runs_on_ray() -> None:
    assert set(VARIANTS) == set(METHODS)
    assert {values.get("adapter", "none") for values in VARIANTS.values()} == set(ADAPTERS)


@pytest.mark.parametrize("variant", ROWS)
def test_ray_gives_the_bits_of_the_in_process_run(
    run_app: Callable[..., Any], variant: str, tiny_vit: Path, tmp_path: Path, loads: Path
) -> None:
    """And every process that Ray starts loads the backbone once, whatever it is sent."""
    changes = VARIANTS[variant]
    own = {"personal-dir": str(tmp_path / "own")} if "personalise-epochs" in changes else {}
    here = run_app("here", **changes)
    output = tmp_path / "ray"
    values = {**SMALL, **changes, **own, "backbone": str(tiny_vit), "output-dir": str(output)}
    run_on_ray(Settings.from_dict(values))
    there = Run(output)
    assert list(there.bank()) == list(here.bank())
    for key, value in here.bank().items():
        assert there.bank()[key].tobytes() == value.tobytes()
    for part in ("accuracy", "client-accuracy", "bytes", "personalisation", "held-out"):
        assert there.summary.get(part) == here.summary.get(part)
    if own:
        assert len(list((tmp_path / "own").glob("*/exits.safetensors"))) == 6
    by_process = Counter(loads.read_text().split())
    by_process.pop(str(os.getpid()), None)
    assert 1 <= len(by_process) <= changes["client-processes"]
    assert set(by_process.values()) == {opened_by_one_load(tiny_vit)}


@pytest.mark.parametrize(
    ("values", "processes"),
    [({}, 4), ({"client_cpus": 2}, 2), ({"client_cpus": 9}, 1), ({"client_processes": 3}, 3)],
)
def test_processes_by_cores(
    values: dict[str, int], processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert client_processes(Settings(**values)) == processes


def with_run_config(run_config: dict[str, Any]) -> Callable[..., Message]:
    """A mod that gives nodes the run config, which Flower's `run_simulation` cannot."""

    def mod(message: Message, context: Context, call_next: Callable[..., Message]) -> Message:
        # Flower refuses a changed run config in the Context it gave; the state is the same object.
        given = copy.copy(context)
        given.run_config = run_config
        return call_next(message, given)

    return mod


def test_flowers_own_engine_gives_the_bits_of_the_in_process_run(
    run_app: Callable[..., Any], tiny_vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = run_app("here", **VARIANTS["exits"])
    output = tmp_path / "engine"
    values = {**SMALL, **VARIANTS["exits"], "backbone": str(tiny_vit), "output-dir": str(output)}
    settings = Settings.from_dict(values)
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        del context
        run(grid, settings, simulated=True)

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    run_simulation(
        server_app,
        create_client_app(mods=[with_run_config(dict(settings.to_dict()))]),
        6,
        backend_config={"client_resources": {"num_cpus": 1}, "init_args": {"num_cpus": 2}},
    )
    there = Run(output)
    assert {k: v.tobytes() for k, v in there.bank().items()} == {
        k: v.tobytes() for k, v in here.bank().items()
    }
    assert there.summary["client-accuracy"] == here.summary["client-accuracy"]
