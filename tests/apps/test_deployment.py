"""A real SuperLink and two real SuperNodes on this machine, over HTTP, with the app as a bundle."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version
from support import ROOT, Run

BIN = Path(sys.executable).parent
pytestmark = pytest.mark.skipif(
    Version(version("flwr")) < Version("1.27"),
    reason="`flwr run` with a connection of its own needs flwr 1.27; docs/deployment.md has 1.26",
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(log: Path, env: dict[str, str], *command: str) -> Iterator[None]:
    """Run a command beside the test; end it by its own id."""
    with log.open("w") as stream:
        started = subprocess.Popen(
            [str(BIN / command[0]), *command[1:]], stdout=stream, stderr=subprocess.STDOUT, env=env
        )
        try:
            yield
        finally:
            started.terminate()
            try:
                started.wait(20)
            except subprocess.TimeoutExpired:
                started.kill()


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(f"nothing listens on port {port}")


def test_two_supernodes_give_the_bank_of_the_in_process_run(
    run_app: Callable[..., Any], tiny_vit: Path, tmp_path: Path
) -> None:
    """Each node has its partition and tier from its --node-config, as a real one would."""
    settings: dict[str, Any] = {
        "exits": "3",
        "num-clients": 2,
        "clients-per-round": 2,
        "rounds": 2,
        "local-epochs": 1,
        "evaluate-every": 2,
        "tiers": "small depth=2 clients=0; large depth=6 clients=1",
    }
    here = run_app("here", **{key.replace("-", "_"): value for key, value in settings.items()})
    home, output = tmp_path / "flower", tmp_path / "there"
    home.mkdir()
    link, *nodes = (free_port() for _ in range(3))
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "test"\n[superlink.test]\naddress = "127.0.0.1:{link}"\n'
        "insecure = true\n"
    )
    env = {
        **os.environ,
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    run_config = {**settings, "backbone": str(tiny_vit), "output-dir": str(output)}
    pairs = " ".join(
        f'{key}="{value}"' if isinstance(value, str) else f"{key}={value}"
        for key, value in run_config.items()
    )
    node = ["flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{link}"]
    identity = [
        f'partition-id={n} num-partitions=2 tier="{t}"' for n, t in ((0, "small"), (1, "large"))
    ]
    with process(tmp_path / "link.log", env, "flower-superlink", "--insecure", "--port", str(link)):
        wait_for_port(link)
        with (
            process(
                tmp_path / "0.log",
                env,
                *node,
                "--port",
                str(nodes[0]),
                "--node-config",
                identity[0],
            ),
            process(
                tmp_path / "1.log",
                env,
                *node,
                "--port",
                str(nodes[1]),
                "--node-config",
                identity[1],
            ),
        ):
            command = [
                str(BIN / "flwr"),
                "run",
                str(ROOT),
                "test",
                "--stream",
                "--run-config",
                pairs,
            ]
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=500)
    assert (output / "summary.json").is_file(), done.stdout + done.stderr
    there = Run(output)
    assert list(there.bank()) == list(here.bank())
    for key, value in here.bank().items():
        assert there.bank()[key].tobytes() == value.tobytes()
    assert there.summary["client-accuracy"] == here.summary["client-accuracy"]
    shutil.rmtree(home)
