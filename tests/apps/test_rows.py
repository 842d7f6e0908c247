"""The setting `row-averaging`, through the whole app: who counts for a row of a depth embedding."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message
from support import SMALL, Run

from client_app.app import create_client_app
from server_app.app import run
from server_app.inprocess import InProcessGrid
from settings import Settings
from strategies import read_array
from wiring import get_layout, make_model

# The middle tier runs five blocks, and ends at the exit after the fourth.
END = {"small": 2, "middle": 4, "large": 6}
TIERS = "small depth=2 clients=0,1; middle depth=5 clients=2,3; large depth=6 clients=4,5"


@pytest.mark.parametrize("averaging", ["masked", "plain"])
@pytest.mark.parametrize("method", ["accumulator", "reefl"])
def test_each_row_is_the_mean_over_those_that_count(
    tiny_vit: Path, tmp_path: Path, method: str, averaging: str
) -> None:
    """Masked: the clients that run the row's block; plain: all, as votes for what it was."""
    values = {"method": method, "row-averaging": averaging, "rounds": 1, "clients-per-round": 6}
    places = {"backbone": str(tiny_vit), "output-dir": str(tmp_path / "run"), "tiers": TIERS}
    settings = Settings.from_dict({**SMALL, **places, **values})
    model = make_model(settings, 10)
    (key,), layout = model.row_keys, get_layout(model)
    start = model.adapter_arrays()[key]
    sent: list[tuple[int, float, np.ndarray]] = []

    def spy(message: Message, context: Context, call_next: Any) -> Message:
        answer = call_next(message, context)
        tier = list(END)[int(context.node_config["partition-id"]) // 2]
        rows = layout.split({"shared": read_array(answer.content["arrays"]["shared"])})[key]
        sent.append((END[tier], float(answer.content["metrics"]["num-examples"]), rows))
        return answer

    run(InProcessGrid(create_client_app(train_mods=[spy]), 6, dict(settings.to_dict())), settings)
    found = Run(tmp_path / "run").bank()[key]
    assert len(sent) == 6
    assert len(start) == 7
    for number, row in enumerate(found):
        counted = [
            (weight, rows[number])
            for end, weight, rows in sent
            if averaging == "plain" or number <= end
        ]
        weights, replies = zip(*counted, strict=True)
        expected = np.average(replies, axis=0, weights=weights)
        np.testing.assert_allclose(row, expected, atol=1e-6)
    for end, _, rows in sent:
        assert [bool((row != old).any()) for row, old in zip(rows, start, strict=True)] == [
            number <= end for number in range(7)
        ]
