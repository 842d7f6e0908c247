"""The peer of benchmarks/simulation.py: a Flower app as tutorials write it, on Ray.

``python benchmarks/plain_flower_app.py FOLDER CLIENTS ROUNDS`` prints the seconds of every round as
JSON. Each message builds the model, loads a state dict of the adapters, trains, and returns one.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import nn
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).parents[1]))

from models import AdapterModel, AdapterSpec, build_model, load_backbone

BATCH, CLASSES = 32, 100
client_app = ClientApp()


def build(folder: str) -> AdapterModel:
    """Read the backbone from disk and put adapters and a head on it."""
    backbone = load_backbone.__wrapped__(f"{folder}/vit", 96)
    return build_model(
        "exits", backbone, (backbone.depth,), CLASSES, adapter=AdapterSpec("lora", 8)
    )


@cache
def load_images(folder: str) -> tuple[np.ndarray, np.ndarray]:
    """Read all pictures once per process."""
    with np.load(f"{folder}/images.npz") as data:
        return data["train_images"], data["train_labels"]


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Train one epoch."""
    folder = str(message.content.config_records["config"]["folder"])
    model = build(folder)
    state = message.content.array_records["arrays"].to_torch_state_dict()
    model.units.load_state_dict(state)
    images, labels = load_images(folder)
    number = int(context.node_config["partition-id"])
    total = int(context.node_config["num-partitions"])
    own = np.arange(len(images))[number::total]
    own = own[: len(own) * 4 // 5]
    prepare = v2.Compose(
        [
            v2.ToDtype(torch.float32, scale=True),
            v2.Resize((96, 96), antialias=True),
            v2.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    parameters = list(model.units.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    model.train()
    total_loss = 0.0
    for chosen in torch.randperm(len(own)).split(BATCH):
        pixels = torch.from_numpy(images[own[chosen]]).permute(0, 3, 1, 2)
        optimizer.zero_grad()
        loss = model.loss(model(prepare(pixels)), torch.from_numpy(labels[own[chosen]]))
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        total_loss += loss.item() * len(chosen)
    metrics = MetricRecord({"num-examples": len(own), "train-loss": total_loss / len(own)})
    content = RecordDict({"arrays": ArrayRecord(model.units.state_dict()), "metrics": metrics})
    return Message(content, reply_to=message)


class TimedFedAvg(FedAvg):
    """FedAvg that notes when training began and ended."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.times: list[float] = []

    def configure_train(self, *arguments: Any) -> Iterable[Message]:
        """Note the beginning."""
        self._start = time.perf_counter()
        return super().configure_train(*arguments)

    def aggregate_train(self, *arguments: Any) -> Any:
        """Note the end."""
        self.times.append(time.perf_counter() - self._start)
        return super().aggregate_train(*arguments)


def main(folder: str, clients: int, rounds: int) -> None:
    """Run and print the times."""
    # Ray's workers import the app from here, so that its caches outlive a message.
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    server_app = ServerApp()
    strategy = TimedFedAvg(
        fraction_train=10 / clients, fraction_evaluate=0.0, min_available_nodes=clients
    )

    @server_app.main()
    def serve(grid: Grid, context: Context) -> None:
        del context
        arrays = ArrayRecord(build(folder).units.state_dict())
        config = ConfigRecord({"folder": folder})
        strategy.start(grid, arrays, num_rounds=rounds, train_config=config)

    run_simulation(
        server_app,
        importlib.import_module("plain_flower_app").client_app,
        clients,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    print(json.dumps(strategy.times))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
