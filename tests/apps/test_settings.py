"""Settings: one list of keys, types and sentences."""

import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from data import AUGMENTATIONS, PARTITIONS, SAMPLINGS
from models.adapters import ADAPTERS
from models.registry import METHODS, parse_exits
from run_simulation import parse
from settings import Settings, SettingsError, load_toml
from strategies import WIRE_DTYPES, assign_tiers, parse_tiers

ROOT = Path(__file__).parents[2]


def choices(name: str) -> tuple[str, ...]:
    return Settings.__dataclass_fields__[name].metadata["choices"]


def test_pyproject_lists_the_same_keys_with_the_same_defaults() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    assert config == Settings().to_dict()
    assert {key: type(value) for key, value in config.items()} == {
        key: type(value) for key, value in Settings().to_dict().items()
    }


def test_choices_are_those_of_the_registries() -> None:
    assert set(choices("method")) == set(METHODS)
    assert choices("partition") == PARTITIONS
    assert choices("augment") == AUGMENTATIONS
    assert choices("sampling") == SAMPLINGS
    assert choices("adapter") == tuple(ADAPTERS)
    assert choices("wire_dtype") == tuple(WIRE_DTYPES)


def test_toml_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    settings = Settings(data_dir='C:\\odd "path"', rounds=7, alpha=0.1, augment="crop")
    (tmp_path / "s.toml").write_text(settings.to_toml())
    assert Settings.from_dict(load_toml(tmp_path / "s.toml")) == settings


def test_method_options_are_the_settings_named_after_it() -> None:
    assert Settings(accumulator_tap="attention").method_options() == {
        "sharing": "shared",
        "history": "modulated",
        "size": "bottleneck",
        "tap": "attention",
    }
    assert Settings(method="exits").method_options() == {}


def test_the_command_line_overrides_a_config_file(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('rounds = 3\nexits = 2\nmethod = "exits"\n')
    settings, runtime = parse(
        ["--config", str(tmp_path / "c.toml"), "--runtime", "ray", "rounds=5", "augment=shift"]
    )
    assert (settings.rounds, settings.exits, settings.method) == (5, "2", "exits")
    assert (settings.augment, runtime) == ("shift", "ray")


def test_of_several_config_files_and_equal_keys_the_later_wins(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbfrounds = 3\nseed = 1\n")  # as Windows writes it
    (tmp_path / "b.toml").write_text("rounds = 4\n")
    files = ["--config", str(tmp_path / "a.toml"), "--config", str(tmp_path / "b.toml")]
    settings, _ = parse(["alpha=0.1", *files, "alpha=0.2", "batch-size=7"])
    assert (settings.rounds, settings.seed) == (4, 1)
    assert (settings.alpha, settings.batch_size) == (0.2, 7)


CONFIGS = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "configs").rglob("*.toml"))]


@pytest.mark.parametrize("name", CONFIGS)
def test_every_shipped_config_parses_and_names_its_command(name: str) -> None:
    settings = Settings.from_dict(load_toml(ROOT / name))
    parse_tiers(settings.tiers, 12)
    header = (ROOT / name).read_text().split("\n\n")[0]
    assert f"run_simulation.py --config {name}" in header


@pytest.mark.parametrize("name", [name for name in CONFIGS if "reefl" in name])
def test_the_protocols_have_a_tier_for_each_exit_of_equal_size(name: str) -> None:
    """Twelve exits and 100 clients: as many in each tier as client numbers modulo 12 give."""
    settings = Settings.from_dict(load_toml(ROOT / name))
    tiers = parse_tiers(settings.tiers, 12)
    assert tuple(tier.depth for tier in tiers) == parse_exits(settings.exits, 12)
    found = Counter(assign_tiers(tiers, settings.num_clients, settings.seed))
    expected = Counter(client % len(tiers) for client in range(settings.num_clients))
    assert sorted(found.values()) == sorted(expected.values())
    assert len(tiers) == (12 if name.endswith("_e12.toml") else 4)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"learning-rat": 1}, "'learning-rat' is no setting; did you mean learning-rate"),
    ({"zzz": 1}, "'zzz' is no setting; see docs/settings.md"),
    ({"learning_rate": 1}, "did you mean learning-rate"),
    ({"method": "accumulate"}, ". Did you mean accumulator?"),
    ({"partition": "dirichelet"}, "Did you mean dirichlet"),
    ({"adapter": "lorra"}, "not one of none, lora, parallel, serial, ssf, full. Did you mean lora"),
    ({"wire-dtype": "fp64"}, "not one of fp32, fp16"),
    ({"rounds": "ten"}, "rounds: 'ten' is not a whole number"),
    ({"rounds": "1.5"}, "not a whole number"),
    ({"rounds": 0}, "rounds: 0 must be 1 or more"),
    ({"rounds": True}, "True is not a whole number"),
    ({"batch-size": -1}, "batch-size: -1 must be 1 or more"),
    ({"learning-rate": 0}, "learning-rate: 0.0 must be above 0"),
    ({"learning-rate": "nan"}, "learning-rate: nan is not a finite number"),
    ({"learning-rate": "fast"}, "'fast' is not a number"),
    ({"alpha": -1}, "alpha: -1.0 must be above 0"),
    ({"augment": "rotate"}, "augment: 'rotate' is not one of none, shift, crop"),
    ({"augment": True}, "augment: True is not text"),
    ({"normalise": "backbones"}, "Did you mean backbone?"),
    ({"sampling": "balanced"}, "Did you mean class-balanced?"),
    ({"test-share": 0.95}, "test-share: 0.95 must be 0.9 or less"),
    ({"clip-norm": -1}, "clip-norm: -1.0 must be 0 or more"),
    ({"image-size": 10_000}, "image-size: 10000 must be 4096 or less"),
    ({"clip-value": -1}, "clip-value: -1.0 must be 0 or more"),
    ({"minimum-rate": 0.01}, "minimum-rate: 0.01 is above the learning-rate of 0.002; lower it."),
    ({"client-test": "centre"}, "client-test: 'centre' is not one of split, central. Did you mean"),
    ({"clients-per-round": 30}, "30 is more than the num-clients of 20"),
    ({"learning-rate": "inf"}, "learning-rate: inf is not a finite number"),
    ({"seed": 2**32}, "must be 4294967295 or less"),
    ({"min-replies": 11}, "can never come from the clients-per-round of 10"),
    ({"data-dir": 3.5}, "data-dir: 3.5 is not text"),
]


@pytest.mark.parametrize(("values", "sentence"), WRONG)
def test_wrong_settings_get_a_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError) as error:
        Settings.from_dict(values)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_or_broken_config_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no settings file"):
        load_toml(tmp_path / "no.toml")
    (tmp_path / "bad.toml").write_text("rounds 3")
    with pytest.raises(SettingsError, match="cannot be read as a settings file"):
        load_toml(tmp_path)
    (tmp_path / "table.toml").write_text("[run]\nrounds = 3")
    with pytest.raises(SettingsError, match="'run' is a table"):
        load_toml(tmp_path / "table.toml")
    with pytest.raises(SettingsError, match="is no TOML file"):
        load_toml(tmp_path / "bad.toml")


def test_an_argument_without_a_value_is_named() -> None:
    with pytest.raises(SettingsError, match="'rounds' should read key=value"):
        parse(["rounds"])
