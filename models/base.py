"""The base of every method: a frozen backbone, its adapters by unit, and a loss over exits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from .adapters import UNADAPTED, Adapter, AdapterSpec, build_adapter
from .backbone import Backbone, Block, ModelError
from .initialisation import init_linear
from .units import EMBED, SHARED, TrainedUnits, block_unit

# What goes from block to block: the tokens (B, N, D) first, then what the method remembers, all
# batch-first, so that images can leave a batch.
State = tuple[Tensor, ...]


class ExitHead(nn.Sequential):
    """Layer norm and linear layer: class token ``(B, D)`` to logits ``(B, C)``."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__(nn.LayerNorm(width), nn.Linear(width, num_classes))
        self.apply(init_linear)


class AdapterModel(TrainedUnits, ABC):
    """A frozen backbone with trained units.

    Parameters
    ----------
    backbone : Backbone
        Never trained, never sent, and shared by all models of a process.
    exits : tuple[int, ...]
        The blocks (from 1, ascending) after which there is a prediction.
    num_classes : int
        Number of classes C.
    adapter : AdapterSpec
        What is trained inside the backbone, beside the method's own parts.

    Attributes
    ----------
    row_keys : tuple[str, ...]
        Keys of tensors whose first axis counts blocks: row b belongs to block b, row 0 to all.
    own_options : dict[str, Any]
        What `tier_options` gave for a model that is a tier's own.
    skipped : frozenset[int]
        Blocks that do not run while the model is in training mode, nor do the exits after them.
    adapters_alone : bool
        Whether blocks hold no trained parts but adapters, and `advance` gives a block the whole
        state, as it does in `models/layerwise.py`.
    missing : frozenset[str]
        Units that a device does not have. A block whose unit is missing runs as the backbone has
        it.
    """

    row_keys: tuple[str, ...] = ()
    own_options: Mapping[str, Any] = {}
    adapters_alone: bool = False
    skipped: frozenset[int] = frozenset()
    missing: frozenset[str] = frozenset()

    def __init__(
        self,
        backbone: Backbone,
        exits: tuple[int, ...],
        num_classes: int,
        *,
        adapter: AdapterSpec = UNADAPTED,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ModelError(
                f"classes: with {num_classes} there is nothing to tell apart; give data of two or "
                "more, or name all classes of the federation in the setting."
            )
        if not exits or list(exits) != sorted(set(exits)) or not 1 <= exits[0] <= exits[-1]:
            listed = ",".join(map(str, exits))
            raise ModelError(
                f"exits: {listed} are not ascending block numbers from 1; list each block once."
            )
        if exits[-1] > backbone.depth:
            raise ModelError(
                f"exits: there is no block {exits[-1]}; the backbone has {backbone.depth} blocks, "
                "so list blocks up to that."
            )
        self.backbone = backbone
        self.exits = exits
        self.num_classes = num_classes
        self.adapter = adapter
        recipe = self.recipe(adapter)
        # Lists and not modules: what is frozen must not be registered, moved and saved twice.
        self._embed = [recipe.embeddings(backbone.embed)]
        self._blocks: list[Block] = []
        parts: dict[str, dict[str, nn.Module]] = {SHARED: self.shared_parts(), EMBED: {}}
        if self._embed[0] is not backbone.embed:
            parts[EMBED]["adapter"] = self._embed[0]
        for block in range(1, exits[-1] + 1):
            parts[block_unit(block)] = self.block_parts(block)
            frozen = backbone.blocks[block - 1]
            assert isinstance(frozen, Block)
            self._blocks.append(recipe.block(frozen))
            if self._blocks[-1] is not frozen:
                parts[block_unit(block)]["adapter"] = self._blocks[-1]
        parts |= self.further_units(recipe)
        for modules in parts.values():
            modules |= {n: recipe.head(m) for n, m in modules.items() if isinstance(m, ExitHead)}
        self._parts = {(unit, name): m for unit, ms in parts.items() for name, m in ms.items()}
        self.hold(
            nn.ModuleDict(
                {
                    unit: nn.ModuleDict({n: getattr(m, "trained", m) for n, m in modules.items()})
                    for unit, modules in parts.items()
                    if modules
                }
            )
        )

    def recipe(self, spec: AdapterSpec) -> Adapter:
        """Return what adapts the parts of the backbone."""
        return build_adapter(spec)

    @abstractmethod
    def shared_parts(self) -> dict[str, nn.Module]:
        """Build the trained modules that no single block owns."""

    @abstractmethod
    def block_parts(self, block: int) -> dict[str, nn.Module]:
        """Build the method's own trained modules of a block (counted from 1)."""

    @classmethod
    def tier_options(cls, exits: tuple[int, ...], depth: int) -> dict[str, Any]:
        """Return options that build the model a tier of `depth` blocks trains.

        By default none: all tiers have the same model, and run as much of it as they can. A method
        may give tiers models of their own, whose tensors are leading parts of the bank's.
        """
        del exits, depth
        return {}

    def further_units(self, recipe: Adapter) -> dict[str, dict[str, nn.Module]]:
        """Build units beside ``shared`` and those of the blocks, which are there; none here."""
        del recipe
        return {}

    def begin(self, images: Tensor) -> State:
        """Embed images ``(B, 3, S, S)``: the state before the first block."""
        embed = self.backbone.embed if EMBED in self.missing else self._embed[0]
        return (embed(images),)

    @abstractmethod
    def advance(self, state: State, block: int) -> tuple[State, Tensor | None]:
        """Run a block (from 1); return the state after it and, at an exit, logits ``(B, C)``."""

    def forward(self, images: Tensor, depth: int | None = None) -> dict[int, Tensor]:
        """Predict at every exit that `depth` blocks reach.

        Parameters
        ----------
        images : Tensor
            ``(B, 3, S, S)``, normalised.
        depth : int, optional
            Blocks this device can run; blocks above the last exit within it do not run.

        Returns
        -------
        dict[int, Tensor]
            Logits ``(B, C)`` by exit, ascending.
        """
        return dict(self.exits_of(images, depth))

    def exits_of(self, images: Tensor, depth: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """Yield each exit and its logits as soon as its block has run; stop whenever enough."""
        return self.exits_from(self.begin(images), 1, depth)

    def exits_from(
        self, state: State, block: int, depth: int | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """Go on as `exits_of` from the state before a block."""
        for number in range(block, self.reach(depth)[-1] + 1):
            if self.training and number in self.skipped:
                continue
            state, logits = self.advance(state, number)
            if logits is not None:
                yield number, logits

    def lead(self, state: State, first: int, block: int) -> tuple[State, dict[int, Tensor]]:
        """Go from the state before block `first` to that before `block`.

        Returns
        -------
        tuple[State, dict[int, Tensor]]
            The state, and the logits of the exits on the way.
        """
        found = {}
        for number in range(first, block):
            state, logits = self.advance(state, number)
            if logits is not None:
                found[number] = logits
        return state, found

    def enters(self, block: int) -> bool:
        """Tell whether all that is trained in a block acts last, in its `join`."""
        return self.adapters_alone and self.block(block).is_trained_last

    def enter(self, state: State, block: int) -> State:
        """Run of a block what comes before all that is trained in it, as far as it `enters`.

        `advance` goes on from there as from the state before the block.
        """
        return self.block(block).split(*state) if self.enters(block) else state

    def reach(self, depth: int | None = None) -> tuple[int, ...]:
        """Return the exits within `depth` blocks (all without one)."""
        exits = tuple(e for e in self.exits if depth is None or e <= depth)
        if not exits:
            raise ModelError(
                f"tiers: a depth of {depth} blocks reaches no exit; the first is after block "
                f"{self.exits[0]}, so make the tier deeper or add an exit."
            )
        return exits

    def begin_round(self, server_round: int) -> None:
        """Hear that a client's local training of a round (from 1) begins.

        A loss that depends on the round, or remembers batches, starts afresh here: the model of a
        process serves one client after the other.
        """

    def keep(self, units: Collection[str], own: Mapping[str, np.ndarray]) -> None:
        """Hear which units the client of a message keeps, and load what it has of them.

        `own` is empty before its first training of them.
        """
        del units
        self.load_adapters(own)

    def loss(self, logits: Mapping[int, Tensor], labels: Tensor) -> Tensor:
        """Sum the mean cross-entropy of every exit; labels ``(B,)``; a scalar."""
        return torch.stack([functional.cross_entropy(y, labels) for y in logits.values()]).sum()

    def scores(self, logits: Mapping[int, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Return figures of a batch of training, summed over its images: loss and hits by exit."""
        found = {}
        for block, y in logits.items():
            total = functional.cross_entropy(y, labels, reduction="sum")
            found[f"loss-exit-{block}"] = total
            found[f"accuracy-exit-{block}"] = (y.argmax(1) == labels).sum()
        return found

    def block(self, number: int) -> Block:
        """Return a block with its adapter, counted from 1."""
        if block_unit(number) in self.missing:
            frozen = self.backbone.blocks[number - 1]
            assert isinstance(frozen, Block)
            return frozen
        return self._blocks[number - 1]

    def part(self, unit: str, name: str) -> Any:
        """Return a trained module of a unit, or None where the unit has none of that name."""
        return self._parts.get((unit, name))

    def ending_at(self, depth: int) -> tuple[tuple[int, ...], dict[str, np.ndarray]]:
        """Copy out the model of a device of this depth: its exits, and its tensors by key.

        A model built anew with these exits takes these tensors.
        """
        exits = self.reach(depth)
        above = {unit for unit in self.units if self.block_of(unit) > exits[-1]}
        return exits, self.adapter_arrays(self.units.keys() - above)
