"""Flower's own mods and wrappers for differential privacy, beside the strategy and the app."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, adaptiveclipping_mod, fixedclipping_mod
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideFixedClipping,
)
from support import ROOT, SMALL

from client_app.app import create_client_app
from server_app.app import run
from server_app.inprocess import InProcessGrid
from server_app.strategy import make_strategy
from settings import Settings
from strategies import (
    PROFILE,
    AdapterFedAvg,
    Callback,
    DepthPlanner,
    Profile,
    RoundReport,
    parse_tiers,
    plain_record,
)
from wiring import get_layout, make_model

BANK = {
    "shared.x": np.zeros(3000, np.float32),
    "block1.x": np.zeros(3000, np.float32),
    "block2.x": np.zeros(3000, np.float32),
}


def adding_app(mods: Sequence[Any] = (), left_out: str = "") -> ClientApp:
    """A ClientApp that adds 1 to all it got; client 0 may leave a tensor out of its reply."""
    app = ClientApp()

    @app.query()
    def tell(message: Message, context: Context) -> Message:
        number = int(context.node_config["partition-id"])
        record = Profile(context.node_id, str(number), "large" if number else "small", 1)
        return Message(RecordDict({PROFILE: record.to_record()}), reply_to=message)

    @app.train(mods=list(mods))
    def add_one(message: Message, context: Context) -> Message:
        arrays = {
            key: Array(array.numpy() + np.float32(1))
            for key, array in message.content["arrays"].items()
            if context.node_config["partition-id"] or key != left_out
        }
        content = {"arrays": ArrayRecord(arrays), "metrics": MetricRecord({"num-examples": 1})}
        return Message(RecordDict(content), reply_to=message)

    return app


@pytest.fixture
def settings(tiny_vit: Path, tmp_path: Path) -> Settings:
    """Three tiers; the second holds frozen units beside those it trains."""
    return Settings.from_dict(
        {**SMALL, "backbone": str(tiny_vit), "output-dir": str(tmp_path / "run"), "rounds": 1}
    )


def difference(new: Mapping[str, np.ndarray], old: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([np.ravel(new[key] - old[key]) for key in old])


@pytest.mark.parametrize("mod", [fixedclipping_mod, adaptiveclipping_mod])
def test_clipping_mods_bound_each_update_of_the_app(settings: Settings, mod: Any) -> None:
    """The replies as the server gets them: no longer than 0.05, and that long, as all are cut."""
    norms: list[float] = []

    def watch(message: Message, context: Context, call_next: Any) -> Message:
        sent = {k: array.numpy() for k, array in message.content["arrays"].items()}
        reply = call_next(message, context)
        norms.append(
            float(
                np.linalg.norm(
                    difference({k: a.numpy() for k, a in reply.content["arrays"].items()}, sent)
                )
            )
        )
        return reply

    model = make_model(settings, 10)
    strategy = make_strategy(settings, model)
    strategy.fraction_evaluate = 0.0
    grid = InProcessGrid(create_client_app(train_mods=[watch, mod]), 6, dict(settings.to_dict()))
    config = ConfigRecord({"clipping_norm": 0.05, "backbone": model.backbone.fingerprint})
    strategy.start(grid, plain_record(model.adapter_arrays()), num_rounds=1, train_config=config)
    assert not [row.refused for row in strategy.report.clients if row.refused]
    assert norms == pytest.approx([0.05] * 4, rel=1e-4)
    if mod is adaptiveclipping_mod:
        assert [row.metrics["norm_bit"] for row in strategy.report.clients] == [1] * 4


def test_local_differential_privacy_in_a_whole_run_of_the_app(settings: Settings) -> None:
    """Noise of deviation 1 on updates cut to 0.01 is what the bank's units move by."""
    settings = replace(settings, method="exits")
    # Flower's formula, solved for a deviation of 1.
    mod = LocalDpMod(0.01, 1.0, epsilon=float(np.sqrt(2 * np.log(1.25e5))), delta=1e-5)
    model = make_model(settings, 10)
    layout, start = get_layout(model), model.adapter_arrays()
    old = layout.flatten(start, layout.units)

    class Check(Callback):
        def on_round_end(self, strategy: AdapterFedAvg, report: RoundReport) -> None:
            assert strategy.planner is not None
            assert strategy.bank is not None
            assert not [row.refused for row in report.clients if row.refused]
            assert report.coverage
            for unit, vector in strategy.bank.vectors.items():
                weights = [
                    row.metrics["num-examples"]
                    for row in report.clients
                    if row.phase == "train" and unit in strategy.planner(row.tier, 1).trained
                ]
                noise = vector - old[unit]
                if weights:
                    expected = np.linalg.norm(weights) / np.sum(weights)
                    assert noise.std() == pytest.approx(expected, rel=0.2), unit
                else:
                    assert not noise.any()

    np.random.seed(0)  # the source of Flower's noise
    grid = InProcessGrid(create_client_app(train_mods=[mod]), 6, dict(settings.to_dict()))
    assert run(grid, settings, [Check()])["rounds"] == 1


def test_the_app_of_the_docs_trains(settings: Settings) -> None:
    page = (ROOT / "docs" / "privacy.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    space: dict[str, Any] = {}
    exec(block, space)
    model = make_model(settings, 10)
    strategy = make_strategy(settings, model)
    grid = InProcessGrid(space["app"], 6, dict(settings.to_dict()))
    strategy.start(
        grid,
        plain_record(model.adapter_arrays()),
        num_rounds=1,
        train_config=ConfigRecord({"backbone": model.backbone.fingerprint}),
        evaluate_config=ConfigRecord({"backbone": model.backbone.fingerprint}),
    )
    assert len(strategy.report.clients) == 4 + 6  # train and evaluate
    assert not [row.refused for row in strategy.report.clients if row.refused]


def wrapped(kind: Any, app: ClientApp, *, packs: bool, noise: float) -> dict[str, np.ndarray]:
    planner = None
    if packs:
        tiers = parse_tiers("small depth=1 clients=0; large depth=2 trained=1 clients=1,2", 2)
        planner = DepthPlanner(tiers, ("shared", "block1", "block2"))
    strategy = AdapterFedAvg(fraction_evaluate=0.0, min_available_nodes=3, planner=planner)
    wrapper = kind(strategy, noise, clipping_norm=0.6, num_sampled_clients=3)
    result = wrapper.start(InProcessGrid(app, 3, {}), plain_record(BANK), num_rounds=1)
    return {key: array.numpy() for key, array in result.arrays.items()}


@pytest.mark.parametrize(
    ("kind", "mods"),
    [
        (DifferentialPrivacyServerSideFixedClipping, []),
        (DifferentialPrivacyClientSideFixedClipping, [fixedclipping_mod]),
    ],
)
def test_flowers_wrappers_work_where_every_client_sends_every_tensor(
    kind: Any, mods: list[Any]
) -> None:
    """docs/privacy.md: clipped to 0.6 in all, then noise of 2 * 0.6 / 3."""
    app = adding_app(mods)
    new = wrapped(kind, app, packs=False, noise=0.0)
    assert np.linalg.norm(difference(new, BANK)) == pytest.approx(0.6, rel=1e-4)
    np.random.seed(0)  # the source of Flower's noise
    noise = difference(wrapped(kind, app, packs=False, noise=2.0), new)
    assert noise.std() == pytest.approx(0.4, rel=0.03)


def test_flowers_server_side_wrapper_cannot_clip_parts_of_a_bank() -> None:
    """docs/privacy.md: it wants every tensor of the bank in every reply."""
    kind = DifferentialPrivacyServerSideFixedClipping
    for packs, left_out in ((True, ""), (False, "block2.x")):
        with pytest.raises(ValueError, match="zip"):
            wrapped(kind, adding_app(left_out=left_out), packs=packs, noise=0.0)


def test_flowers_client_side_wrapper_noises_packs_too_little() -> None:
    """docs/privacy.md: block 1 has one holder, and gets the noise of a mean over three."""
    np.random.seed(0)
    app = adding_app([fixedclipping_mod])
    new = wrapped(DifferentialPrivacyClientSideFixedClipping, app, packs=True, noise=2.0)
    for key in BANK:
        assert new[key].std() == pytest.approx(2.0 * 0.6 / 3, rel=0.05)
