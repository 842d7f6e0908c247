"""Classify a folder of images with what a run exported.

``python -m models.predict FOLDER --adapters runs/latest/adapters`` in the repository, or
``python -m fedgraft.models.predict`` where the package is installed; docs/anytime.md explains it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .anytime import AnytimeClassifier, Prediction
from .backbone import ModelError
from .cost import anytime_profile
from .images import find_images, read_image


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}.predict",
        description="Classify images with the adapters of a run, within a budget.",
        epilog="Where images lie in subfolders named after classes, the accuracy is printed too.",
    )
    parser.add_argument("folder", nargs="?", type=Path, help="images, also in its subfolders")
    parser.add_argument("--adapters", required=True, help="the folder adapters/ of a run")
    parser.add_argument("--backbone", help="instead of the run's: builtin, a folder or a hub id")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--exit", type=int, metavar="BLOCK", help="answer after this block")
    budget.add_argument("--milliseconds", type=float, metavar="MS", help="time per image")
    budget.add_argument(
        "--confidence", type=float, metavar="P", help="leave where the probability reaches P"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="images that run together (32)")
    parser.add_argument("--device", default="cpu", help="such as cpu (default) or cuda")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--measure", action="store_true", help="print what each exit costs here; takes no folder"
    )
    return parser.parse_args(arguments)


def predict(classifier: AnytimeClassifier, options: argparse.Namespace) -> None:
    """Print an answer for every image of the folder, then a summary."""
    paths = find_images(options.folder)
    names = [str(path.relative_to(options.folder)) for path in paths]
    widths = max(map(len, names)), max(map(len, classifier.classes))
    predictions: list[Prediction] = []
    seconds = 0.0
    for batch, took in answer(classifier, paths, options):
        if not options.json:
            for name, found in zip(names[len(predictions) :], batch, strict=False):
                print(
                    f"{name:{widths[0]}}  {found.name:{widths[1]}}  {found.confidence:.3f}  "
                    f"exit {found.exit}"
                )
        predictions += batch
        seconds += took
    summary = summarise(classifier, paths, predictions, 1000 * seconds / len(paths))
    if options.json:
        rows = [
            {"file": name, "class": p.name, "confidence": p.confidence, "exit": p.exit}
            for name, p in zip(names, predictions, strict=True)
        ]
        print(json.dumps({"images": rows, "summary": summary}, indent=1))
        return
    exits = ", ".join(f"{count} at exit {e}" for e, count in summary["exits"].items())
    print(f"{len(paths)} images: {exits}; {summary['milliseconds']:.2f} ms per image")
    if "accuracy" in summary:
        print(f"accuracy {100 * summary['accuracy']:.1f} % by the names of their folders")


def answer(
    classifier: AnytimeClassifier, paths: Sequence[Path], options: argparse.Namespace
) -> Iterator[tuple[list[Prediction], float]]:
    """Yield the predictions of each batch and the seconds they took, reading left out."""
    side, size = classifier.model.backbone.image_size, options.batch_size
    budget = {key: getattr(options, key) for key in ("exit", "milliseconds", "confidence")}
    # What happens once only, a slow first pass and the measuring, is not counted.
    blank = np.zeros((len(paths[:size]), side, side, 3), dtype=np.uint8)
    classifier.predict(blank, **budget, batch_size=size)
    for start in range(0, len(paths), size):
        images = np.stack([read_image(path, side) for path in paths[start : start + size]])
        if options.milliseconds is not None:
            classifier.measure(len(images))
        begun = time.perf_counter()
        predictions = classifier.predict(images, **budget, batch_size=size)
        yield predictions, time.perf_counter() - begun


def summarise(
    classifier: AnytimeClassifier,
    paths: Sequence[Path],
    predictions: Sequence[Prediction],
    milliseconds: float,
) -> dict[str, Any]:
    """Count the images of each exit, and the right answers where folders are named like classes."""
    exits = Counter(p.exit for p in predictions)
    right = [
        path.parent.name == prediction.name
        for path, prediction in zip(paths, predictions, strict=True)
        if path.parent.name in classifier.classes
    ]
    summary = {
        "images": len(paths),
        "exits": {str(e): exits[e] for e in classifier.exits},
        "milliseconds": milliseconds,
    }
    return {**summary, "accuracy": sum(right) / len(right)} if right else summary


def show_costs(classifier: AnytimeClassifier, options: argparse.Namespace) -> None:
    """Print what an image costs at each exit, on this machine and at this batch size."""
    profile = anytime_profile(classifier.model, options.batch_size)
    if options.json:
        print(json.dumps(profile, indent=1))
        return
    print(
        f"per image, batches of {profile['batch-size']}, on {profile['device']} with "
        f"{profile['threads']} threads"
    )
    print("exit     MFLOPs        ms")
    for e, cost in profile["exits"].items():
        print(f"{e:>4}  {cost['flops'] / 1e6:9.1f}  {cost['milliseconds']:8.2f}")


def main(arguments: Sequence[str]) -> int:
    """Run the command; a user's mistake ends in one sentence and exit code 2."""
    options = parse(arguments)
    try:
        if (options.folder is None) != options.measure:
            raise ModelError("give either a folder of images or --measure.")
        classifier = AnytimeClassifier.load(options.adapters, options.backbone, options.device)
        if options.measure:
            show_costs(classifier, options)
        else:
            predict(classifier, options)
    except ModelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
