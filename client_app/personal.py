"""Personalised adapters, saved on the client's own machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import numpy as np

from client_app.node import LocalNode
from models import SHARED, block_unit, write_exported
from settings import Settings, SettingsError
from wiring import describe_adapters


def save_personal(
    node: LocalNode, settings: Settings, exits: tuple[int, ...], tensors: Mapping[str, np.ndarray]
) -> None:
    """Write a client's adapters to ``<personal-dir>/<client key>/``, as a run's are written.

    Raises
    ------
    SettingsError
        When the folder cannot be written to.
    """
    # A client key may be any text; its folder stays in the folder.
    folder = Path(node.personal_dir).expanduser() / quote(node.client_key, safe="").replace(
        ".", "%2E"
    )
    # The model that is built from them ends at its last exit; a tier may be deeper.
    used = {SHARED, *(block_unit(block) for block in range(1, exits[-1] + 1))}
    tensors = {key: tensor for key, tensor in tensors.items() if key.split(".")[0] in used}
    try:
        description = describe_adapters(settings, node.source, node.source.train.classes, exits)
        write_exported(folder, tensors, description)
    except OSError as error:
        raise SettingsError(
            f"personal-dir: {folder} cannot be written to ({error.strerror}); give another folder."
        ) from None
