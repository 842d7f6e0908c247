"""What a process keeps between messages, and that it does not grow from round to round."""

import gc
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support import SMALL

from client_app.app import app
from models import load_backbone
from server_app.app import run
from server_app.inprocess import InProcessGrid
from settings import Settings
from strategies import AdapterFedAvg, Callback, RoundReport
from wiring import get_backbone

ROUNDS, STEP = 50, 10
PAGE = os.sysconf("SC_PAGE_SIZE")
# Of the process; adapters 256 wide make a bank of 0.6 MB, of which forty rounds would keep 24.
LEEWAY = 2e6


class Measured(Callback):
    """Counts torch's tensors and the memory of the process in every tenth round."""

    def __init__(self) -> None:
        self.tensors: list[int] = []
        self.bytes: list[int] = []

    def on_round_end(self, strategy: AdapterFedAvg, report: RoundReport) -> None:
        if report.server_round % STEP == 0:
            gc.collect()
            self.tensors.append(sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects()))
            self.bytes.append(PAGE * int(Path("/proc/self/statm").read_text().split()[1]))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Sixty images of two classes."""
    generator = np.random.default_rng(0)
    for label, level in (("dark", 60), ("light", 180)):
        folder = tmp_path / "images" / label
        folder.mkdir(parents=True)
        for number in range(30):
            pixels = generator.normal(level, 20, (16, 16)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "images"


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="memory is read from /proc")
@pytest.mark.parametrize(
    "method",
    [
        {"method": "exits"},  # with a cache of features
        {"method": "accumulator", "adapter": "parallel", "adapter-rank": 256},
    ],
    ids=lambda values: values["method"],
)
def test_nothing_grows_over_fifty_rounds(
    tiny_vit: Path, images: Path, tmp_path: Path, method: dict[str, Any]
) -> None:
    """One backbone, the same number of tensors, and the memory of the tenth round.

    A client of each tier, all in every round; int8 adds what is kept on the clients.
    """
    values = {
        **SMALL,
        **method,
        "wire-dtype": "int8",
        "backbone": str(tiny_vit),
        "output-dir": str(tmp_path / "run"),
        "dataset": "folder",
        "data-dir": str(images),
        "partition": "iid",
        "rounds": ROUNDS,
        "evaluate-every": 5,
        "num-clients": 3,
        "clients-per-round": 3,
        "tiers": "small depth=2 clients=0; medium depth=4 trained=2 clients=1; "
        "large depth=6 clients=2",
    }
    settings, measured = Settings.from_dict(values), Measured()
    load_backbone.cache_clear()
    run(InProcessGrid(app, 3, dict(settings.to_dict())), settings, [measured])
    assert load_backbone.cache_info().misses == 1
    assert len(measured.tensors) == 5
    assert len(set(measured.tensors)) == 1
    # After other tests in the process, the allocator still settles in the first rounds.
    assert max(measured.bytes) - measured.bytes[1] < LEEWAY


def test_a_folder_of_that_name_does_not_hide_the_built_in_backbone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "builtin").mkdir()
    monkeypatch.chdir(tmp_path)
    assert get_backbone(Settings()).depth == 12


def test_trainings_leave_nothing_with_devices_that_are_not_used(run_app: Any) -> None:
    """torch.manual_seed would leave a call in CUDA's queue every time, with a stack trace."""
    before = len(torch.cuda._queued_calls)
    run_app(rounds=1)
    assert len(torch.cuda._queued_calls) - before <= 2  # the model's first weights
