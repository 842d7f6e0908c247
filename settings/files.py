"""Settings files."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from .checks import SettingsError


def load_toml(path: str | Path) -> dict[str, Any]:
    """Read a settings file (``configs/*.toml``): flat keys and values."""
    try:
        values = tomllib.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        if not isinstance(error, tomllib.TOMLDecodeError | UnicodeDecodeError):
            raise SettingsError(
                f"there is no settings file {path}; configs/ holds examples."
            ) from None
        raise SettingsError(f"{path} is no TOML file: {error}.") from None
    table = next((key for key, value in values.items() if isinstance(value, dict)), None)
    if table is not None:
        raise SettingsError(f"{path}: '{table}' is a table; settings are plain key = value lines.")
    return values
