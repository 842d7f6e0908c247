"""Linear classifiers on frozen features: how good what was trained without labels is."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

MOST_STEPS = 500


def fit_linear(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Fit multinomial logistic regression; it has one best solution, whatever the start.

    What is minimised is the sum of the cross-entropies plus half the squared norm of the weights,
    where features are standardised.

    Parameters
    ----------
    features : Tensor
        ``(N, D)``.
    labels : Tensor
        ``(N,)`` int64.
    num_classes : int
        Number of classes C; some may have no example.

    Returns
    -------
    weight, bias : Tensor
        ``(C, D)`` and ``(C,)`` float64, for the features as they were given.
    """
    given = features.detach().double()
    mean, spread = given.mean(0), given.std(0, correction=0).clamp(min=1e-6)
    standardised = (given - mean) / spread
    weight = torch.zeros(num_classes, given.shape[1], dtype=given.dtype, device=given.device)
    bias = torch.zeros(num_classes, dtype=given.dtype, device=given.device)
    fitted = [weight.requires_grad_(), bias.requires_grad_()]
    optimizer = torch.optim.LBFGS(
        fitted, max_iter=MOST_STEPS, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = functional.linear(standardised, weight, bias)
        loss = functional.cross_entropy(logits, labels) + weight.square().sum() / (2 * len(labels))
        loss.backward()
        return loss

    optimizer.step(closure)
    scaled = weight.detach() / spread
    return scaled, bias.detach() - scaled @ mean


@torch.no_grad()
def fit_head(head: nn.Module, tokens: Tensor, labels: Tensor) -> None:
    """Give a head the best last layer for class tokens ``(N, D)``; the rest of it stays."""
    assert isinstance(head, nn.Sequential)
    *below, last = head
    assert isinstance(last, nn.Linear)
    normed = nn.Sequential(*below)(tokens)
    # On the CPU: not every device has float64.
    with torch.enable_grad():
        weight, bias = fit_linear(normed.cpu(), labels.cpu(), last.out_features)
    last.weight.copy_(weight)
    last.bias.copy_(bias)
