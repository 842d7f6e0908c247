"""The docs against the code: links, names, commands, and the examples as they are written."""

from __future__ import annotations

import ast
import importlib.util
import re
import runpy
import shlex
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from safetensors.numpy import load_file
from support import ROOT

import wiring
from models import METHODS
from server_app.inprocess import InProcessGrid
from settings import Settings
from settings.checks import setting

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as they are made for links."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        file = page.parent / target if target else page
        assert file.exists(), link
        assert not anchor or anchor in anchors(file), link


def test_settings_page_is_up_to_date() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_settings.py"))
    assert made["PAGE"].read_text() == made["page"](), "run `make docs`"


def given_settings(command: str) -> dict[str, str]:
    """The settings that a block of shell commands gives, by key; Flower's own options left out."""
    found: dict[str, str] = {}
    tokens = iter(shlex.split(command, comments=True))
    for token in tokens:
        key, separator, value = token.partition("=")
        if token in ("--federation-config", "--node-config"):
            next(tokens)
        elif token == "--config":
            path = next(tokens)
            assert not path.startswith("configs/") or (ROOT / path).is_file(), path
        elif token == "--run-config":
            found |= given_settings(next(tokens))
        elif key == "ARGS":
            found |= given_settings(value)
        elif separator and not key.isupper():
            found[key] = value
    return found


COMMANDS = [(page, block) for page in PAGES for block in blocks(page, "sh") if "=" in block]


@pytest.mark.parametrize(("page", "block"), COMMANDS, ids=[page.stem for page, _ in COMMANDS])
def test_settings_in_commands_exist_and_take_their_values(page: Path, block: str) -> None:
    for key, value in given_settings(block).items():
        assert Settings.from_dict({"clients-per-round": 1, key: value})


def test_commands_are_found() -> None:
    assert {"method", "rounds", "tiers", "output-dir"} <= {
        key for page, block in COMMANDS if page.stem == "README" for key in given_settings(block)
    }


def test_files_and_tests_named_in_the_docs_exist() -> None:
    text = "".join(page.read_text() for page in PAGES if page.stem != "adding-a-method")
    for name, test in re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", text):
        found = [p for p in (ROOT / name, *ROOT.glob(f"*/{name}")) if p.is_file()]
        assert found, name
        assert not test or f"def {test}(" in found[0].read_text(), test


@pytest.mark.parametrize(
    "package", ["strategies", "models", "data", "settings", "client_app", "server_app"]
)
def test_every_file_has_its_row(package: str) -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = page.partition("## What is where")[2].partition("\n## ")[0]
    for file in (ROOT / package).rglob("*.py"):
        name = file.relative_to(ROOT)
        if name.name != "__init__.py":
            assert f"`{name}`" in rows or f"`{name.parent}/`" in rows, name


@pytest.mark.parametrize("package", ["strategies", "models", "data"])
def test_leaf_packages_import_neither_each_other_nor_the_apps(package: str) -> None:
    own = {path.stem for path in ROOT.glob("*.py")} | {
        path.parent.name for path in ROOT.glob("*/*.py")
    }
    for file in (ROOT / package).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1, f"{file.name} leaves its package"
                names = [node.module or ""] if node.level == 0 else []
            assert not {name.split(".")[0] for name in names} & own, f"{file.name}: {names}"


def test_readmes_server_app_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four nodes of another app add 1; the first holds `down` alone, and two train per round."""
    (example,) = blocks(ROOT / "README.md", "python")
    space: dict[str, Any] = {}
    # Installed, the package is `fedgraft.strategies`; here it stands at the top level.
    exec(example.replace("from fedgraft.", "from "), space)
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays = {
            key: Array(array.numpy() + 1)
            for key, array in message.content["arrays"].items()
            if context.node_id > 1 or key.startswith("down")
        }
        content = {"arrays": ArrayRecord(arrays), "metrics": MetricRecord({"num-examples": 1})}
        return Message(RecordDict(content), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        metrics = MetricRecord({"num-examples": 1, "accuracy": 0.5})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    monkeypatch.chdir(tmp_path)
    context = Context(1, 0, {}, RecordDict(), {})
    space["app"](InProcessGrid(app, 4, {}), context)
    arrays = load_file(tmp_path / "adapters.safetensors")
    assert {key: array.shape for key, array in arrays.items()} == {
        "down.weight": (8, 384),
        "down.bias": (8,),
        "head.weight": (10, 384),
        "head.bias": (10,),
    }
    # Ten rounds; a start within 1 / sqrt(384) of zero.
    for array in arrays.values():
        np.testing.assert_allclose(array, 10, atol=0.06)


def test_the_example_method_trains(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page's model, settings and config, in a round on the tiny ViT."""
    page = ROOT / "docs" / "adding-a-method.md"
    model, rows = blocks(page, "python")
    file = tmp_path / "pooled.py"
    file.write_text(model)
    spec = importlib.util.spec_from_file_location("models.pooled", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(METHODS, "pooled", module.PooledModel)

    # The rows stand in the body of a class, which here is a subclass.
    space: dict[str, Any] = {"dataclass": dataclass, "setting": setting, "Base": Settings}
    exec(f"@dataclass(frozen=True, kw_only=True)\nclass Settings(Base):\n{rows}", space)
    for place in (sys.modules["settings"], wiring):
        monkeypatch.setattr(place, "Settings", space["Settings"])

    default, config = (tomllib.loads(block) for block in blocks(page, "toml"))
    assert space["Settings"]().to_dict() == {**Settings().to_dict(), **default}
    given = {key.replace("-", "_"): value for key, value in config.items()}
    run = request.getfixturevalue("run_app")(**{**given, "rounds": 1})
    head = 2 * 24 + 24 * 10 + 10  # one exit for every two blocks
    assert run.summary["trainable-parameters"] == {
        "small": head,
        "medium": head,
        "large": 3 * head,
    }
    assert list(run.summary["accuracy"]) == ["2", "4", "6", "mean"]
    assert run.summary["accuracy"]["mean"] > run.metrics[0]["accuracy-mean"]
