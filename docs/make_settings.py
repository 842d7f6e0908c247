"""Write docs/settings.md from the files of settings/: ``make docs``."""

from __future__ import annotations

import json
import sys
from dataclasses import Field, fields
from pathlib import Path
from textwrap import fill
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from settings import Settings

PAGE = Path(__file__).with_name("settings.md")
WIDTH = 140
TYPES = {bool: "true or false", int: "integer", float: "number", str: "text"}
# Each group by its first setting.
GROUPS = {
    "method": "Model: method, backbone, exits, tiers, adapters",
    "dataset": "Data",
    "num-clients": "Rounds and local training",
    "row-averaging": "Averaging and messages",
    "evaluate-every": "Run",
}
HEAD = """# Settings

Made from the files of `settings/` by `make docs`: edit these, not this page.

Settings are given to `run_simulation.py` as `key=value` or in a TOML file (`--config`; the command
line wins), and to Flower's own commands as run config. An unknown key or a bad value ends in one
sentence that names the valid ones."""
COLUMNS = """
| key | type | default | allowed | meaning |
| --- | --- | --- | --- | --- |"""


def allowed(setting: Field[Any]) -> str:
    """Say which values a setting takes; empty where its type says all."""
    spec = setting.metadata
    limits = {"above": spec["above"], "from": spec["minimum"], "to": spec["maximum"]}
    parts = [f"`{choice}`" for choice in spec["choices"]]
    return ", ".join([*parts, *(f"{k} {v}" for k, v in limits.items() if v is not None)])


def page() -> str:
    """Return the whole page; a meaning too wide for its table stands below it."""
    lines = [HEAD]
    notes: list[str] = []
    for setting in fields(Settings):
        key, meaning = setting.name.replace("_", "-"), setting.metadata["meaning"]
        if key in GROUPS:
            lines += [*notes, f"\n## {GROUPS[key]}", COLUMNS]
            notes = []
        default = f"`{json.dumps(setting.default)}`"
        first = f"| `{key}` | {TYPES[type(setting.default)]} | {default} | {allowed(setting)}"
        if len(first) + len(meaning) > WIDTH - 5:
            notes.append(fill(f"\n`{key}`: {meaning}", WIDTH, replace_whitespace=False))
            meaning = "See below."
        lines.append(f"{first} | {meaning} |")
    return "\n".join([*lines, *notes]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
