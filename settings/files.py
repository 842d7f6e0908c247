"""Settings files."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from .checks import SettingsError, read_path


def load_toml(path: str | Path) -> dict[str, Any]:
    """Read a settings file (``configs/*.toml``): flat keys and values."""
    file = read_path("--config", str(path))
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise SettingsError(f"there is no settings file {path}; configs/ holds examples.") from None
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be read as a settings file ({error.strerror}); configs/ holds examples."
        ) from None
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path} is no TOML file: {error}.") from None
    table = next((key for key, value in values.items() if isinstance(value, dict)), None)
    if table is not None:
        raise SettingsError(f"{path}: '{table}' is a table; settings are plain key = value lines.")
    return values
