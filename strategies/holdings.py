"""Who holds which of the units that never change again, so that each is sent to a client once."""

from __future__ import annotations

from collections.abc import Mapping

from flwr.app import RecordDict

# Prefix of the config keys that name a lasting unit of the message, with the mark of its values.
LASTING = "lasting."


class Holdings:
    """What nodes hold, as far as their replies tell.

    By node id, not by client key: a node that starts again under a new id has lost Flower's state.
    """

    def __init__(self) -> None:
        self._held: dict[int, dict[str, str]] = {}

    def of(self, node_id: int) -> Mapping[str, str]:
        """Return the mark of each unit that a node holds."""
        return self._held.get(node_id, {})

    def note(self, node_id: int, sent: RecordDict) -> None:
        """Note that a node answered a message, and so holds what was in it."""
        for config in sent.config_records.values():
            marks = {
                key.removeprefix(LASTING): str(value)
                for key, value in config.items()
                if key.startswith(LASTING)
            }
            if marks:
                self._held.setdefault(node_id, {}).update(marks)

    def forget(self, node_id: int) -> None:
        """Take a node that answered with an error to hold nothing: it may have lost it."""
        self._held.pop(node_id, None)
