"""A row of numbers for every client, by its key: a table that grows as clients are learnt about."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np

from .errors import StrategyError

KEYS, VALUES = "keys", "values"


class ClientRows:
    """Embeddings of clients, ``(E,)`` each.

    A client's first row is drawn from the standard normal distribution by the run's seed and its
    key alone, so that neither the order in which clients appear nor Flower's node ids matter. It
    is drawn anew whenever it is asked for, and kept only when `put` has changed it.

    Parameters
    ----------
    width : int
        E.
    seed : int
    """

    def __init__(self, width: int, seed: int) -> None:
        self.width = width
        self.seed = seed
        self._places: dict[str, int] = {}
        self._values = np.zeros((0, width), np.float32)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def get(self, keys: Sequence[str]) -> np.ndarray:
        """Return the rows of some clients, ``(m, E)``."""
        rows = np.empty((len(keys), self.width), np.float32)
        for place, key in enumerate(keys):
            kept = self._places.get(key)
            rows[place] = self._drawn(key) if kept is None else self._values[kept]
        return rows

    def put(self, key: str, row: np.ndarray) -> None:
        """Set a client's row."""
        place = self._places.setdefault(key, len(self._places))
        if place == len(self._values):
            # Doubled, so that a hundred thousand clients are not copied one by one.
            grown = np.zeros((max(16, 2 * place), self.width), np.float32)
            grown[:place] = self._values
            self._values = grown
        self._values[place] = row

    def mean(self) -> np.ndarray:
        """Return the mean of the rows that are kept, ``(E,)``; zeros where there is none."""
        count = len(self._places)
        return self._values[:count].mean(axis=0) if count else np.zeros(self.width, np.float32)

    def state(self) -> dict[str, np.ndarray]:
        """Return keys (as JSON in bytes) and rows, for a checkpoint."""
        text = json.dumps(list(self._places)).encode()
        return {
            KEYS: np.frombuffer(text, np.uint8).copy(),
            VALUES: self._values[: len(self._places)].copy(),
        }

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Take back what `state` returned.

        Raises
        ------
        StrategyError
            When it is nothing that `state` returned for rows of this width.
        """
        try:
            keys = json.loads(state[KEYS].astype(np.uint8).tobytes())
            values = state[VALUES].astype(np.float32)
            sound = all(isinstance(key, str) for key in keys) and len(set(keys)) == len(keys)
        except (KeyError, ValueError, TypeError):
            sound = False
        if not sound or values.shape != (len(keys), self.width) or not np.isfinite(values).all():
            raise StrategyError(
                f"resume: the checkpoint holds no rows of {self.width} numbers for its clients; "
                "resume with the settings it was written with."
            )
        self._places = {key: place for place, key in enumerate(keys)}
        self._values = values

    def _drawn(self, key: str) -> np.ndarray:
        digest = hashlib.sha256(key.encode()).digest()[:8]
        generator = np.random.default_rng([self.seed, int.from_bytes(digest, "little")])
        return generator.standard_normal(self.width, dtype=np.float32)
