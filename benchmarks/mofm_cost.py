"""What two experts cost: operations of a run, and memory by the number of active blocks."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))

from memory import vit_small

from models import AdapterModel, FixedFeaturesModel, MofmModel, build_model
from models.mofm import GATE
from server_app.strategy import make_strategy
from settings import Settings
from wiring import class_names, make_model

BATCH, WIDTH, TOKENS = 32, 384, 197  # ViT-S/16 at 224 px


class RunCost:
    """Operations of the clients' training in a run; a multiply-add counts as 2.

    Parameters
    ----------
    settings : Settings
        Those of the run.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.model = make_model(settings, len(class_names(settings))).cpu()
        planner = make_strategy(settings, self.model).planner
        assert planner is not None
        self.planner = planner
        self._count = cache(self._count_step)

    def by_round(self, clients: Iterable[dict[str, Any]]) -> dict[int, float]:
        """Sum the operations up to each round, from the rows of clients.jsonl.

        What is kept of an image is counted once for each client.
        """
        seen: set[tuple[str, bool]] = set()
        found: dict[int, float] = {}
        total = 0.0
        for row in clients:
            if row["phase"] != "train" or row["refused"]:
                continue
            plan = self.planner(row["tier"], row["round"], row["client"])
            examples, mixing = row["num-examples"], bool(plan.kept)
            gates = frozenset(u for u in plan.trained + plan.kept if u.startswith(GATE))
            others = frozenset(plan.trained + plan.kept) - gates
            share = self.settings.gate_share if gates else 0.0
            per_image = share * self._count(gates, mixing) if share else 0.0
            per_image += (1 - share) * self._count(others if share else others | gates, mixing)
            total += self.settings.local_epochs * examples * per_image
            if (row["client"], mixing) not in seen:
                seen.add((row["client"], mixing))
                total += examples * self._count(frozenset(), mixing)
            found[row["round"]] = total
        return found

    def _count_step(self, units: frozenset[str], mixing: bool) -> int:
        """Count the step of an image; without units, what is computed once and kept."""
        side = self.model.backbone.image_size
        images = torch.zeros(1, 3, side, side)
        if isinstance(self.model, MofmModel):
            self.model.mixing = mixing
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            if units:
                step(self.model, units, images)
            elif mixing or _keeps_features(self.model):
                self.model.features(images)  # type: ignore[operator]
        return counter.get_total_flops()


def step(model: AdapterModel, units: Collection[str], images: Tensor) -> None:
    """Run forward and backward as a client does, with what it keeps of the images at hand."""
    model.train()
    model.set_trained(units)
    labels = torch.zeros(len(images), dtype=torch.long, device=images.device)
    if isinstance(model, MofmModel) and model.mixing:
        shape = len(images), len(model.exits), model.feature_width
        logits = model(images, None, torch.zeros(shape, device=images.device))
    elif _keeps_features(model):
        assert isinstance(model, FixedFeaturesModel)
        shape = len(images), len(model.exits), model.feature_width
        logits = model.predict_from(torch.zeros(shape, device=images.device))
    else:
        logits = model(images)
    model.loss(logits, labels).backward()
    model.zero_grad()


def _keeps_features(model: AdapterModel) -> bool:
    return isinstance(model, FixedFeaturesModel) and model.has_fixed_features


def saved_bytes(model: AdapterModel, units: Collection[str], images: Tensor) -> int:
    """Return the bytes that autograd keeps for the backward pass; each memory counts once."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        step(model, units, images)
    return sum(kept.values())


def peak_bytes(model: AdapterModel, units: Collection[str], images: Tensor) -> int:
    """Return the most that a step takes on a GPU beyond what is there before it."""
    step(model, units, images)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step(model, units, images)
    return torch.cuda.max_memory_allocated() - before


def memory_table(device: str) -> Iterable[str]:
    """Write the lines of a table: MiB and bytes up by the active blocks of a ViT-S."""
    backbone = vit_small().to(device)
    unit = 4 * BATCH * TOKENS * WIDTH
    rows = {f"{13 - k}..12": range(13 - k, 13) for k in (1, 2, 4, 7, 12)}
    rows |= {"block 1 alone": range(1, 2), "block 6 alone": range(6, 7)}
    yield "| active | factors | saved MiB | by the formula | peak MiB | bytes up |"
    yield "| --- | --- | ---: | ---: | ---: | ---: |"
    for factors, per_block in (("B", 10), ("both", 11)):
        model = build_model("mofm", backbone, (12,), 100, factors=factors).to(device)
        images = torch.zeros(BATCH, 3, 224, 224, device=device)
        for name, blocks in rows.items():
            units = {"head12", *(f"block{b}" for b in blocks)}
            saved = saved_bytes(model, units, images)
            crossed = 13 - blocks[0]
            # Blocks that are crossed and not trained keep no input of an untrained A.
            idle = (crossed - len(blocks)) * 10 if factors == "both" else 0
            formula = idle + per_block * (len(blocks) if factors == "both" else crossed)
            formula -= 1  # the input of the lowest block's first layer norm
            peak = peak_bytes(model, units, images) if device != "cpu" else 0
            size = sum(
                p.numel() for k, p in model.adapter_parameters().items() if k.split(".")[0] in units
            )
            cells = (saved / 2**20, formula * unit / 2**20, peak / 2**20)
            figures = " | ".join(f"{value:.1f}" if value else "" for value in cells)
            yield f"| {name} | {factors} | {figures} | {4 * size:,} |"
