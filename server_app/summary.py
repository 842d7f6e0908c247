"""What summary.json draws from the record of a run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from statistics import mean

from server_app.history import (
    EPOCH_ACCURACY,
    EXIT_ACCURACY,
    Row,
    exit_scores,
    last_evaluation,
    privacy_cost,
)
from settings import Settings
from strategies import HELD_OUT, PERSONALISE_PHASE


def summarise(
    settings: Settings,
    metrics: list[Row],
    clients: list[Row],
    *,
    trainable: Mapping[str, int],
    sent: int,
    full_model_parameters: int,
    bytes_per_number: int,
    peak_train: Mapping[str, int],
    fine_tuned: float | None = None,
) -> Row:
    """Draw the summary of a run from its rows.

    Parameters
    ----------
    settings : Settings
    metrics, clients : list[Row]
        The rows of metrics.jsonl and clients.jsonl.
    trainable : Mapping[str, int]
        Parameters that each tier trains and sends; the most of any round.
    sent : int
        Trained parameters in all replies that count.
    full_model_parameters : int
        Backbone and adapters together.
    bytes_per_number : int
        Of the wire dtype.
    peak_train : Mapping[str, int]
        Predicted bytes that training takes at most, of each tier.
    fine_tuned : float, optional
        Accuracy of the last exit after fine-tuning on the server.

    Returns
    -------
    Row
        ``personalisation``, ``privacy``, ``downstream`` and ``client-accuracy-of`` are there when
        the run had them; the last is what clients scored besides, by name.
        ``bytes`` are sums over all training messages of the run; ``full-model`` is what the same
        messages would have cost, both ways, with every weight in fp32. ``worst-decile`` is the
        mean of the worst tenth of the clients (one at least).
    """
    trained = [row for row in clients if row["phase"] == "train"]
    evaluated = [row for row in metrics if any(k.startswith(EXIT_ACCURACY) for k in row)]
    central = evaluated[-1] if evaluated else {}
    return {
        "method": settings.method,
        "seed": settings.seed,
        "rounds": settings.rounds,
        "accuracy": {
            **{
                key.removeprefix(EXIT_ACCURACY): value
                for key, value in central.items()
                if key.startswith(EXIT_ACCURACY)
            },
            **({"mean": central["accuracy-mean"]} if central else {}),
        },
        "client-accuracy": _client_accuracy(last_evaluation(clients), list(trainable)),
        **_further_accuracies(last_evaluation(clients), list(trainable)),
        "bytes": {
            "up": sum(row["bytes-up"] for row in trained),
            "down": sum(row["bytes-down"] for row in trained),
            "minimum-up": sent * bytes_per_number,
            "full-model": 2 * 4 * full_model_parameters * len(trained),
            "evaluate-up": sum(row.get("evaluate-bytes-up", 0) for row in metrics),
            "evaluate-down": sum(row.get("evaluate-bytes-down", 0) for row in metrics),
        },
        "seconds": round(sum(sum(row.get("seconds", {}).values()) for row in metrics), 2),
        "trainable-parameters": dict(trainable),
        "peak-train-bytes": dict(peak_train),
        **_downstream(settings, central, fine_tuned),
        **_personalisation(settings, clients, list(trainable)),
        **_held_out(clients),
        **_privacy(settings),
    }


def _downstream(settings: Settings, central: Row, fine_tuned: float | None) -> Row:
    """What training without labels is worth: linear classifiers by exit, and all fine-tuned."""
    if settings.objective == "supervised" or not central:
        return {}
    linear = {str(block): score for block, score in exit_scores(central).items()}
    tuned = {} if fine_tuned is None else {"fine-tune": fine_tuned}
    return {"downstream": {"linear": linear, **tuned}}


def _client_accuracy(rows: list[Row], tiers: list[str], key: str = "accuracy") -> dict[str, float]:
    """Mean, worst decile and mean per tier, in order, of a row per client."""
    if not rows:
        return {}
    values = sorted(row[key] for row in rows)
    of_tier = {tier: [row[key] for row in rows if row["tier"] == tier] for tier in tiers}
    return {
        "mean": mean(values),
        "worst-decile": mean(values[: max(1, len(values) // 10)]),
        **{tier: mean(found) for tier, found in of_tier.items() if found},
    }


def _further_accuracies(rows: list[Row], tiers: list[str]) -> Row:
    """What clients scored besides: the pooled test set, and parts of their model, by name."""
    keys = [key for key in rows[0] if key.endswith("-accuracy")] if rows else []
    found = {
        key.removesuffix("-accuracy"): _client_accuracy(
            [row for row in rows if key in row], tiers, key
        )
        for key in keys
    }
    return {"client-accuracy-of": found} if found else {}


def _personalisation(settings: Settings, clients: list[Row], tiers: list[str]) -> Row:
    """What local epochs from the final bank changed, on the clients' own test parts."""
    rows = _personalised(clients, held_out=False)
    if not rows:
        return {}
    return {
        "personalisation": {
            "epochs": settings.personalise_epochs,
            "before": _client_accuracy(rows, tiers, "accuracy-before"),
            "after": _client_accuracy(rows, tiers),
            "by-epoch": {
                str(epoch): _client_accuracy(rows, tiers, f"{EPOCH_ACCURACY}{epoch}")
                for epoch in exit_scores(rows[0], EPOCH_ACCURACY)
            },
        }
    }


def _personalised(clients: list[Row], *, held_out: bool) -> list[Row]:
    """Return the personalisation's rows of clients that were held out, or of all others."""
    keys = {row["client"] for row in clients if row["phase"].startswith(HELD_OUT)}
    return [
        row
        for row in clients
        if row["phase"] == PERSONALISE_PHASE
        and not row["refused"]
        and (row["client"] in keys) == held_out
    ]


def _held_out(clients: list[Row]) -> Row:
    """What the result is worth to clients that took no part, by rounds of learning about them."""
    scores: dict[str, list[Row]] = defaultdict(list)
    for row in clients:
        if row["phase"].startswith(f"{HELD_OUT}-") and not row["refused"]:
            scores[row["phase"].removeprefix(f"{HELD_OUT}-")].append(row)
    if tuned := _personalised(clients, held_out=True):
        scores["fine-tuned"] = tuned
    found = {name: _client_accuracy(rows, []) for name, rows in scores.items()}
    return {"held-out": found} if found else {}


def _privacy(settings: Settings) -> Row:
    """What noise on the mean promises each client after all rounds."""
    if not settings.noise_multiplier:
        return {}
    return {
        "privacy": {
            "epsilon": privacy_cost(settings, settings.rounds),
            "delta": settings.privacy_delta,
            "noise-multiplier": settings.noise_multiplier,
            "clip": settings.clip_update,
        }
    }
