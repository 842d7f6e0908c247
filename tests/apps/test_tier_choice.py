"""Which tier a node takes that says tier="auto", and what the doctor tells."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, RecordDict

from client_app.node import local_node
from client_app.tier_choice import choose_tier, free_memory, read_budget
from models import count_step
from server_app.doctor import main
from server_app.strategy import make_planner
from server_app.tier_costs import tier_costs
from settings import Settings, SettingsError, load_toml
from wiring import get_device, get_tiers, make_model

TIERS = "small depth=2 share=0.4; medium depth=4 share=0.3; large depth=6 share=0.3"


def settings_for(tiny_vit: Path, **values: Any) -> Settings:
    # Batches larger than those of scoring: training is what takes most.
    fitting = {"adapter": "full", "method": "exits", "batch_size": 256}
    return Settings(backbone=str(tiny_vit), exits="3", tiers=TIERS, **(fitting | values))


def peaks_of(settings: Settings) -> dict[str, int]:
    model = make_model(settings, 10)
    planner = make_planner(settings, get_tiers(settings), model)
    return {name: cost.peak for name, cost in tier_costs(settings, model, planner).items()}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (1500, 1500),
        ("1500", 1500),
        ("2GB", 2 * 10**9),
        ("2 gb", 2 * 10**9),
        ("1.5GiB", 3 * 2**29),
        ("300kB", 300_000),
        ("64MiB", 2**26),
    ],
)
def test_budgets_are_read(text: int | str, size: int) -> None:
    assert read_budget(text) == size


@pytest.mark.parametrize("text", ["", "0", "-2GB", "2XB", "GB", "1.2.3MB", "lots", True])
def test_what_is_no_budget_is_refused(text: object) -> None:
    with pytest.raises(SettingsError) as caught:
        read_budget(text)
    assert str(caught.value) == (
        f"memory-budget: '{text}' is no amount of memory; give bytes, or a text such as 2GB or "
        "1.5GiB, in this node's --node-config."
    )


def test_the_largest_tier_that_fits_is_taken(
    tiny_vit: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_for(tiny_vit)
    peaks = peaks_of(settings)
    assert peaks["small"] < peaks["medium"] < peaks["large"]
    with caplog.at_level(logging.INFO, logger="flwr"):
        assert choose_tier(settings, 10, peaks["large"]) == "large"
        assert choose_tier(settings, 10, peaks["large"] - 1) == "medium"
        assert choose_tier(settings, 10, peaks["medium"] - 1) == "small"
    least, middle, most = (f"{peaks[name] / 1e6:,.0f} MB" for name in peaks)
    assert caplog.messages[1] == (
        f"tier=auto: 'medium' takes {middle}, and is the largest tier that fits its memory-budget "
        f"of {most}; 'large' would take {most}"
    )
    with pytest.raises(SettingsError) as caught:
        choose_tier(settings, 10, 1000)
    assert str(caught.value) == (
        "tier=auto: no tier fits its memory-budget of 0 MB on this node, as 'small' takes "
        f"{least}; give it more, lower batch-size, or add a smaller tier."
    )


def test_without_a_budget_free_memory_is_measured(tiny_vit: Path) -> None:
    settings = settings_for(tiny_vit)
    assert free_memory(get_device(settings)) > max(peaks_of(settings).values())
    assert choose_tier(settings, 10) == "large"


def test_a_node_keeps_the_tier_that_it_chose(tiny_vit: Path) -> None:
    settings, state = settings_for(tiny_vit), RecordDict()

    def tier(budget: int) -> str:
        config: Any = {
            "partition-id": 0,
            "num-partitions": 4,
            "tier": "auto",
            "memory-budget": budget,
        }
        context = Context(run_id=1, node_id=1, node_config=config, state=state, run_config={})
        return local_node(context, settings).tier

    peaks = peaks_of(settings)
    assert tier(peaks["medium"]) == "medium"
    assert tier(peaks["large"]) == "medium"


@pytest.mark.parametrize("method", ["reefl", "scalefl", "layerwise", "local-attention"])
def test_costs_of_tiers_are_those_of_their_plans(tiny_vit: Path, method: str) -> None:
    settings = settings_for(tiny_vit, method=method, adapter="lora", adapter_rank=4)
    model = make_model(settings, 10)
    planner = make_planner(settings, get_tiers(settings), model)
    before = model.missing
    for name, cost in tier_costs(settings, model, planner).items():
        assert cost.down >= cost.up > 0
        assert cost.plan.depth <= {"small": 2, "medium": 4, "large": 6}[name]
    assert model.missing == before


def test_the_summary_has_what_is_counted(run_app: Any) -> None:
    run = run_app(method="exits", adapter="parallel", adapter_rank=4, rounds=1)
    told = run.summary["peak-train-bytes"]
    settings = Settings.from_dict(load_toml(run.output / "settings.toml"))
    model = make_model(settings, 10)
    for tier in get_tiers(settings):
        plan = make_planner(settings, get_tiers(settings), model)(tier.name, 1)
        step = count_step(model, plan.trained, settings.batch_size, plan.depth)
        held = 4 * sum(p.numel() for p in model.parameters())
        trained = sum(
            p.numel()
            for key, p in model.adapter_parameters().items()
            if key.split(".")[0] in plan.trained
        )
        images = settings.batch_size * 3 * model.backbone.image_size**2
        expected = held + 4 * (3 * trained + images) + step.peak
        assert told[tier.name] == pytest.approx(expected, rel=0.05)


def test_the_doctor_prints_a_row_per_tier(
    tiny_vit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiers = "small depth=2 share=0.5; medium depth=4 share=0.5"
    settings = replace(settings_for(tiny_vit), tiers=tiers)
    peaks = peaks_of(settings)
    given = [f"backbone={tiny_vit}", "exits=3", f"tiers={tiers}", "method=exits", "adapter=full"]
    options = ["--classes", "10", "--budget", str(peaks["small"]), "--count"]
    assert main([*given, "batch-size=256", *options]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = {line[0]: line for line in lines if line and line[0] in peaks}
    assert [row[-1] for row in rows.values()] == ["yes", "no"]
    for name, row in rows.items():
        predicted, counted = float(row[2]), float(row[3])
        assert predicted == pytest.approx(peaks[name] / 1e6, abs=0.06)
        assert predicted == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["method=nope"], "error: method: 'nope' is not one of"),
        (["rounds"], "error: 'rounds' should read key=value."),
        (["--budget", "much"], "error: memory-budget: 'much' is no amount of memory"),
        (["--classes", "1"], "error: classes: with 1 there is nothing to tell apart"),
    ],
)
def test_the_doctor_refuses_in_a_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(sentence)


@pytest.mark.parametrize("stage_one", [0, 2])
def test_both_experts_are_told_of(
    stage_one: float, tiny_vit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In stage 2 the local expert is trained, with both factors; the global one is frozen."""
    values = {"method": "mofm", "mofm_gate": "half", "adapter": "none", "activation": "all"}
    settings = settings_for(tiny_vit, **values, rounds=3, stage_one_rounds=stage_one)
    model = make_model(settings, 10)
    planner = make_planner(settings, get_tiers(settings), model)
    cost = tier_costs(settings, model, planner)["large"]
    memory = cost.memory
    assert any(unit.startswith("local-") for unit in cost.longest.trained)
    assert not model.mixing
    model.mixing = True  # type: ignore[assignment]
    local = [unit for unit in model.units if unit.startswith("local-")]
    counted = count_step(model, local, settings.batch_size, 6)
    assert memory.activations == pytest.approx(counted.peak, rel=0.05)
    words = [f"{k.replace('_', '-')}={v}" for k, v in settings.to_dict().items()]
    assert main([*words, "--classes", "10", "--count"]) == 0
    assert "large" in capsys.readouterr().out
