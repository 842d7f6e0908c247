"""A message to this node, and what it takes to answer it."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from flwr.app import Context, Message, MessageType

from client_app.node import LocalNode, local_node
from client_app.own import OWN, OwnTensors, keep_lasting
from client_app.store import ClientStore
from client_app.training import Trainer, get_trainer
from settings import Settings, SettingsError
from strategies import FROZEN, KEPT, LASTING, SKIPPED


class Call:
    """What the server wants of this node.

    Parameters
    ----------
    message : Message
        With the units that travel as packs, and a config, unless it is a query.
    context : Context
    settings : Settings

    Attributes
    ----------
    node : LocalNode
    """

    def __init__(self, message: Message, context: Context, settings: Settings) -> None:
        self.message = message
        self.context = context
        self.settings = settings
        self.node: LocalNode = local_node(context, settings)

    @property
    def config(self) -> Any:
        """The message's config."""
        return self.message.content["config"]

    @property
    def server_round(self) -> int:
        """Number of the round, from 1."""
        return int(self.config["server-round"])

    @property
    def depth(self) -> int:
        """Blocks that run."""
        return int(self.config["depth"])

    @property
    def units(self) -> list[str]:
        """Units of the packs: in a training, those that are trained and sent back."""
        return list(self.message.content["arrays"])

    @property
    def kept(self) -> list[str]:
        """Units that the client trains as well, and keeps."""
        return list(self.config.get(KEPT, []))

    @property
    def skipped(self) -> list[int]:
        """Blocks that a training leaves out."""
        return list(self.config.get(SKIPPED, []))

    @property
    def lasting(self) -> bool:
        """Whether what is frozen will not change any more."""
        return self._named(FROZEN).keys() <= self._named(LASTING).keys()

    @cached_property
    def store(self) -> ClientStore:
        """What the client has kept from earlier messages of this run."""
        run_id = str(self.config.get("run", ""))
        return ClientStore(self.context.state, self.node.state_dir, run_id, self.node.client_key)

    def own(self, name: str = OWN) -> OwnTensors:
        """Return what the client keeps of its own, by round."""
        # One round is trained again at most, unless checkpoints are rare.
        return OwnTensors(self.store, self.settings.checkpoint_every + 1, name)

    def load(self) -> Trainer:
        """Put the message's adapters into the process's model; return its trainer.

        Raises
        ------
        SettingsError
            When this node's model or backbone is another than the server's.
        """
        trainer = get_trainer(self.settings, self.node.num_classes, self.node.tier)
        layout = trainer.layout
        if layout.fingerprint() != self.config["layout"]:
            raise SettingsError(
                "the server's adapters are others than this node's: both need the same method, "
                f"tiers, backbone and classes (here {self.node.num_classes}; set classes to name "
                "them)."
            )
        if self.config.get("backbone") not in (None, trainer.model.backbone.fingerprint):
            raise SettingsError(
                f"backbone: the weights of '{self.settings.backbone}' on this node are others than "
                "the server's; adapters fit one backbone alone, so give both the same files."
            )
        packs = dict(self.message.content.array_records["arrays"].items())
        vectors = layout.read(packs | self._named(FROZEN), lambda _: np.dtype(np.float32))
        if lasting := self._named(LASTING):
            vectors |= keep_lasting(self.store, lasting, vectors)
        trainer.model.load_adapters(trainer.initial | layout.split(vectors))
        trainer.model.missing = frozenset(layout.units) - vectors.keys() - set(self.kept)
        # A training goes on from before its round; all else sees the round's own result.
        is_training = self.message.metadata.message_type == MessageType.TRAIN
        number = self.server_round + (not is_training)
        trainer.model.keep(self.kept, self.own().before(number) if self.kept else {})
        return trainer

    def _named(self, prefix: str) -> dict[str, Any]:
        """Return what stands in the config for units, under keys with this prefix."""
        return {
            key.removeprefix(prefix): value
            for key, value in self.config.items()
            if key.startswith(prefix)
        }
