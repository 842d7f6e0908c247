"""How a setting is declared, and how its value is read and checked."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

Value = bool | int | float | str
# Flower's run config and TOML hold 64 bits.
LARGEST_INT = 2**63 - 1


class SettingsError(ValueError):
    """A wrong key or value; the message names the nearest valid ones."""


def setting(
    default: Value,
    meaning: str,
    *,
    choices: tuple[str, ...] = (),
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
) -> Any:
    """Declare a setting: its default, what it means, and which values it takes."""
    return field(
        default=default,
        metadata={
            "meaning": meaning,
            "choices": choices,
            "minimum": minimum,
            "above": above,
            "maximum": maximum,
        },
    )


def convert(key: str, value: Any, kind: type) -> Any:
    """Convert `value` to `kind`: text as a command line gives it, an int where a float is due."""
    try:
        if kind is bool and isinstance(value, str):
            return {"true": True, "false": False}[value.lower()]
        if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
            return float(value)
        if kind is int and isinstance(value, str):
            return int(value)
        if kind is str and isinstance(value, int) and not isinstance(value, bool):
            return str(value)  # exits = 4
    except (ValueError, KeyError):
        pass
    if type(value) is not kind:
        name = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[kind]
        raise SettingsError(f"{key}: {value!r} is not {name}.")
    return value


def check(key: str, value: Any, spec: Mapping[str, Any]) -> None:
    """Hold a value against what its setting allows."""
    if spec["choices"] and value not in spec["choices"]:
        near = difflib.get_close_matches(str(value), spec["choices"], n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        valid = ", ".join(spec["choices"])
        raise SettingsError(f"{key}: {value!r} is not one of {valid}.{hint}")
    if isinstance(value, str):
        return
    if not math.isfinite(value):
        raise SettingsError(f"{key}: {value} is not a finite number.")
    if spec["above"] is not None and not value > spec["above"]:
        raise SettingsError(f"{key}: {value} must be above {spec['above']}.")
    if spec["minimum"] is not None and not value >= spec["minimum"]:
        raise SettingsError(f"{key}: {value} must be {spec['minimum']} or more.")
    maximum = spec["maximum"]
    if maximum is None and isinstance(value, int):
        maximum = LARGEST_INT
    if maximum is not None and not value <= maximum:
        raise SettingsError(f"{key}: {value} must be {maximum} or less.")


def read_path(key: str, text: str) -> Path:
    """Return the path that a setting names, with ``~`` resolved; nothing need be there.

    Raises
    ------
    SettingsError
        For text that is no path on this machine: blank, too long, of an unknown user.
    """
    try:
        if not text.strip():
            raise ValueError("it is empty")
        path = Path(text).expanduser()
        path.resolve().exists()
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).rstrip(".")
        raise SettingsError(f"{key}: {text!r} is no path here ({reason}); correct it.") from None
    return path
