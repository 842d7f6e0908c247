"""The cache of frozen features: the same numbers, computed once, within its limit."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from support import SMALL, Run
from torch import Tensor

from client_app.app import app
from client_app.feature_cache import FeatureBudget, FeatureCache
from client_app.node import simulated_nodes
from client_app.predictor import Predictor
from client_app.training import get_trainer, make_predictor
from data import BatchTransform, ImageSet, Part
from models import AdapterModel, AdapterSpec, Backbone, build_model
from server_app.app import run
from server_app.inprocess import InProcessGrid
from settings import Settings
from strategies import AdapterFedAvg, Callback
from wiring import get_backbone, make_model

EXITS = (2, 4, 6)
TRANSFORM = BatchTransform(16, [0.5], [0.25])
PLENTY = 10**9


@pytest.fixture
def images() -> ImageSet:
    """Sixty noisy images of three classes."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (60, 16, 16, 1), dtype=np.uint8)
    return ImageSet(pixels, np.arange(60) % 3, ("a", "b", "c"))


@pytest.fixture
def backbone(tiny_vit: Path) -> Backbone:
    """The very object that runs on the tiny ViT use, too."""
    return get_backbone(Settings(backbone=str(tiny_vit)))


@pytest.fixture
def model(backbone: Backbone) -> AdapterModel:
    built = build_model("exits", backbone, EXITS, 3, seed=3)
    torch.manual_seed(1)
    for parameter in built.adapter_parameters().values():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return built


class Passes:
    """Counts the images that went through each block, from 1."""

    def __init__(self, depth: int) -> None:
        self.images = dict.fromkeys(range(1, depth + 1), 0)

    def add(self, block: int, count: int) -> None:
        self.images[block] += count

    def take(self) -> list[int]:
        """Return the counts, block by block, and begin anew."""
        counts = list(self.images.values())
        self.images = dict.fromkeys(self.images, 0)
        return counts


@pytest.fixture
def passes(backbone: Backbone) -> Iterator[Passes]:
    """Counts in the backbone that all models of these tests share."""
    found = Passes(backbone.depth)
    handles = [
        block.norm1.register_forward_hook(lambda _, given, __, b=b: found.add(b, len(given[0])))
        for b, block in enumerate(backbone.blocks, start=1)
    ]
    yield found
    for handle in handles:
        handle.remove()


def all_logits(predictor: Predictor, part: Part, depth: int, size: int) -> dict[int, Tensor]:
    """The logits of a whole part, in an order of its own."""
    order = np.random.default_rng(4).permutation(len(part))
    batches = [logits for logits, _ in predictor.batches(part, TRANSFORM, depth, size, order)]
    return {block: torch.cat([batch[block] for batch in batches]) for block in batches[0]}


@pytest.mark.parametrize("depth", [2, 5, 6])
@pytest.mark.parametrize("size", [7, 60])
def test_cached_logits_are_those_of_the_whole_pass(
    model: AdapterModel, images: ImageSet, depth: int, size: int
) -> None:
    part = Part(images, np.array([5, 3, 59, 0, *range(10, 50)]))
    cached = all_logits(Predictor(model, budget=FeatureBudget(PLENTY)), part, depth, size)
    plain = all_logits(Predictor(model), part, depth, size)
    assert list(cached) == list(plain) == [e for e in EXITS if e <= depth]
    for block, logits in plain.items():
        torch.testing.assert_close(cached[block], logits, rtol=1e-5, atol=1e-5)


def test_features_are_those_of_the_same_batches_bit_for_bit(
    model: AdapterModel, images: ImageSet
) -> None:
    part = Part(images, np.array([8, 2, 40]))
    features = FeatureCache(model, FeatureBudget(PLENTY)).get(part, TRANSFORM, 6)
    pixels = TRANSFORM(images.images[[2, 8, 40]])
    assert features is not None
    assert torch.equal(features[[1, 0, 2]], model.features(pixels, 6))


def test_tiers_share_features(model: AdapterModel, images: ImageSet, passes: Passes) -> None:
    """Shallow, then deep on some of the same images, then shallow on all the deep one saw."""
    cache = FeatureCache(model, FeatureBudget(PLENTY))

    def get(part: Part, depth: int) -> Tensor:
        features = cache.get(part, TRANSFORM, depth)
        assert features is not None
        return features

    shallow, deep = Part(images, np.arange(0, 30)), Part(images, np.arange(20, 60))
    first = get(shallow, 2)
    assert passes.take() == [30, 30, 0, 0, 0, 0]
    found = get(deep, 6)
    assert passes.take() == [40] * 6
    again = get(shallow, 3)
    part = get(deep, 4)
    assert passes.take() == [0] * 6
    expected = model.features(TRANSFORM(images.images), 6)
    torch.testing.assert_close(first, expected[:30, :1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, expected[20:], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(again, expected[:30, :1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(part, expected[20:, :2], rtol=1e-5, atol=1e-5)


def test_sets_have_features_of_their_own(model: AdapterModel, images: ImageSet) -> None:
    cache = FeatureCache(model, FeatureBudget(PLENTY))
    other = ImageSet(255 - images.images, images.labels, images.classes)
    for found in (images, other):
        features = cache.get(Part.whole(found), TRANSFORM, 2)
        assert features is not None
        assert torch.equal(features, model.features(TRANSFORM(found.images), 2))


@pytest.mark.parametrize("kind", ["augmented", "adapter", "accumulator"])
def test_what_training_or_chance_changes_is_not_kept(
    kind: str, backbone: Backbone, images: ImageSet, passes: Passes
) -> None:
    method = "accumulator" if kind == "accumulator" else "exits"
    adapter = AdapterSpec("parallel" if kind == "adapter" else "none")
    built = build_model(method, backbone, EXITS, 3, adapter=adapter)
    augment = "shift" if kind == "augmented" else "none"
    transform = BatchTransform(16, [0.5], [0.25], augment=augment)
    predictor, part = Predictor(built, budget=FeatureBudget(PLENTY)), Part.whole(images)
    assert predictor.cache is None or predictor.cache.get(part, transform, 6) is None
    for _ in range(2):
        predictor.score(part, transform)
    assert passes.take() == [120] * 6


def test_an_evaluation_keeps_features(
    model: AdapterModel, images: ImageSet, passes: Passes
) -> None:
    predictor, part = Predictor(model, budget=FeatureBudget(PLENTY)), Part.whole(images)
    first, again = predictor.score(part, TRANSFORM), predictor.score(part, TRANSFORM)
    assert passes.take() == [60] * 6
    assert first == again == Predictor(model).score(part, TRANSFORM)


def test_the_limit_holds_and_is_told_once(
    model: AdapterModel, images: ImageSet, caplog: pytest.LogCaptureFixture
) -> None:
    """60 images, 3 exits, width 24, 4 bytes: 17,280; a second set of that size finds no room."""
    predictor = Predictor(model, budget=FeatureBudget(2 * 17_280 - 1))
    other = ImageSet(255 - images.images, images.labels, images.classes)
    sets = [Part.whole(images), Part.whole(other)]
    found = [[predictor.cache.get(part, TRANSFORM, 6) for part in sets] for _ in range(3)]
    assert [[features is not None for features in row] for row in found] == [[True, False]] * 3
    assert predictor.cache.budget.free == 17_279
    assert caplog.text.count("Features of 60 images take 0 MB, more than is left of") == 1
    assert predictor.score(sets[1], TRANSFORM) == Predictor(model).score(sets[1], TRANSFORM)


def test_models_share_a_limit(backbone: Backbone, images: ImageSet) -> None:
    """ScaleFL's first tier keeps 60 x 1 x 9 x 4 bytes, its second 60 x 2 x 16 x 4.

    With one byte less than both the second finds no room; once the first is gone, another does.
    """

    def keep(own: int) -> FeatureCache | None:
        built = build_model("scalefl", backbone, EXITS, 3, own=own)
        cache = FeatureCache(built, budget)
        return cache if cache.get(Part.whole(images), TRANSFORM, 6) is not None else None

    budget = FeatureBudget(2_160 + 7_680 - 1)
    first = keep(1)
    assert first is not None
    assert budget.free == 7_679
    assert keep(2) is None
    del first
    gc.collect()
    assert budget.free == 9_839
    assert keep(2) is not None


def test_what_a_set_took_is_free_once_the_set_is_gone(
    model: AdapterModel, images: ImageSet
) -> None:
    cache = FeatureCache(model, FeatureBudget(17_280))
    for shade in (0, 100, 200):
        other = ImageSet(images.images // 2 + shade // 2, images.labels, images.classes)
        assert cache.get(Part.whole(other), TRANSFORM, 6) is not None
        assert cache.budget.free == 0
        del other
        gc.collect()
        assert cache.budget.free == 17_280


def test_all_models_of_a_process_have_one_limit(tiny_vit: Path) -> None:
    """Those of ScaleFL's tiers, and the bank's, which the server scores."""
    tiers = "small depth=2 share=0.5; large depth=6 share=0.5"
    settings = Settings(
        method="scalefl", backbone=str(tiny_vit), exits="3", tiers=tiers, cache_megabytes=7
    )
    predictors = [get_trainer(settings, 3, tier).predictor for tier in ("small", "large")]
    predictors.append(make_predictor(make_model(settings, 3), settings))
    assert len({id(predictor.model) for predictor in predictors}) == 3
    caches = [predictor.cache for predictor in predictors]
    assert all(cache is not None and cache.budget is caches[0].budget for cache in caches)
    assert caches[0].budget.limit == 7_000_000


def test_features_are_computed_once_per_image_in_a_run(
    tiny_vit: Path, tmp_path: Path, passes: Passes, caplog: pytest.LogCaptureFixture
) -> None:
    """Digits: 360 images of the server, 1,437 among six clients, who all train and evaluate.

    The first two clients run two blocks, the next two four, the server all six.
    """

    class Taking(Callback):
        """Takes the counts before the export, which measures what the exits cost."""

        def on_finish(self, strategy: AdapterFedAvg) -> None:
            counts.append(passes.take())

    counts: list[list[int]] = []
    changes = {"method": "exits", "rounds": 2, "clients-per-round": 6, "local-epochs": 2}
    for name, megabytes in (("kept", 1000), ("anew", 0)):
        values = {
            **SMALL,
            **changes,
            "evaluate-every": 1,
            "backbone": str(tiny_vit),
            "output-dir": str(tmp_path / name),
            "cache-megabytes": megabytes,
        }
        settings = Settings.from_dict(values)
        passes.take()
        run(InProcessGrid(app, 6, dict(settings.to_dict())), settings, [Taking()])
    nodes = simulated_nodes(settings)
    train, test = [len(node.train) for node in nodes], [len(node.test) for node in nodes]
    assert sum(train) + sum(test) == 1437
    first = [0, 0, 2, 2, 4, 4]  # the first client that runs a block
    kept, anew = counts
    assert kept == [360 + sum(train[n:]) + sum(test[n:]) for n in first]
    # Two rounds of two epochs; two evaluations by clients, three by the server.
    assert anew == [3 * 360 + 4 * sum(train[n:]) + 2 * sum(test[n:]) for n in first]
    assert "cache-megabytes" not in caplog.text


def test_training_with_and_without_gives_one_bank(run_app: Callable[..., Run]) -> None:
    """Batches of another size may round otherwise, and AdamW enlarges that where gradients
    are near 0: 1e-5 of weights up to 1 after some 50 steps."""
    kept = run_app("kept", method="exits", learning_rate=0.005)
    anew = run_app("anew", method="exits", learning_rate=0.005, cache_megabytes=0)
    for key, value in anew.bank().items():
        np.testing.assert_allclose(kept.bank()[key], value, atol=1e-5, rtol=1e-5)
