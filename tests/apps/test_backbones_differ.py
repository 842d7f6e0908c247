"""A node whose backbone has other weights than the server's, of the same shape."""

from pathlib import Path
from typing import Any

import pytest
from support import SMALL, Run, with_other_weights

from client_app.app import app
from models import ModelError, load_exported
from server_app.app import run
from server_app.inprocess import InProcessGrid
from settings import Settings


def test_its_replies_are_refused_and_its_adapters_not_loaded(
    tiny_vit: Path, tmp_path: Path
) -> None:
    other_vit = with_other_weights(tiny_vit, tmp_path / "other")
    values: dict[str, Any] = {**SMALL, "method": "exits", "output-dir": str(tmp_path / "run")}
    server = Settings.from_dict({**values, "backbone": str(tiny_vit)})
    nodes = Settings.from_dict({**values, "backbone": str(other_vit)})
    run(InProcessGrid(app, server.num_clients, dict(nodes.to_dict())), server)
    sentence = (
        f"backbone: the weights of '{other_vit}' on this node are others than the server's; "
        "adapters fit one backbone alone, so give both the same files."
    )
    assert {row["refused"] for row in Run(tmp_path / "run").clients} == {sentence}
    with pytest.raises(ModelError, match="trained on a backbone with other weights than"):
        load_exported(tmp_path / "run" / "adapters", backbone=str(other_vit))
    assert load_exported(tmp_path / "run" / "adapters").model.exits == (2, 4, 6)
