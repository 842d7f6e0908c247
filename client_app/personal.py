"""Personalised adapters, saved on the client's own machine."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from client_app.node import LocalNode
from models import AdapterModel, ExitScores, write_exported
from settings import Settings, SettingsError
from wiring import describe_adapters


def save_personal(
    node: LocalNode, settings: Settings, model: AdapterModel, depth: int, scores: ExitScores
) -> None:
    """Write a client's adapters to ``<personal-dir>/<client key>/``, as a run's are written.

    `scores` are those of the client's own test part, for the model card.

    Raises
    ------
    SettingsError
        When the folder cannot be written to.
    """
    # A client key may be any text; its folder stays in the folder.
    name = quote(node.client_key, safe="").replace(".", "%2E")
    folder = Path(node.personal_dir).expanduser() / name
    exits, tensors = model.ending_at(depth)
    try:
        description = describe_adapters(
            settings, node.source, node.source.train.classes, exits, model
        )
        write_exported(folder, tensors, description, scores.accuracy)
    except OSError as error:
        raise SettingsError(
            f"personal-dir: {folder} cannot be written to ({error.strerror}); give another folder."
        ) from None
