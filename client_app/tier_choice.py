"""The tier of a node that says ``tier="auto"``: the largest one whose training fits its memory."""

from __future__ import annotations

import re
from functools import lru_cache
from logging import INFO
from pathlib import Path
from typing import Any

import torch
from flwr.common import log

from server_app.strategy import make_planner
from server_app.tier_costs import tier_costs
from settings import Settings, SettingsError
from wiring import get_device, get_tiers, make_model

AUTO = "auto"
UNITS = {"": 1, "B": 1} | {
    f"{letter}{form}": base**power
    for power, letter in enumerate("kMGT", start=1)
    for form, base in (("B", 1000), ("iB", 1024))
}


def read_budget(value: Any) -> int:
    """Read `memory-budget` of a node config: bytes, or a text such as ``2GB`` or ``1.5GiB``.

    Raises
    ------
    SettingsError
        When it is neither, or not above 0.
    """
    names = {name.lower(): factor for name, factor in UNITS.items()}
    found = re.fullmatch(r"([0-9.]+)\s*([a-z]*)", str(value).strip().lower())
    try:
        size = int(float(found[1]) * names[found[2]]) if found else 0
    except (KeyError, ValueError, OverflowError):
        size = 0
    if size < 1:
        raise SettingsError(
            f"memory-budget: '{value}' is no amount of memory; give bytes, or a text such as 2GB "
            "or 1.5GiB, in this node's --node-config."
        )
    return size


def free_memory(device: torch.device) -> int:
    """Measure how many bytes are free where a model trains: on the GPU, or in this machine.

    Raises
    ------
    SettingsError
        Where the system does not tell.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * next(int(li.split()[1]) for li in lines if li.startswith("MemAvailable"))
    except (OSError, StopIteration):
        raise SettingsError(
            "tier=auto: how much memory is free cannot be found out on this system; add "
            'memory-budget="2GB", or what it may take, to this node\'s --node-config.'
        ) from None


def choose_tier(settings: Settings, num_classes: int, budget: Any = None) -> str:
    """Return the largest tier that fits, and say in the log why.

    Tiers are compared by depth, then trained blocks, then rank. What counts is the larger of the
    predicted peaks of training and of scoring.

    Parameters
    ----------
    budget : Any
        As in the node config; None measures what is free.

    Raises
    ------
    SettingsError
        When not even the smallest fits.
    """
    measured = budget is None
    room = free_memory(get_device(settings)) if measured else read_budget(budget)
    peaks = _peaks(settings, num_classes)
    tiers = sorted(get_tiers(settings), key=lambda t: (t.depth, t.trained, t.rank), reverse=True)
    limit = f"{'the free memory' if measured else 'its memory-budget'} of {_megabytes(room)}"
    fitting = [tier.name for tier in tiers if peaks[tier.name] <= room]
    if not fitting:
        least = min(peaks, key=lambda name: peaks[name])
        raise SettingsError(
            f"tier=auto: no tier fits {limit} on this node, as '{least}' takes "
            f"{_megabytes(peaks[least])}; give it more, lower batch-size, or add a smaller tier."
        )
    above = [tier.name for tier in tiers[: [tier.name for tier in tiers].index(fitting[0])]]
    more = "".join(f"; '{name}' would take {_megabytes(peaks[name])}" for name in above)
    log(
        INFO,
        "tier=auto: '%s' takes %s, and is the largest tier that fits %s%s",
        fitting[0],
        _megabytes(peaks[fitting[0]]),
        limit,
        more,
    )
    return fitting[0]


@lru_cache(maxsize=4)
def _peaks(settings: Settings, num_classes: int) -> dict[str, int]:
    model = make_model(settings, num_classes)
    planner = make_planner(settings, get_tiers(settings), model)
    return {name: cost.peak for name, cost in tier_costs(settings, model, planner).items()}


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
