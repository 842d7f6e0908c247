"""Anytime inference against passes through all exits, and images against the data package."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import data.folder
from data import BatchTransform
from models import AdapterModel, AnytimeClassifier, ExitCost, ModelError, build_model, load_backbone
from models.images import SUFFIXES, prepare, square

EXITS = (2, 4, 6)
CLASSES = ("ant", "bee", "cat", "dog", "elk")


@pytest.fixture(params=["exits", "accumulator"])
def classifier(request: pytest.FixtureRequest, tiny_vit: Path) -> AnytimeClassifier:
    """A model whose answers are sure to different degrees."""
    model = build_model(request.param, load_backbone(str(tiny_vit)), EXITS, 5, seed=3)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.adapter_parameters().values():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return AnytimeClassifier(model, CLASSES)


def pixels(count: int = 12) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def probabilities(model: AdapterModel) -> dict[int, np.ndarray]:
    """The softmax of all exits over `pixels()`, normalised by hand: mean 0.5, deviation 0.25."""
    inputs = torch.tensor((pixels() / 255 - 0.5) / 0.25, dtype=torch.float32).permute(0, 3, 1, 2)
    with torch.no_grad():
        return {e: y.softmax(dim=1).numpy() for e, y in model(inputs).items()}


@pytest.mark.parametrize("exit_block", [2, 4, 6, None])
def test_an_exit_gives_the_answers_of_a_truncated_model(
    classifier: AnytimeClassifier, exit_block: int | None
) -> None:
    last = exit_block or 6
    inputs = prepare(pixels(), 16, (0.5,), (0.25,))
    with torch.no_grad():
        expected = classifier.model(inputs, last)[last].softmax(dim=1)
    answers = classifier.predict(pixels(), exit=exit_block)
    assert [a.label for a in answers] == expected.argmax(dim=1).tolist()
    assert [a.confidence for a in answers] == expected.amax(dim=1).tolist()  # bit for bit
    assert [a.name for a in answers] == [CLASSES[a.label] for a in answers]
    assert {a.exit for a in answers} == {last}


def test_blocks_above_the_exit_do_not_run(classifier: AnytimeClassifier) -> None:
    sizes = record_batches(classifier, lambda: classifier.predict(pixels(), exit=4))
    assert sizes == [12] * 4


def record_batches(classifier: AnytimeClassifier, call: Any) -> list[int]:
    """How many images each block got, in the order of the blocks."""
    sizes: list[int] = []
    handles = [
        block.norm1.register_forward_hook(lambda _, args, __: sizes.append(len(args[0])))
        for block in classifier.model.backbone.blocks
    ]
    call()
    for handle in handles:
        handle.remove()
    return sizes


def between(values: np.ndarray, share: float) -> float:
    """A threshold half-way between two neighbours, so that rounding cannot cross it."""
    ordered = np.sort(values)
    place = int(share * len(ordered))
    return float(ordered[place - 1 : place + 1].mean())


def test_images_leave_at_the_first_exit_that_is_sure_enough(classifier: AnytimeClassifier) -> None:
    by_exit = probabilities(classifier.model)
    sure = {e: p.max(axis=1) for e, p in by_exit.items()}
    threshold = between(np.maximum(sure[2], sure[4]), 0.5)
    expected = [next((e for e in (2, 4) if sure[e][image] >= threshold), 6) for image in range(12)]
    assert set(expected) == {2, 4, 6}
    found: list[Any] = []
    sizes = record_batches(
        classifier, lambda: found.extend(classifier.predict(pixels(), confidence=threshold))
    )
    assert [a.exit for a in found] == expected
    for image, answer in enumerate(found):
        row = by_exit[answer.exit][image]
        assert answer.label == row.argmax()
        assert answer.confidence == pytest.approx(row.max(), abs=1e-5)
    left = [12, 12 - expected.count(2), expected.count(6)]
    assert sizes == [n for n in left for _ in range(2)]  # two blocks to each exit


def test_a_batch_changes_nothing_but_rounding(classifier: AnytimeClassifier) -> None:
    threshold = between(probabilities(classifier.model)[2].max(axis=1), 0.5)
    together = classifier.predict(pixels(), confidence=threshold)
    for size in (1, 5):
        apart = classifier.predict(pixels(), confidence=threshold, batch_size=size)
        assert [(a.label, a.exit) for a in apart] == [(a.label, a.exit) for a in together]
        assert [a.confidence for a in apart] == pytest.approx([a.confidence for a in together])


@pytest.mark.parametrize(("threshold", "exit_block"), [(0, 2), (1, 6)])
def test_the_ends_of_confidence(
    classifier: AnytimeClassifier, threshold: float, exit_block: int
) -> None:
    assert all(p.max() < 1 for p in probabilities(classifier.model).values())
    answers = classifier.predict(pixels(), confidence=threshold)
    assert {a.exit for a in answers} == {exit_block}


def costs(*milliseconds: float) -> dict[int, ExitCost]:
    return {e: ExitCost(0, ms) for e, ms in zip(EXITS, milliseconds, strict=True)}


def test_time_is_per_image_and_the_table_says_what_fits(
    classifier: AnytimeClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps of 4 and 6 ms per image at a clock that stands still; three images have 3 budgets."""
    clock = SimpleNamespace(perf_counter=lambda: 100.0)
    monkeypatch.setattr("models.anytime.time", clock)
    monkeypatch.setattr(classifier, "measure", lambda batch_size: costs(2, 6, 12))
    for budget, exit_block in [(3.9, 2), (4.1, 4), (5.9, 4), (6.1, 6)]:
        answers = classifier.predict(pixels(3), milliseconds=budget)
        assert {a.exit for a in answers} == {exit_block}, budget
        by_exit = classifier.predict(pixels(3), exit=exit_block)
        assert answers == by_exit


@pytest.mark.parametrize(("budget", "exit_block"), [(4000, 4), (6000, 6)])
def test_a_slow_block_ends_the_pass_at_the_exit_that_it_reached(
    classifier: AnytimeClassifier,
    monkeypatch: pytest.MonkeyPatch,
    budget: float,
    exit_block: int,
) -> None:
    """Block 3 takes 10 s by the clock, which the table did not know; two images have 8 or 12 s."""
    now = [0.0]
    monkeypatch.setattr("models.anytime.time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(classifier, "measure", lambda batch_size: costs(0, 0, 0))
    block = classifier.model.backbone.blocks[2]
    handle = block.norm1.register_forward_hook(lambda *_: now.__setitem__(0, now[0] + 10))
    answers = classifier.predict(pixels(2), milliseconds=budget)
    handle.remove()
    assert {a.exit for a in answers} == {exit_block}


def test_a_budget_below_the_first_exit_is_answered_there(classifier: AnytimeClassifier) -> None:
    """By the real clock and the real table: nothing runs in a nanosecond, all within an hour."""
    assert {a.exit for a in classifier.predict(pixels(2), milliseconds=1e-6)} == {2}
    assert {a.exit for a in classifier.predict(pixels(2), milliseconds=3.6e6)} == {6}


def test_costs_are_measured_once_per_batch_size_and_threads(
    classifier: AnytimeClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.anytime.exit_costs", lambda model, size: costs(1, 2, 3))
    first = classifier.measure(2)
    assert classifier.measure(2) is first
    assert classifier.measure(3) is not first
    torch.set_num_threads(2)
    assert classifier.measure(2) is not first
    torch.set_num_threads(1)
    assert classifier.measure(2) is first


def test_no_images_have_no_answers(classifier: AnytimeClassifier) -> None:
    assert classifier.predict([]) == []
    assert classifier.predict(pixels(0)) == []


WRONG: dict[str, tuple[Any, dict[str, Any], str]] = {
    "two budgets": (None, {"exit": 2, "confidence": 0.5}, "give one of exit"),
    "no such exit": (None, {"exit": 3}, "none after block 3; choose one of 2, 4, 6"),
    "no time": (None, {"milliseconds": 0}, "0 is no budget"),
    "time not a number": (None, {"milliseconds": float("nan")}, "nan is no budget"),
    "above 1": (None, {"confidence": 1.01}, "1.01 is no probability"),
    "below 0": (None, {"confidence": -0.1}, "-0.1 is no probability"),
    "empty batches": (None, {"batch_size": 0}, "batch-size: 0"),
    "floats": (np.zeros((1, 16, 16, 3)), {}, "not float64 of shape"),
    "one image": (np.zeros((16, 16, 3), np.uint8), {}, r"shape \(16, 16, 3\)"),
    "alpha": (np.zeros((1, 16, 16, 4), np.uint8), {}, "1 or 3"),
    "no pixels": (np.zeros((1, 0, 16, 3), np.uint8), {}, r"shape \(1, 0, 16, 3\)"),
    "one picture": (Image.new("RGB", (4, 4)), {}, "list of PIL images"),
    "paths": (["a.png"], {}, "list of PIL images"),
    "deep colour": ([Image.new("I;16", (4, 4))], {}, "more than 8 bits"),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_get_a_sentence(tiny_vit: Path, case: str) -> None:
    images, budget, sentence = WRONG[case]
    classifier = AnytimeClassifier(
        build_model("exits", load_backbone(str(tiny_vit)), EXITS, 5), CLASSES
    )
    with pytest.raises(ModelError, match=sentence):
        classifier.predict(pixels(2) if images is None else images, **budget)


def test_class_names_must_fit_the_model(tiny_vit: Path) -> None:
    model = build_model("exits", load_backbone(str(tiny_vit)), EXITS, 5)
    with pytest.raises(ModelError, match="2 names for the 5 classes"):
        AnytimeClassifier(model, ("a", "b"))


@pytest.mark.parametrize(
    ("shape", "mean"),
    [((3, 16, 16, 3), (0.4, 0.5, 0.6)), ((2, 8, 8, 1), (0.5,)), ((2, 40, 24, 3), (0.1, 0.2, 0.3))],
)
def test_arrays_are_prepared_as_in_training(shape: tuple[int, ...], mean: tuple[float]) -> None:
    images = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    std = tuple(0.2 + m for m in mean)
    expected = BatchTransform(16, mean, std)(images)
    torch.testing.assert_close(prepare(images, 16, mean, std), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_pictures_are_prepared_as_the_data_set_folder_does(tmp_path: Path, mode: str) -> None:
    noise = np.random.default_rng(2).integers(0, 256, (20, 33, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).convert(mode)
    exif = picture.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    picture.save(tmp_path / "picture.png", exif=exif)
    with Image.open(tmp_path / "picture.png") as read:
        found = square(read, 16)
    np.testing.assert_array_equal(found, data.folder._decode(tmp_path / "picture.png", 16))
    upright = square(Image.fromarray(noise).convert(mode), 16)
    assert not np.array_equal(found, upright)
    assert SUFFIXES == data.folder.SUFFIXES


def test_pictures_and_their_arrays_get_the_same_answers(classifier: AnytimeClassifier) -> None:
    pictures = [Image.fromarray(image) for image in pixels()]
    assert classifier.predict(pictures) == classifier.predict(pixels())
