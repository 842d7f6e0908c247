"""report.html: what a run gave, in figures and tables, as one file that needs nothing else."""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from statistics import mean
from string import Template
from typing import Any

from server_app.history import Row, read_rows
from settings import Settings, load_toml

NONE = "\N{EN DASH}"
DPI = 200  # two pixels for each of the page
MOST_REFUSED = 100  # rows of the table of refused replies

CAPTIONS = {
    "central-accuracy": "<b>Central accuracy</b> of each exit on the server's test set; round 0 is "
    "before any training.",
    "training-loss": "<b>Training loss</b> on the clients' own data: what they minimise, and the "
    "cross-entropy of each exit; means over the clients that reach it, weighted by examples.",
    "accuracy-by-exit": "<b>Final accuracy by exit:</b> bars are central; circles are the "
    "clients' own test parts, over the clients whose tier reaches the exit.",
    "client-accuracy": "<b>Final accuracy of the clients</b> on their own test parts, at the last "
    "exit each runs: a dot is a client, a box spans the quartiles around the median.",
    "tier-accuracy": "<b>Clients' accuracy by tier</b> over the rounds, each client on its own "
    "test part; all clients of a tier count alike.",
    "training-examples": "<b>Who has what:</b> training examples of every client that has "
    "trained, by tier, largest first.",
    "bytes": "<b>Bytes per round</b> of the training messages and of the adapters sent for "
    "evaluation, beside training that sends every weight of the model in fp32.",
    "seconds": "<b>Time per round</b> by phase, on the server's clock, with the totals of the run.",
}
PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: #1f2933; overflow-wrap: anywhere;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums; }
main { max-width: 1000px; margin: 0 auto; padding: 40px 20px 64px; }
h1 { margin: 0; font-size: 30px; line-height: 1.2; letter-spacing: -0.015em; }
h2 { margin: 44px 0 8px; font-size: 19px; }
p { margin: 6px 0 12px; }
p, figcaption, small, th, dt, footer { color: #5f6c7b; }
.keys { display: grid; grid-template-columns: repeat(auto-fit, minmax(145px, 1fr)); gap: 1px;
  margin-top: 28px; border: 1px solid #e1e5ea; border-radius: 10px; background: #e1e5ea;
  overflow: hidden; }
.keys div { background: #fff; padding: 14px 16px; }
.keys span, .keys small { display: block; font-size: 13px; line-height: 1.35; }
.keys b { display: block; font-size: 25px; letter-spacing: -0.02em; margin: 3px 0 2px; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr));
  gap: 36px 28px; margin-top: 36px; }
figure { margin: 0; break-inside: avoid; max-width: 560px; }
figure img { width: 100%; display: block; }
figcaption { font-size: 14px; line-height: 1.45; margin-top: 8px; }
figcaption b { color: #1f2933; }
.wide { overflow-x: auto; overflow-wrap: normal; }
table { border-collapse: collapse; width: 100%; font-size: 15px; }
th, td { padding: 7px 0 7px 10px; text-align: right; border-bottom: 1px solid #e6e9ed; }
th { font-weight: 500; font-size: 13px; }
.numbers td { white-space: nowrap; }
.text th, .text td, th:first-child, td:first-child { text-align: left; }
th:first-child, td:first-child { padding-left: 0; }
dl { columns: 2 380px; column-gap: 28px; margin: 0; font-size: 14px; }
dl div { display: flex; gap: 16px; justify-content: space-between; break-inside: avoid;
  padding: 4px 8px; border-bottom: 1px solid #eef1f4; }
dt { flex: none; }
dd { margin: 0; text-align: right; }
dd small { display: block; font-weight: 400; }
.changed { background: #fff6e0; font-weight: 600; }
.changed dt { color: inherit; }
footer { margin-top: 44px; font-size: 13px; }
@media (max-width: 480px) { table { font-size: 13px; } }
@media print {
  @page { margin: 14mm; }
  body, table { font-size: 12px; }
  main { max-width: none; padding: 0; }
  .keys { grid-template-columns: repeat(6, 1fr); }
  .keys div { padding: 8px; }
  .keys b { font-size: 17px; }
  .keys span, .keys small, figcaption, th, footer { font-size: 11px; }
  .figures { grid-template-columns: 1fr 1fr; gap: 20px; }
  h2, h2 + p { break-after: avoid; }
  dl { columns: 2; font-size: 10px; break-inside: avoid; }
  .changed, .keys, .keys div { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
</style>
</head>
<body>
<main>
<h1>$title</h1>
<p>$about</p>
<section class="keys" aria-label="Key figures">
$keys
</section>
<section class="figures" aria-label="Figures">
$figures
</section>
<h2>Tiers</h2>
<p>Trained parameters; mean accuracy of the clients; time and bytes up, per client and round.</p>
$tiers
$refused
<h2>Settings</h2>
<p>$changes</p>
<dl>
$settings
</dl>
<footer>Drawn by fedgraft from settings.toml, metrics.jsonl, clients.jsonl and summary.json; the
figures lie beside this file in figures/.</footer>
</main>
</body>
</html>
""")


def write_report(output: Path) -> None:
    """Write report.html, and its figures to figures/, from the files of a run.

    Parameters
    ----------
    output : Path
        The run's output folder, with settings.toml, metrics.jsonl, clients.jsonl and
        summary.json; rows and scores may be missing in them, and what they would show is left
        out.
    """
    settings = load_toml(output / "settings.toml")
    metrics, clients = read_rows(output / "metrics.jsonl"), read_rows(output / "clients.jsonl")
    summary = json.loads((output / "summary.json").read_text())
    seen = {row["tier"] for row in clients}
    tiers = list(dict.fromkeys([*summary["trainable-parameters"], *sorted(seen)]))
    day = datetime.fromtimestamp((output / "summary.json").stat().st_mtime)
    title = f"{settings['method'].capitalize()} on {settings['dataset']}"
    about = (
        f"{settings['num-clients']:,} clients, {settings['clients-per-round']:,} in a round, "
        f"{settings['partition']} partition · {settings['rounds']} rounds · "
        f"seed {settings['seed']} · {day.day} {day:%B %Y}"
    )
    defaults = Settings().to_dict()
    changed = {key for key, value in settings.items() if value != defaults.get(key)}
    page = PAGE.substitute(
        title=escape(title),
        about=escape(about),
        keys=_key_figures(summary),
        figures=_write_figures(output / "figures", metrics, clients, summary, tiers),
        tiers=_tier_table(clients, summary, tiers),
        refused=_refused_table(clients),
        changes=f"{len(changed)} of {len(settings)} differ from the defaults; they are marked.",
        settings="\n".join(
            _setting(key, value, defaults.get(key), key in changed)
            for key, value in settings.items()
        ),
    )
    (output / "report.html").write_text(page, encoding="utf-8")


def readable_bytes(count: float) -> str:
    """Write a number of bytes with three digits and a decimal unit."""
    power = min(4, max(0, int(math.log10(max(count, 1) * 1.0005) / 3)))
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def _key_figures(summary: Row) -> str:
    """Write the row of key figures; a dash stands for what was not measured."""
    central, of_clients = summary["accuracy"], summary["client-accuracy"]
    last = max((int(block) for block in central if block != "mean"), default=None)
    count = summary["bytes"]
    sent = count["up"] + count["down"]
    times = f"{count['full-model'] / sent:,.0f}" if sent else NONE
    seconds = summary["seconds"]
    figures = [
        (
            "Last exit",
            _percent(central.get(str(last))),
            f"central, block {last}" if last else "no central test set",
        ),
        ("Mean of exits", _percent(central.get("mean")), "central"),
        ("Clients' mean", _percent(of_clients.get("mean")), "at the last exit each runs"),
        ("Worst decile", _percent(of_clients.get("worst-decile")), "mean of the worst tenth"),
        ("Up and down", readable_bytes(sent), f"to train, {times} times less than the full model"),
        ("Time", f"{seconds:,.0f} s", f"{seconds / summary['rounds']:,.2g} s per round"),
    ]
    return "\n".join(
        f"<div><span>{name}</span><b>{value}</b><small>{note}</small></div>"
        for name, value, note in figures
    )


def _write_figures(
    folder: Path, metrics: list[Row], clients: list[Row], summary: Row, tiers: list[str]
) -> str:
    """Draw the figures that the rows allow, save them, and write them as HTML."""
    from server_app import figures as draw  # here: matplotlib takes long to import

    figures = {
        "central-accuracy": draw.central_accuracy(metrics),
        "training-loss": draw.training_loss(metrics),
        "accuracy-by-exit": draw.accuracy_by_exit(metrics),
        "client-accuracy": draw.client_accuracy(clients, tiers),
        "tier-accuracy": draw.tier_accuracy(clients, tiers),
        "training-examples": draw.training_examples(clients, tiers),
        "bytes": draw.bytes_per_round(metrics, clients, summary["bytes"]["full-model"]),
        "seconds": draw.seconds_per_phase(metrics),
    }
    folder.mkdir(exist_ok=True)
    parts = []
    for name, figure in figures.items():
        file = folder / f"{name}.png"
        file.unlink(missing_ok=True)  # of an earlier run in the same folder
        if figure is None:
            continue
        figure.savefig(file, dpi=DPI)
        image = b64encode(file.read_bytes()).decode()
        title = figure.axes[0].get_title("left")
        labels = "; ".join(text.get_text() for text in figure.axes[0].texts)
        parts.append(
            f'<figure><img alt="{escape(f"Figure of {title}. {labels}")}" '
            f'src="data:image/png;base64,{image}"><figcaption>{CAPTIONS[name]}</figcaption></figure>'
        )
    return "\n".join(parts)


def _tier_table(clients: list[Row], summary: Row, tiers: list[str]) -> str:
    """Write a row for each tier: its clients, and what they trained, reached, took and sent."""
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
                _percent(summary["client-accuracy"].get(tier)),
                f"{mean(seconds):.2f} s" if seconds else NONE,
                readable_bytes(mean(row["bytes-up"] for row in used)) if used else NONE,
            ]
        )
    return _table(["Tier", "Clients", "Trained", "Accuracy", "Time", "Up"], rows)


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
        + _table(["Round", "Phase", "Client", "Reason"], rows, kind="text")
        + (f"<p>{more:,} more stand in clients.jsonl.</p>" if more else "")
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]], kind: str = "numbers") -> str:
    """Write a table; every cell is escaped."""
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = "\n".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        f'<div class="wide"><table class="{kind}"><thead><tr>{names}</tr></thead>\n'
        f"<tbody>{lines}</tbody></table></div>"
    )


def _setting(key: str, value: Any, default: Any, is_changed: bool) -> str:
    """Write a setting, marked and with its default where it differs."""
    mark = ' class="changed"' if is_changed else ""
    note = f"<small>default {escape(json.dumps(default))}</small>" if is_changed else ""
    text = escape(json.dumps(value, ensure_ascii=False))
    return f"<div{mark}><dt>{escape(key)}</dt><dd>{text}{note}</dd></div>"


def _percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.1f} %"
