"""What clients do with the two experts of `mofm`: predictions, and the passes of stage 2."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor

from client_app.feature_cache import EVALUATION_BATCH, FeatureBudget, FeatureCache
from client_app.predictor import Predictor, exit_metrics
from data import BatchTransform, Part, Transform, split_client
from models import GATE, Mixture, MofmModel, score_exits
from settings import Settings
from strategies import VALIDATION


class ExpertPredictor(Predictor):
    """Logits of the mixture in stage 2, for which what the frozen expert says of images is kept.

    Parameters
    ----------
    experts : MofmModel
    budget, half
        See `Predictor`.
    """

    def __init__(
        self, experts: MofmModel, *, budget: FeatureBudget | None = None, half: bool = False
    ) -> None:
        super().__init__(experts, half=half)
        self.experts = experts
        self.cache = FeatureCache(experts, budget) if budget else None

    def features(self, part: Part, transform: Transform, depth: int | None) -> Tensor | None:
        """Return what is kept of the frozen expert; nothing in stage 1, when it is trained."""
        return super().features(part, transform, depth) if self.experts.mixing else None

    def predict(
        self, pixels: Callable[[], Tensor], depth: int | None, features: Tensor | None
    ) -> dict[int, Tensor]:
        """Return logits by exit; a `Mixture` of them in stage 2."""
        logits: dict[int, Tensor] = self.experts(pixels(), depth, features)
        return logits

    @torch.no_grad()
    def metrics(self, part: Part, transform: BatchTransform, depth: int) -> dict[str, float]:
        """Score, in stage 2, also each expert alone, and the one that the gate prefers.

        ``local-weight`` is the mean weight of the local expert at the last exit.
        """
        if not self.experts.mixing:
            return super().metrics(part, transform, depth)
        self.model.eval()
        found: dict[str, list[tuple[dict[int, Tensor], Tensor]]] = defaultdict(list)
        weight = 0.0
        for mixture, labels in self.batches(part, transform, depth, EVALUATION_BATCH):
            assert isinstance(mixture, Mixture)
            found["mixture"].append((mixture, labels))
            found["global"].append((mixture.global_logits, labels))
            found["local"].append((mixture.local_logits, labels))
            found["routed"].append((mixture.routed(), labels))
            weight += float(mixture.weights[max(mixture)][:, 1].sum())
        scores = {name: score_exits(batches) for name, batches in found.items()}
        metrics = exit_metrics(scores.pop("mixture"))
        metrics |= {f"{name}-accuracy": of_one.last for name, of_one in scores.items()}
        return metrics | {"local-weight": weight / len(part)}


def hold_out(part: Part, share: float, seed: int) -> tuple[Part, Part]:
    """Split a client's training part: what experts learn from, and what the gate does."""
    rest, held = split_client(part.labels, share, seed=seed)
    return Part(part.images, part.positions[rest]), Part(part.images, part.positions[held])


def expert_passes(
    model: MofmModel, units: list[str], part: Part, settings: Settings, seed: int
) -> list[tuple[list[str], Part]]:
    """Return the passes of an epoch: the units that each trains, and on which images.

    In stage 2 the local expert is trained on most images, and then the gate on the others, on
    which the local expert is no better than it will be. With a plateau the global expert leaves
    these out, too: its accuracy on them decides.
    """
    gates = [unit for unit in units if unit.startswith(GATE)]
    needed = gates if model.mixing else settings.activation == "plateau"
    if not needed or not settings.gate_share:
        return [(units, part)]
    rest, held = hold_out(part, settings.gate_share, seed)
    passes = [([unit for unit in units if unit not in gates], rest), (gates, held)]
    return [(names, images) for names, images in passes if names and len(images)]


def validation(
    predictor: Predictor,
    part: Part,
    transform: BatchTransform,
    depth: int,
    settings: Settings,
    seed: int,
) -> dict[str, float]:
    """Score the global expert on what its training leaves out, where a plateau decides.

    `seed` is that of `expert_passes`.
    """
    is_expert = isinstance(predictor, ExpertPredictor) and not predictor.experts.mixing
    if not is_expert or settings.activation != "plateau":
        return {}
    _, held = hold_out(part, settings.gate_share, seed)
    return {VALIDATION: predictor.score(held, transform, depth).last} if len(held) else {}
