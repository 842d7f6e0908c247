"""Simulate a federation on this machine.

``python run_simulation.py [--config FILE] [--runtime inprocess|ray] [key=value ...]``; the keys
are those of ``[tool.flwr.app.config]`` in pyproject.toml, and docs/settings.md explains them.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from settings import Settings, SettingsError, load_toml

# Before flwr and torch are imported: no telemetry from a simulation on somebody's laptop.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # only silences Ray's advice


class CommandLine(argparse.ArgumentParser):
    """A parser whose complaints are one sentence, like those about settings."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print with the usage."""
        raise SettingsError(f"{message}; settings read key=value, and --help tells the rest.")


def parse(arguments: Sequence[str]) -> tuple[Settings, str]:
    """Read the command line; return the settings and the runtime."""
    parser = CommandLine(
        description="Simulate a federation of adapters on a frozen transformer.",
        epilog="Settings are given as key=value; docs/settings.md lists them.",
    )
    parser.add_argument(
        "--config",
        action="append",
        default=[],
        help="a TOML file of settings, such as those in configs/; of several, later ones win",
    )
    parser.add_argument(
        "--runtime",
        choices=("inprocess", "ray"),
        default="inprocess",
        help="call the clients in this process, or in several processes of Ray",
    )
    parser.add_argument("settings", nargs="*", metavar="key=value")
    options = parser.parse_intermixed_args(arguments)
    values: dict[str, Any] = {}
    for file in options.config:
        values |= load_toml(file)
    for pair in options.settings:
        key, separator, value = pair.partition("=")
        if not separator:
            raise SettingsError(f"'{pair}' should read key=value.")
        values[key] = value
    return Settings.from_dict(values), options.runtime


def run_in_process(settings: Settings) -> None:
    """Run ServerApp and ClientApp in this process."""
    import torch

    from client_app.app import app as client_app
    from server_app.app import run
    from server_app.inprocess import InProcessGrid

    torch.set_num_threads(settings.client_cpus)
    grid = InProcessGrid(client_app, settings.num_clients, dict(settings.to_dict()))
    run(grid, settings, simulated=True)


def run_on_ray(settings: Settings) -> None:
    """Run the same apps with clients in processes of Ray."""
    import ray
    import torch

    from server_app.app import run
    from server_app.ray_grid import RayGrid

    torch.set_num_threads(settings.client_cpus)
    processes, share = client_processes(settings), gpu_share(settings)
    if share:  # less than one is a share of one GPU
        gpus = torch.cuda.device_count()
        processes = min(processes, gpus * int(1 / share) if share < 1 else int(gpus / share))
    # Ray's processes import the apps from here.
    folder = os.path.dirname(os.path.abspath(__file__))
    os.environ["PYTHONPATH"] = os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])
    ray.init(
        num_cpus=processes * settings.client_cpus,
        include_dashboard=False,
        logging_level=logging.WARNING,
    )
    try:
        grid = RayGrid(
            processes,
            settings.num_clients,
            dict(settings.to_dict()),
            cpus=settings.client_cpus,
            gpus=share,
        )
        run(grid, settings, simulated=True)
    finally:
        ray.shutdown()


def client_processes(settings: Settings) -> int:
    """Return how many processes on Ray run clients."""
    return settings.client_processes or max(1, (os.cpu_count() or 1) // settings.client_cpus)


def gpu_share(settings: Settings) -> float:
    """Return the share of a GPU that each client on Ray gets; without any it sees no GPU.

    Raises
    ------
    SettingsError
        When there are fewer GPUs than are asked for.
    """
    import torch

    from wiring import get_device

    gpus = torch.cuda.device_count() if get_device(settings).type == "cuda" else 0
    if settings.client_gpus > gpus:
        raise SettingsError(
            f"client-gpus: {settings.client_gpus} cannot be had, as device is "
            f"'{settings.device}' and {gpus} GPUs of CUDA are used; set it to at most {gpus}."
        )
    return settings.client_gpus or min(1.0, gpus / client_processes(settings))


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether numpy, torch or CUDA found no room for an array."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and any(words in str(error) for words in ("out of memory", "can't allocate memory"))
    )


def say(sentence: str, ended_by: BaseException) -> None:
    """Print why the run ended, and what its notes add."""
    print(sentence, *getattr(ended_by, "__notes__", ()), sep="\n", file=sys.stderr)


def main(arguments: Sequence[str]) -> int:
    """Run; a user's mistake ends in one sentence and exit code 2."""
    try:
        settings, runtime = parse(arguments)
        from client_app.app import USER_ERRORS
    except SettingsError as error:
        say(f"error: {error}", error)
        return 2
    logging.getLogger("flwr").setLevel(logging.WARNING)
    try:
        run_in_process(settings) if runtime == "inprocess" else run_on_ray(settings)
    except USER_ERRORS as error:
        say(f"error: {error}", error)
        return 2
    except KeyboardInterrupt as stop:
        say("stopped.", stop)
        return 130
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        say(
            "error: the memory of this machine does not suffice; lower image-size, num-clients, "
            "adapter-rank or cache-megabytes.",
            error,
        )
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
