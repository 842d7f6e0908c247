"""What training without labels is worth: classifiers that the server fits on labelled images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from client_app.training import Trainer
from data import ImageSet, Part, Source
from models import AdapterModel, ExitsModel, fit_head
from settings import Settings
from wiring import get_transform, make_model

BATCH = 256


class Downstream:
    """The blocks that clients trained without labels, with classifiers at the exits.

    Labels are those of the server's own training set, in a simulation of the very images that the
    clients train on without them. A server without data fits nothing.

    Parameters
    ----------
    settings : Settings
        Of a run with an objective that needs no labels.
    source : Source | None
        The server's data.
    num_classes : int

    Attributes
    ----------
    settings : Settings
        Those of a supervised run with method `exits`, which trains the same blocks.
    model : ExitsModel
        The blocks, and a head at every exit.
    """

    def __init__(self, settings: Settings, source: Source | None, num_classes: int) -> None:
        self.settings = replace(settings, objective="supervised", method="exits", stored_views=0)
        self.source = source
        self.num_classes = num_classes
        model = make_model(self.settings, num_classes)
        assert isinstance(model, ExitsModel)
        self.model = model
        self.labelled = None if source is None else self._draw(source.train)

    def _draw(self, images: ImageSet) -> Part:
        """Draw the labelled images of the settings."""
        order = np.random.default_rng(self.settings.seed).permutation(len(images))
        return Part(images, np.sort(order[: self.settings.downstream_images or None]))

    def take(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Take over what the clients trained, and fit a linear classifier at every exit."""
        _load(self.model, tensors)
        if self.source is None or self.labelled is None:
            return
        transform = get_transform(self.settings, self.source, training=False)
        pixels = self.labelled.images.images
        parts = np.array_split(self.labelled.positions, range(BATCH, len(self.labelled), BATCH))
        features = torch.cat([self.model.features(transform(pixels[part])) for part in parts])
        labels = torch.from_numpy(self.labelled.labels)
        for place, block in enumerate(self.model.exits):
            fit_head(self.model.head(block), features[:, place], labels)

    def fine_tune(self, tensors: Mapping[str, np.ndarray]) -> float | None:
        """Train blocks and a new classifier after the last exit; return its accuracy.

        None without epochs to train, labels, or a test set.
        """
        epochs, source = self.settings.downstream_epochs, self.source
        if not epochs or source is None or source.test is None or self.labelled is None:
            return None
        end = self.model.exits[-1]
        model = make_model(replace(self.settings, exits=f"{end},"), self.num_classes)
        _load(model, tensors)
        trainer = Trainer(model, self.settings)
        trainer.train(
            list(model.units),
            end,
            self.labelled,
            get_transform(self.settings, source, training=True),
            server_round=self.settings.rounds + 1,  # random numbers that no round has drawn
            client_key="server",
            epochs=epochs,
            rate=self.settings.downstream_rate or self.settings.learning_rate,
        )
        transform = get_transform(self.settings, source, training=False)
        return trainer.predictor.score(Part.whole(source.test), transform).last


def _load(model: AdapterModel, tensors: Mapping[str, np.ndarray]) -> None:
    """Load what the model knows of some tensors: it has no projection head."""
    known = model.adapter_parameters()
    model.load_adapters({key: value for key, value in tensors.items() if key in known})
