"""What a client has for itself: tensors of its own by round, and units that never change again."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from client_app.store import ClientStore
from settings import SettingsError

OWN, LASTING = "own", "lasting"


class OwnTensors:
    """A client's own tensors after each of the latest rounds that it trained in.

    Several rounds are kept, since a run that is resumed goes back to its last checkpoint, and the
    client must go back with it.

    Parameters
    ----------
    store : ClientStore
    rounds : int
        How many rounds to keep.
    name : str
        Of these tensors in the store.
    """

    def __init__(self, store: ClientStore, rounds: int, name: str = OWN) -> None:
        self.store = store
        self.rounds = rounds
        self.name = name

    def before(self, server_round: int) -> dict[str, np.ndarray]:
        """Return the tensors by key as they were before a round; none if it is the first."""
        latest = max((number for number in self._known() if number < server_round), default=0)
        return self.store.read(f"{self.name}-{latest}")

    def save(self, server_round: int, tensors: Mapping[str, np.ndarray]) -> None:
        """Keep the tensors as they are after a round, and drop what is too old or overtaken.

        Those that are not given stay as they were before it.
        """
        # What a killed run trained after its last checkpoint is trained again.
        known = self._known()
        earlier = sorted(number for number in known if number < server_round)
        dropped = [n for n in known if n > server_round] + earlier[: -self.rounds]
        self.store.write(f"{self.name}-{server_round}", self.before(server_round) | dict(tensors))
        for number in dropped:
            self.store.remove(f"{self.name}-{number}")

    def _known(self) -> list[int]:
        """List the rounds after which there are tensors."""
        found = (name.rpartition("-") for name in self.store.names())
        return [int(number) for name, _, number in found if name == self.name]


def keep_lasting(
    store: ClientStore, versions: Mapping[str, str], vectors: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Keep the lasting units that came, and return those of the message that did not.

    Parameters
    ----------
    store : ClientStore
    versions : Mapping[str, str]
        Mark of the values of each lasting unit of the message.
    vectors : Mapping[str, np.ndarray]
        What came, by unit.

    Raises
    ------
    SettingsError
        When the server takes the client to hold what it does not, as after the loss of its folder.
    """
    found: dict[str, np.ndarray] = {}
    for unit, version in versions.items():
        name = f"{LASTING}-{unit}-{version}"
        if unit in vectors:
            for other in store.names():
                if other.startswith(f"{LASTING}-{unit}-") and other != name:
                    store.remove(other)
            store.write(name, {unit: vectors[unit]})
        elif kept := store.read(name):
            found |= kept
        else:
            raise SettingsError(
                f"this client no longer has '{unit}', which it got earlier; the server sends it "
                "again with its next message. A state-dir keeps it over a restart."
            )
    return found
