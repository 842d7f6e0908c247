"""ClientApps of a few lines behind `wire_codec`, and the messages they get."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from server_app.inprocess import InProcessGrid
from strategies import plain_record
from strategies.codec_mod import Encoder, wire_codec

LOSSY = ["fp16", "bf16", "int8"]
Train = Callable[[int, dict[str, np.ndarray]], dict[str, np.ndarray]]


def app_of(train_one: Train, mods: Any = (wire_codec,)) -> ClientApp:
    """A ClientApp that trains by a function of partition id and tensors."""
    app = ClientApp(mods=list(mods))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        number = int(context.node_config["partition-id"])
        given = {key: array.numpy() for key, array in message.content["arrays"].items()}
        arrays = {key: Array(np.asarray(value)) for key, value in train_one(number, given).items()}
        metrics = MetricRecord({"num-examples": number + 1})
        content = {"arrays": ArrayRecord(arrays), "metrics": metrics}
        return Message(RecordDict(content), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        del context
        largest = max(float(array.numpy().max()) for array in message.content["arrays"].values())
        metrics = MetricRecord({"num-examples": 1, "largest": largest})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


def add_one(number: int, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: value + value.dtype.type(number + 1) for key, value in tensors.items()}


def message_of(
    tensors: dict[str, np.ndarray], message_type: str = "train", **records: Any
) -> Message:
    InProcessGrid(ClientApp(), 0, {})  # tells Flower who sends
    content = RecordDict({"arrays": plain_record(tensors), **records})
    return Message(content, 1, message_type)


def encoded(message: Message, wire_dtype: str) -> Message:
    content = Encoder(wire_dtype).encode_content(message.content)
    return Message(content, 1, message.metadata.message_type)
