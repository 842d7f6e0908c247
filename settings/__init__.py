"""The settings of a run: typed, checked, and the same for every runtime."""

from .checks import SettingsError, read_path
from .files import load_toml
from .schema import Settings

__all__ = ["Settings", "SettingsError", "load_toml", "read_path"]
