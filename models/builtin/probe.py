"""Linear probes of a backbone, beside the same architecture with random weights.

    python models/builtin/probe.py FOLDER [--cifar100 FILE.npz]

The probe is a multinomial logistic regression on standardised class tokens. Its regularisation is
chosen on a part of the training set.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from transformers import ViTModel

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)  # inverse regularisation, sklearn's C
RANDOM_SEEDS = (0, 1, 2)
BLOCKS = (3, 6, 9, 12)

Split = tuple[Tensor, np.ndarray, Tensor, np.ndarray]


def digits_split() -> Split:
    """Return scikit-learn's digits, enlarged, split 80/20 by class with a fixed seed.

    Returns
    -------
    tuple
        Training images, training labels, test images, test labels; images float32 in [-1, 1],
        shape ``(n, 3, 32, 32)``.
    """
    digits = load_digits()
    small = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
    large = F.interpolate(small, size=(32, 32), mode="bilinear", align_corners=False)
    images = (large * 2 - 1).expand(-1, 3, -1, -1)
    train, test = train_test_split(
        np.arange(len(images)), test_size=0.2, random_state=0, stratify=digits.target
    )
    return images[train], digits.target[train], images[test], digits.target[test]


def cifar100_split(path: Path) -> Split:
    """Return the images of an archive (`train_images`, `train_labels`, ...); as `digits_split`."""
    with np.load(path) as archive:
        parts = {name: archive[name] for name in archive.files}
    train, test = (
        torch.from_numpy(parts[f"{part}_images"]).permute(0, 3, 1, 2) / 127.5 - 1
        for part in ("train", "test")
    )
    return train, parts["train_labels"], test, parts["test_labels"]


@torch.inference_mode()
def class_tokens(model: ViTModel, images: Tensor) -> list[np.ndarray]:
    """Compute the class token at each depth.

    Returns
    -------
    list of ndarray
        float32, shape ``(n, width)`` each: after each block, through a LayerNorm without weights,
        then after the last block and the model's own LayerNorm.
    """
    depths: list[list[Tensor]] = []
    for chunk in images.split(500):
        output = model(pixel_values=chunk, output_hidden_states=True)
        # hidden_states[0] is the embedding; ViTModel leaves all of them without its LayerNorm.
        tokens = [F.layer_norm(h[:, 0], h.shape[-1:]) for h in output.hidden_states[1:]]
        depths.append([*tokens, output.last_hidden_state[:, 0]])
    return [torch.cat(parts).numpy() for parts in zip(*depths, strict=True)]


def fit(features: np.ndarray, labels: np.ndarray, strength: float) -> Pipeline:
    """Fit the probe on features ``(n, width)`` and labels ``(n,)``."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # weak regularisation takes longer
        return probe.fit(features, labels)


def choose_strength(features: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return the best regularisation and its accuracy on a held-out quarter."""
    train, held_out, train_labels, held_out_labels = train_test_split(
        features, labels, test_size=0.25, random_state=0, stratify=labels
    )
    scores = [
        fit(train, train_labels, strength).score(held_out, held_out_labels)
        for strength in STRENGTHS
    ]
    best = int(np.argmax(scores))
    return STRENGTHS[best], float(scores[best])


def probe_accuracy(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray
) -> float:
    """Choose the regularisation, fit on all training features, return the test accuracy."""
    strength, _ = choose_strength(train, train_labels)
    return float(fit(train, train_labels, strength).score(test, test_labels))


def digits_validation_accuracy(model: ViTModel) -> float:
    """Accuracy on a held-out quarter of the digits' training part; the test part stays unseen."""
    images, labels, _, _ = digits_split()
    return choose_strength(class_tokens(model, images)[-1], labels)[1]


def accuracies(model: ViTModel, split: Split, depths: Sequence[int]) -> np.ndarray:
    """Probe the class token at some depths.

    Parameters
    ----------
    model : ViTModel
        Backbone.
    split : tuple
        As returned by `digits_split`.
    depths : sequence of int
        Indices into the list that `class_tokens` returns.

    Returns
    -------
    ndarray
        Test accuracy in per cent at each depth, shape ``(len(depths),)``.
    """
    train_images, train_labels, test_images, test_labels = split
    train, test = class_tokens(model, train_images), class_tokens(model, test_images)
    return 100 * np.array(
        [probe_accuracy(train[d], train_labels, test[d], test_labels) for d in depths]
    )


def random_model(model: ViTModel, seed: int) -> ViTModel:
    """Return a model of the same architecture with random weights."""
    torch.manual_seed(seed)
    return ViTModel(model.config, add_pooling_layer=False).float().eval()


def report(name: str, model: ViTModel, split: Split, depths: dict[str, int]) -> None:
    """Print one table: pretrained, random (mean over seeds) and gain at each depth."""
    places = list(depths.values())
    pretrained = accuracies(model, split, places)
    chance = np.stack([accuracies(random_model(model, s), split, places) for s in RANDOM_SEEDS])
    print(f"{name:24s} pretrained  random    gain")
    for depth, value, base in zip(depths, pretrained, chance.mean(0), strict=True):
        print(f"  {depth:22s} {value:8.1f} % {base:6.1f} % {value - base:+7.1f}")


def report_strengths(model: ViTModel, split: Split) -> None:
    """Print the test accuracy at each fixed regularisation, pretrained and random.

    Random features need far weaker regularisation than pretrained ones, so a fixed one may show
    nearly any gain. The last row is scikit-learn's default on class tokens as they are, not
    standardised: random ones hardly differ from image to image, and it shows.
    """
    train_images, train_labels, test_images, test_labels = split
    print("digits, final class token, at fixed C")
    models = [model, *(random_model(model, seed) for seed in RANDOM_SEEDS)]
    tokens = [(class_tokens(m, train_images)[-1], class_tokens(m, test_images)[-1]) for m in models]
    for strength in STRENGTHS:
        scores = [
            100 * fit(train, train_labels, strength).score(test, test_labels)
            for train, test in tokens
        ]
        value, base = scores[0], float(np.mean(scores[1:]))
        print(f"  C = {strength:<18g} {value:8.1f} % {base:6.1f} % {value - base:+7.1f}")
    plain = LogisticRegression(max_iter=2000)
    scores = [100 * plain.fit(a, train_labels).score(b, test_labels) for a, b in tokens]
    value, base = scores[0], float(np.mean(scores[1:]))
    print(f"  C = 1, as they are     {value:8.1f} % {base:6.1f} % {value - base:+7.1f}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Linear probes of a backbone.")
    parser.add_argument("folder", type=Path, help="ViTModel in Hugging Face form")
    parser.add_argument("--cifar100", type=Path, help="archive with train and test images, .npz")
    args = parser.parse_args()
    model = ViTModel.from_pretrained(args.folder, add_pooling_layer=False, dtype=torch.float32)
    model.eval()
    final = {"final class token": -1}
    blocks = {f"after block {block}": block - 1 for block in BLOCKS}
    report("digits", model, digits_split(), final | blocks)
    report_strengths(model, digits_split())
    if args.cifar100 is not None:
        report("CIFAR-100", model, cifar100_split(args.cifar100), final)


if __name__ == "__main__":
    main()
