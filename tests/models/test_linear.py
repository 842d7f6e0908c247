"""Linear classifiers against scikit-learn's logistic regression."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from models import ExitHead, fit_head
from models.linear import fit_linear


def examples(count: int, width: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Clouds that overlap, with features of very unequal scales."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, classes, (count,), generator=generator)
    centres = torch.randn(classes, width, generator=generator)
    features = centres[labels] + 1.5 * torch.randn(count, width, generator=generator)
    return features * torch.logspace(-2, 2, width) + 7, labels


def test_the_fit_is_that_of_scikit_learn() -> None:
    features, labels = examples(300, 6, 4)
    weight, bias = fit_linear(features, labels, 4)
    scaler = StandardScaler().fit(features.double())
    theirs = LogisticRegression(C=1.0, tol=1e-10, max_iter=5000)
    theirs.fit(scaler.transform(features.double()), labels)
    ours = torch.softmax(features.double() @ weight.T + bias, 1)
    expected = theirs.predict_proba(scaler.transform(features.double()))
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_a_class_without_examples_and_a_feature_without_spread_do_no_harm() -> None:
    features, labels = examples(60, 3, 2)
    features[:, 0] = 0.01 * labels
    features[:, 1] = 5.0
    weight, bias = fit_linear(features, labels + 1, 4)
    answers = (features.double() @ weight.T + bias).argmax(1)
    assert weight.shape == (4, 3)
    assert torch.equal(answers, labels + 1)


def test_a_head_gives_the_answers_of_the_fit() -> None:
    tokens, labels = examples(200, 5, 3)
    head = ExitHead(5, 3)
    head[0].weight.data = torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0])
    norm = head[0].weight.clone()
    fit_head(head, tokens, labels)
    assert torch.equal(head[0].weight, norm)
    weight, bias = fit_linear(head[0](tokens), labels, 3)
    torch.testing.assert_close(
        head(tokens), (head[0](tokens).double() @ weight.T + bias).float(), rtol=1e-4, atol=1e-4
    )
    assert head[1].weight.grad is None
