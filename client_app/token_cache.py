"""What enters the lowest trained block, kept for every image while nothing below it changes."""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from logging import INFO, WARNING
from weakref import WeakKeyDictionary

import numpy as np
import torch
from flwr.common import log
from torch import Tensor

from client_app.feature_cache import EVALUATION_BATCH, FeatureBudget
from data import Part, StoredViews, Transform, read_pixels
from models import AdapterModel, State


@dataclass(eq=False)
class Entry:
    """What is kept for a part.

    Attributes
    ----------
    block : int
        The state is that before this block, or in it where the model `enters` it.
    mark : bytes
        Of all that acts before the block.
    exits : tuple[int, ...]
        Those before the block; their logits are the last tensors.
    tensors : list[Tensor]
        ``(rows, copies, ...)`` each; without any, nothing was computed yet.
    filled : np.ndarray
        ``(rows,)`` bool. There may be fewer rows than views of images.
    """

    block: int
    mark: bytes
    exits: tuple[int, ...] = ()
    tensors: list[Tensor] = field(default_factory=list)
    filled: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(tensor.nbytes for tensor in self.tensors)


class TokenCache:
    """The state before the lowest trained block, or in it, for the parts that were trained on last.

    A pass over an image gives the same bits in every batch, as far as the machine's matrix products
    do; then training on what is kept equals training from pixels, bit for bit in fp32.

    Parameters
    ----------
    model : AdapterModel
    budget : FeatureBudget
        Parts that were not used for the longest time make room; of a part that is too large alone,
        the first images are kept.
    dtype : torch.dtype
        In which it is kept, fp32 or fp16. What is used is rounded to it even where it is not kept.
    on_disk : bool
        Whether in a file without a name in the temporary folder, instead of the device's memory.
    """

    def __init__(
        self,
        model: AdapterModel,
        budget: FeatureBudget,
        *,
        dtype: torch.dtype = torch.float32,
        on_disk: bool = False,
    ) -> None:
        self.model = model
        self.budget = budget
        self.dtype = dtype
        self.on_disk = on_disk
        # The part used last is the last.
        self._entries: WeakKeyDictionary[Part, Entry] = WeakKeyDictionary()
        self._told: set[str] = set()
        budget.share(self)

    @property
    def size(self) -> int:
        """Bytes of all that is kept."""
        return sum(entry.size for entry in self._entries.values())

    def open(self, part: Part, transform: Transform, units: Collection[str]) -> Tokens | None:
        """Return the tokens of a part before the lowest of the trained `units`.

        What is kept for an earlier block is pushed through the blocks between.

        Returns
        -------
        Tokens | None
            None where there is no block before, or the tokens differ from epoch to epoch; then a
            line of the log says why.
        """
        block = self.model.lowest_block(units)
        if block == 1:
            return None
        if reason := self._refusal(transform):
            self._tell(INFO, f"What enters block {block} is computed in every epoch: {reason}.")
            return None
        entry = self._entries.pop(part, None)
        if entry is None or not self._moved(entry, block):
            entry = Entry(block, self._mark(block))
        self._entries[part] = entry
        return Tokens(self, entry, part, transform)

    def release(self, part: Part) -> None:
        """Let go of what is kept for a part."""
        self._entries.pop(part, None)

    def _refusal(self, transform: Transform) -> str:
        if self.model.skipped:
            return "blocks are drawn for each round (depth-budget)"
        if isinstance(transform, StoredViews) or transform.deterministic:
            return ""
        return "the transform is random (augment), and stored-views is 0"

    def _mark(self, block: int) -> bytes:
        """Hash all trained tensors that act before a block, and whether they are there.

        What is missing does not act, or is as at the start: its values say what another message
        has left in the process.
        """
        mark = hashlib.sha256()
        for key, tensor in self.model.parameters_below(block).items():
            is_missing = key.split(".")[0] in self.model.missing
            mark.update(f"{key} {is_missing} ".encode())
            if not is_missing:
                mark.update(tensor.detach().cpu().numpy().tobytes())
        return mark.digest()

    @torch.no_grad()
    def _moved(self, entry: Entry, block: int) -> bool:
        """Bring an entry up to `block`, in place; tell whether it is now the state before it."""
        if entry.block > block or entry.mark != self._mark(entry.block):
            return False
        if entry.block == block:
            return True
        # Where the state passes an exit, or grows, there is no room for what is more.
        if entry.exits:
            return False
        rows = np.flatnonzero(entry.filled)
        for start in range(0, len(rows), EVALUATION_BATCH):
            chosen = rows[start : start + EVALUATION_BATCH]
            kept = [tensor[chosen].flatten(0, 1) for tensor in entry.tensors]
            before = [tensor.to(self.model.device).float() for tensor in kept]
            after, logits = self.model.lead(tuple(before), entry.block, block)
            after = self.model.enter(after, block)
            if logits or [t.shape for t in after] != [t.shape for t in before]:
                return False
            for tensor, new in zip(entry.tensors, after, strict=True):
                tensor[chosen] = new.reshape(len(chosen), *tensor.shape[1:]).to(tensor)
        entry.block, entry.mark = block, self._mark(block)
        return True

    def reserve(self, entry: Entry, rows: int, shapes: Sequence[torch.Size]) -> None:
        """Make room for tensors of these shapes, for as many of an entry's rows as there is."""
        row_size = sum(math.prod(shape) for shape in shapes) * self.dtype.itemsize
        for part, other in list(self._entries.items()):
            if rows * row_size <= self.budget.free:
                break
            if other is not entry and other.size:
                self.release(part)
                self._tell(
                    WARNING,
                    "Kept tokens of some clients make room for those of others, and will be "
                    "computed anew; raise cache-megabytes if there is room for more.",
                )
        fitting = min(rows, self.budget.free // row_size)
        if fitting < rows:
            self._tell(
                WARNING,
                f"Of the tokens that enter block {entry.block}, {rows * row_size / 1e6:.0f} MB, "
                f"cache-megabytes has room for {fitting / rows:.0%}; the others are computed in "
                "every epoch.",
            )
        try:
            entry.tensors = [self._allocate((fitting, *shape)) for shape in shapes]
        except OSError as error:
            self._tell(WARNING, f"No tokens are kept: no file for them ({error.strerror}).")
            fitting = 0
            entry.tensors = [self._allocate((0, *shape)) for shape in shapes]
        entry.filled = np.zeros(fitting, dtype=bool)

    def _allocate(self, shape: tuple[int, ...]) -> Tensor:
        size = math.prod(shape) * self.dtype.itemsize
        if not (self.on_disk and size):
            return torch.empty(shape, dtype=self.dtype, device=self.model.device)
        # Without a name, its room is free again once nothing maps it, even after a kill.
        with tempfile.TemporaryFile() as file:
            # A full disk has to show here; in a mapped file it would end the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:  # macOS
                file.truncate(size)
            kind = "f4" if self.dtype == torch.float32 else "f2"
            return torch.from_numpy(np.memmap(file, kind, "r+", shape=shape))

    def _tell(self, level: int, sentence: str) -> None:
        if sentence not in self._told:
            self._told.add(sentence)
            log(level, "%s", sentence)


class Tokens:
    """What enters a block, image by image of one part.

    Parameters
    ----------
    cache : TokenCache
    entry : Entry
    part : Part
    transform : Transform
    """

    def __init__(self, cache: TokenCache, entry: Entry, part: Part, transform: Transform) -> None:
        self.cache = cache
        self.entry = entry
        self.part = part
        self.transform = transform
        self.views = transform.count if isinstance(transform, StoredViews) else 1

    @property
    def block(self) -> int:
        """The block that they enter, from 2."""
        return self.entry.block

    def release(self) -> None:
        """Let go of them."""
        self.cache.release(self.part)

    @torch.no_grad()
    def get(self, places: np.ndarray, views: np.ndarray) -> tuple[State, dict[int, Tensor]]:
        """Return the state before the block, or in it, and the logits of the exits before it.

        Parameters
        ----------
        places, views : np.ndarray
            ``(B,)``: places in the part, and which view of each image.
        """
        entry, rows = self.entry, places * self.views + views
        held = rows < len(entry.filled)
        held[held] = entry.filled[rows[held]]
        found = [tensor[rows[held]] for tensor in entry.tensors]
        if not held.all():
            computed = self._compute(places[~held], views[~held])
            self._keep(rows[~held], computed)
            if held.any():
                pairs = zip(found, computed, strict=True)
                found = [_merge(held, old, new) for old, new in pairs]
            else:
                found = computed
        device = self.cache.model.device
        # A transform may make two of each image: all first ones come first.
        tensors = [t.to(device).float().transpose(0, 1).flatten(0, 1) for t in found]
        count = len(tensors) - len(entry.exits)
        return tuple(tensors[:count]), dict(zip(entry.exits, tensors[count:], strict=True))

    def _compute(self, places: np.ndarray, views: np.ndarray) -> list[Tensor]:
        """Run what is before the block: tensors ``(B, copies, ...)`` in the dtype of the cache."""
        model = self.cache.model
        pixels = read_pixels(self.part, places, self.transform, views)
        state, logits = model.lead(model.begin(pixels), 1, self.block)
        state = model.enter(state, self.block)
        self.entry.exits = tuple(logits)
        return [
            tensor.unflatten(0, (-1, len(places))).transpose(0, 1).to(self.cache.dtype)
            for tensor in (*state, *logits.values())
        ]

    def _keep(self, rows: np.ndarray, computed: list[Tensor]) -> None:
        """Write what was computed for some rows, as far as there is room."""
        entry = self.entry
        if not entry.tensors:
            shapes = [tensor.shape[1:] for tensor in computed]
            self.cache.reserve(entry, len(self.part) * self.views, shapes)
        fits = rows < len(entry.filled)
        for tensor, new in zip(entry.tensors, computed, strict=True):
            tensor[rows[fits]] = new[fits].to(tensor.device)
        entry.filled[rows[fits]] = True


def _merge(held: np.ndarray, old: Tensor, new: Tensor) -> Tensor:
    """Put held rows and new ones into one tensor, where `held` says."""
    merged = new.new_empty((len(held), *new.shape[1:]))
    merged[held], merged[~held] = old.to(new.device), new
    return merged
