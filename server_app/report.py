"""report.html: what a run gave, in figures and tables, as one file that needs nothing else."""

from __future__ import annotations

import json
from datetime import datetime
from html import escape
from pathlib import Path
from statistics import mean
from typing import Any

from server_app.history import Row
from server_app.page import NONE, figure_section, percent, readable_bytes, table, write_page
from server_app.runs import Run, read_run
from settings import Settings

MOST_REFUSED = 100  # rows of the table of refused replies

CAPTIONS = {
    "central-accuracy": "<b>Central accuracy</b> of each exit on the server's test set; round 0 is "
    "before any training.",
    "accuracy-over-bytes": "<b>Accuracy against bytes:</b> what the training messages of all "
    "clients so far, up and down, have bought.",
    "accuracy-by-exit": "<b>Final accuracy by exit:</b> bars are central; circles are the "
    "clients' own test parts, over the clients whose tier reaches the exit.",
    "anytime": "<b>Anytime inference:</b> the final accuracy of each exit against what it costs to "
    "answer there, from the image on. Numbers are blocks; a multiply-add counts as 2 FLOPs; times "
    "are medians on the server.",
    "client-accuracy": "<b>Final accuracy of the clients</b> on their own test parts, at the last "
    "exit each runs: a dot is a client, a box spans the quartiles around the median.",
    "tier-accuracy": "<b>Clients' accuracy by tier</b> over the rounds, each client on its own "
    "test part; all clients of a tier count alike.",
    "personalisation": "<b>Personalisation:</b> each client on its own test part with the "
    "federation's adapters (circle), and after further training on its own data (dot).",
    "personalisation-epochs": "<b>Personalisation by epoch:</b> mean accuracy on their own test "
    "parts after each epoch of the clients' own training; 0 is the federation's adapters.",
    "partition": "<b>Who has what:</b> training examples of each client, and of each class among "
    "them, white where there are none; clients by tier, a colour for each, and by key.",
    "training-examples": "<b>Who has what:</b> training examples of every client that has "
    "trained, by tier, largest first.",
    "training-loss": "<b>Training loss</b> on the clients' own data: what they minimise, and the "
    "cross-entropy of each exit; means over the clients that reach it, weighted by examples.",
    "bytes": "<b>Bytes per round</b> of the training messages and of the adapters sent for "
    "evaluation, beside training that sends every weight of the model in fp32.",
    "seconds": "<b>Time per round</b> by phase, on the server's clock, with the totals of the run.",
}


def write_report(output: Path) -> None:
    """Write report.html, and its figures to figures/, from the files of a run.

    Parameters
    ----------
    output : Path
        The run's output folder, with settings.toml, metrics.jsonl, clients.jsonl and
        summary.json, and maybe anytime.json and partition.json; rows and scores may be missing
        in them, and what they would show is left out.
    """
    run = read_run(output)
    settings, summary = run.settings, run.summary
    seen = {row["tier"] for row in run.clients}
    tiers = list(dict.fromkeys([*summary["trainable-parameters"], *sorted(seen)]))
    day = datetime.fromtimestamp((output / "summary.json").stat().st_mtime)
    defaults = Settings().to_dict()
    changed = {key for key, value in settings.items() if value != defaults.get(key)}
    write_page(
        output / "report.html",
        title=f"{settings['method'].capitalize()} on {settings['dataset']}",
        about=(
            f"{settings['num-clients']:,} clients, {settings['clients-per-round']:,} in a round, "
            f"{settings['partition']} partition · {settings['rounds']} rounds · "
            f"seed {settings['seed']} · {day.day} {day:%B %Y}"
        ),
        parts=[
            _key_figures(run),
            _figures(run, tiers),
            "<h2>Tiers</h2>",
            "<p>Trained parameters; mean accuracy of the clients; time and bytes up, per client "
            "and round.</p>",
            _tier_table(run.clients, summary, tiers),
            _refused_table(run.clients),
            "<h2>Settings</h2>",
            f"<p>{len(changed)} of {len(settings)} differ from the defaults; they are marked.</p>",
            "<dl>",
            *(
                _setting(key, value, defaults.get(key), key in changed)
                for key, value in settings.items()
            ),
            "</dl>",
        ],
        footer=(
            "Drawn by fedgraft from settings.toml, metrics.jsonl, clients.jsonl and summary.json; "
            "the figures lie beside this file in figures/, as PNG and PDF."
        ),
    )


def _key_figures(run: Run) -> str:
    """Write the row of key figures; a dash stands for what was not measured."""
    summary, scores, last = run.summary, run.scores(), run.last_exit
    times = f"{summary['bytes']['full-model'] / scores['bytes']:,.0f}" if scores["bytes"] else NONE
    seconds = summary["seconds"]
    figures = [
        (
            "Last exit",
            percent(scores.get("last-exit")),
            f"central, block {last}" if last else "no central test set",
        ),
        ("Mean of exits", percent(scores.get("mean-of-exits")), "central"),
        ("Clients' mean", percent(scores.get("clients-mean")), "at the last exit each runs"),
        ("Worst decile", percent(scores.get("worst-decile")), "mean of the worst tenth"),
    ]
    if personal := summary.get("personalisation"):
        count = personal["epochs"]
        note = f"clients' mean after {count:,} own epoch{'s' if count != 1 else ''}"
        before = f"{percent(personal['before'].get('mean'))} before"
        figures.append(("Personalised", percent(scores.get("personalised")), f"{note}; {before}"))
    if privacy := summary.get("privacy"):
        note = (
            f"at \u03b4 = {privacy['delta']:.1g}, noise multiplier {privacy['noise-multiplier']:g}"
        )
        figures.append(("Privacy", f"\u03b5 = {privacy['epsilon']:.3g}", note))
    figures += [
        (
            "Up and down",
            readable_bytes(scores["bytes"]),
            f"to train, {times} times less than the full model",
        ),
        ("Time", f"{seconds:,.0f} s", f"{seconds / summary['rounds']:,.2g} s per round"),
    ]
    cards = (
        f"<div><span>{name}</span><b>{value}</b><small>{note}</small></div>"
        for name, value, note in figures
    )
    return "\n".join(['<section class="keys" aria-label="Key figures">', *cards, "</section>"])


def _figures(run: Run, tiers: list[str]) -> str:
    """Draw the figures that the rows allow, save them, and write them as HTML."""
    from server_app import client_figures, figures  # here: matplotlib takes long to import

    metrics, clients = run.metrics, run.clients
    drawn = {
        "central-accuracy": figures.central_accuracy(metrics),
        "accuracy-over-bytes": figures.accuracy_over_bytes(metrics, clients),
        "accuracy-by-exit": figures.accuracy_by_exit(metrics),
        "anytime": figures.anytime(metrics, run.cost),
        "client-accuracy": client_figures.client_accuracy(clients, tiers),
        "tier-accuracy": client_figures.tier_accuracy(clients, tiers),
        "personalisation": client_figures.personalisation(clients, tiers),
        "personalisation-epochs": client_figures.personal_epochs(
            run.summary.get("personalisation"), tiers
        ),
        "partition": client_figures.partition(run.held, clients, tiers) if run.held else None,
        "training-examples": (
            None if run.held else client_figures.training_examples(clients, tiers)
        ),
        "training-loss": figures.training_loss(metrics),
        "bytes": figures.bytes_per_round(metrics, clients, run.summary["bytes"]["full-model"]),
        "seconds": figures.seconds_per_phase(metrics),
    }
    return figure_section(run.folder / "figures", drawn, CAPTIONS)


def _tier_table(clients: list[Row], summary: Row, tiers: list[str]) -> str:
    """Write a row for each tier: its clients, and what they trained, reached, took and sent."""
    personal = summary.get("personalisation")
    rows = []
    for tier in tiers:
        own = [row for row in clients if row["tier"] == tier]
        used = [row for row in own if row["phase"] == "train" and not row["refused"]]
        seconds = [row["seconds"] for row in used if "seconds" in row]
        parameters = summary["trainable-parameters"].get(tier)
        rows.append(
            [
                tier,
                f"{len({row['client'] for row in own}):,}",
                NONE if parameters is None else f"{parameters:,}",
                percent(summary["client-accuracy"].get(tier)),
                *([percent(personal["after"].get(tier))] if personal else []),
                f"{mean(seconds):.2f} s" if seconds else NONE,
                readable_bytes(mean(row["bytes-up"] for row in used)) if used else NONE,
            ]
        )
    after = ["Personalised"] if personal else []
    return table(["Tier", "Clients", "Trained", "Accuracy", *after, "Time", "Up"], rows)


def _refused_table(clients: list[Row]) -> str:
    """Write who was refused when, and why; nothing where all replies were used."""
    refused = [row for row in clients if row["refused"]]
    if not refused:
        return ""
    rows = [
        [row["round"], row["phase"], row["client"], row["refused"]]
        for row in refused[:MOST_REFUSED]
    ]
    more = len(refused) - len(rows)
    return (
        f"<h2>Refused replies ({len(refused):,})</h2>"
        + table(["Round", "Phase", "Client", "Reason"], rows, kind="text")
        + (f"<p>{more:,} more stand in clients.jsonl.</p>" if more else "")
    )


def _setting(key: str, value: Any, default: Any, is_changed: bool) -> str:
    """Write a setting, marked and with its default where it differs."""
    mark = ' class="changed"' if is_changed else ""
    note = f"<small>default {escape(json.dumps(default))}</small>" if is_changed else ""
    text = escape(json.dumps(value, ensure_ascii=False))
    return f"<div{mark}><dt>{escape(key)}</dt><dd>{text}{note}</dd></div>"
