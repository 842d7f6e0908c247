"""What a training step takes: bytes counted tensor by tensor, run for real or on shapes alone.

Every operation passes the counter, which notes each new storage and when it is let go, so aliases
count once and nothing is sampled. On the CPU the peak is that of the allocator's own events, but
for what a kernel takes and gives back inside itself.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .base import AdapterModel, State
from .simclr import SimclrModel

OPTIMIZER_STATES = {"sgd": 0, "momentum": 1, "adamw": 2}  # numbers kept per trained one


@dataclass(frozen=True)
class StepMemory:
    """What a step took beyond what was there before it.

    Attributes
    ----------
    saved : int
        Bytes that autograd kept for the backward pass, at most; parameters and inputs left out.
    peak : int
        Bytes of all new tensors, at most.
    """

    saved: int
    peak: int


class LiveBytes(TorchDispatchMode):
    """While entered, follows the storages that operations make.

    Attributes
    ----------
    peak, saved_peak : int
        The largest sums so far, of all new storages and of those saved for the backward pass.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = self.saved_peak = 0
        self._live = self._saved_live = 0
        self._sizes: dict[int, int] = {}  # 0 for what was there before
        self._saved: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and note its outputs; inputs never seen before are not new."""
        del types
        for value in tree_leaves((args, kwargs)):
            self._note(value, new=False)
        outputs = func(*args, **(kwargs or {}))
        for value in tree_leaves(outputs):
            self._note(value, new=True)
        return outputs

    def saving(self) -> torch.autograd.graph.saved_tensors_hooks:
        """Return a context in which tensors saved for the backward pass are noted."""

        def pack(tensor: Tensor) -> Tensor:
            self._note(tensor, new=False)
            key = tensor.untyped_storage()._cdata
            if key not in self._saved:
                self._saved.add(key)
                self._saved_live += self._sizes[key]
                self.saved_peak = max(self.saved_peak, self._saved_live)
            # Without its history: a node that saves its own output would hold itself alive.
            return tensor.detach()

        return torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)

    def _note(self, value: Any, *, new: bool) -> None:
        if not isinstance(value, Tensor):
            return
        storage = value.untyped_storage()
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes() if new else 0
            self._live += self._sizes[key]
            self.peak = max(self.peak, self._live)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        size = self._sizes.pop(key)
        self._live -= size
        if key in self._saved:
            self._saved.remove(key)
            self._saved_live -= size


def measure_step(step: Callable[[], object], device: torch.device | str = "cpu") -> StepMemory:
    """Run a step and measure it; on a GPU the peak is that of torch's allocator.

    Parameters
    ----------
    step : Callable[[], object]
        Takes a whole step. Run it once before: what the first one leaves (an optimiser's state)
        would count as new.
    device : torch.device or str
        Where its tensors are.
    """
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    live = LiveBytes()
    with live, live.saving():
        step()
    peak = torch.cuda.max_memory_allocated(device) - before if on_gpu else live.peak
    return StepMemory(live.saved_peak, peak)


def make_step(
    model: AdapterModel,
    inputs: Tensor | State,
    labels: Tensor,
    depth: int | None = None,
    *,
    optimizer: str = "adamw",
    block: int = 1,
) -> Callable[[], None]:
    """Return a function that trains one step as a client does, with what `set_trained` chose.

    Parameters
    ----------
    inputs : Tensor or State
        Images ``(B, 3, S, S)``; or the state before the `block`, or in it.
    labels : Tensor
        ``(B,)``.
    """
    trained = [p for p in model.adapter_parameters().values() if p.requires_grad]
    update: torch.optim.Optimizer
    if optimizer == "adamw":
        update = torch.optim.AdamW(trained, fused=True)
    else:
        update = torch.optim.SGD(trained, momentum=0.9 * (optimizer == "momentum"), fused=True)
    model.begin_round(1)

    def step() -> None:
        # Embeddings are held by nobody else, so that they are let go when the first block has run.
        state = model.begin(inputs) if isinstance(inputs, Tensor) else inputs
        exits = model.exits_from(state, block, depth)
        del state
        model.loss(dict(exits), labels).backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        update.step()
        update.zero_grad()

    return step


def count_step(
    model: AdapterModel,
    units: Collection[str],
    batch_size: int,
    depth: int | None = None,
    *,
    optimizer: str = "adamw",
    cached: bool = False,
) -> StepMemory:
    """Count a client's training step on shapes alone: nothing is computed, nothing allocated.

    Parameters
    ----------
    model : AdapterModel
        Stays as it is.
    units : Collection[str]
        What is trained.
    batch_size : int
        Images B.
    depth : int, optional
        Blocks that run; all without it.
    optimizer : str
        As in the settings: ``sgd``, ``momentum`` or ``adamw``.
    cached : bool
        Whether the state before the lowest trained block, or in it, is kept for every image.

    Returns
    -------
    StepMemory
        What `measure_step` finds on the CPU in fp32.
    """
    shapes, step = step_on_shapes(model, units, batch_size, depth, optimizer, cached=cached)
    with shapes:
        step()
        return measure_step(step)


def step_on_shapes(
    model: AdapterModel,
    units: Collection[str],
    batch_size: int,
    depth: int | None = None,
    optimizer: str = "adamw",
    *,
    cached: bool = False,
) -> tuple[FakeTensorMode, Callable[[], None]]:
    """Return the step of `count_step`, and the context in which it must run."""
    shapes = FakeTensorMode(allow_non_fake_inputs=True)
    twin = _without_values(model, shapes).train()
    twin.set_trained(units)
    block, side = model.lowest_block(units) if cached else 1, model.backbone.image_size
    table = model.backbone.embed.get_parameter("position_embeddings")
    with shapes:
        labels = torch.zeros(batch_size, dtype=torch.int64)
        images = batch_size * views_per_image(model)
        inputs: Tensor | State = torch.empty(images, 3, side, side)
        if block > 1:
            with torch.no_grad():
                inputs = twin.enter((torch.empty(images, *table.shape[1:]),), block)
        return shapes, make_step(twin, inputs, labels, depth, optimizer=optimizer, block=block)


def views_per_image(model: AdapterModel) -> int:
    """Return how many inputs a model has for each image of a batch."""
    return 2 if isinstance(model, SimclrModel) else 1


def _without_values(model: AdapterModel, shapes: FakeTensorMode) -> AdapterModel:
    """Copy a model; its tensors have shapes, are on the CPU, and hold nothing."""
    twins = {}
    for tensor in (*model.parameters(), *model.buffers()):
        with shapes:
            twin = torch.empty_like(tensor, device="cpu", requires_grad=False)
        is_parameter = isinstance(tensor, nn.Parameter)
        twins[id(tensor)] = nn.Parameter(twin, tensor.requires_grad) if is_parameter else twin
    return copy.deepcopy(model, twins)


def held_bytes(model: nn.Module) -> int:
    """Return the bytes of a model's tensors, trained and frozen; shared storages count once."""
    storages = {
        tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes()
        for tensor in (*model.parameters(), *model.buffers())
    }
    return sum(storages.values())
