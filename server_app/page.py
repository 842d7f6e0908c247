"""The page that report and comparison share: its look, and its parts written as HTML."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NONE = "\N{EN DASH}"
DPI = 200  # two pixels for each of the page

_PAGE = Template("""<!DOCTYPE html>
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
  margin-top: 28px; border: 1px solid #e1e5ea; border-radius: 10px; overflow: hidden; }
.keys div { outline: 1px solid #e1e5ea; padding: 14px 16px; }
.keys span, .keys small { display: block; font-size: 13px; line-height: 1.35; }
.keys b { display: block; font-size: 25px; letter-spacing: -0.02em; margin: 3px 0 2px; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr));
  gap: 36px 28px; margin-top: 36px; counter-reset: figure; }
figure { margin: 0; break-inside: avoid; max-width: 560px; }
figure img { width: 100%; display: block; }
figcaption { font-size: 14px; line-height: 1.45; margin-top: 8px; }
figcaption b { color: #1f2933; }
figcaption::before { counter-increment: figure; content: "Figure " counter(figure) ". "; }
.wide { overflow-x: auto; overflow-wrap: normal; }
table { border-collapse: collapse; width: 100%; font-size: 15px; }
th, td { padding: 7px 0 7px 10px; text-align: right; vertical-align: top;
  border-bottom: 1px solid #e6e9ed; }
th { font-weight: 500; font-size: 13px; }
.numbers td { white-space: nowrap; }
.best { font-weight: 700; }
td small { display: block; font-weight: 400; }
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
  .wide { overflow: visible; }
  th, td { padding: 4px 0 4px 8px; }
  td small { font-size: 10px; white-space: normal; }
  main { max-width: none; padding: 0; }
  .keys { grid-template-columns: repeat(auto-fit, minmax(84px, 1fr)); }
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
$body
<footer>$footer</footer>
</main>
</body>
</html>
""")


class Cell(NamedTuple):
    """A cell of a table with a smaller second line, maybe marked as the best of its column."""

    text: str
    note: str = ""
    best: bool = False


def write_page(file: Path, title: str, about: str, parts: Iterable[str], footer: str) -> None:
    """Write a page; `parts` are HTML, the rest is text."""
    body = "\n".join(filter(None, parts))
    texts = {"title": escape(title), "about": escape(about), "footer": escape(footer)}
    file.write_text(_PAGE.substitute(texts, body=body), encoding="utf-8")


def figure_section(
    folder: Path, figures: Mapping[str, Figure | None], captions: Mapping[str, str]
) -> str:
    """Save the figures that could be drawn as PNG and PDF, and write them as HTML.

    Parameters
    ----------
    folder : Path
        Where they go; files of the same names that an earlier call left are removed.
    figures : Mapping[str, Figure | None]
        By name, in order; None is left out.
    captions : Mapping[str, str]
        HTML by the same names.
    """
    from matplotlib import rc_context  # here: it takes long to import

    from server_app.plotting import describe

    folder.mkdir(exist_ok=True)
    parts = []
    for name, figure in figures.items():
        image, vector = folder / f"{name}.png", folder / f"{name}.pdf"
        for file in (image, vector):
            file.unlink(missing_ok=True)
        if figure is None:
            continue
        figure.savefig(image, dpi=DPI)
        figure.set_layout_engine("none")  # laid out already
        with rc_context({"pdf.fonttype": 42}):  # TrueType, which journals ask for
            figure.savefig(vector, dpi=DPI)
        data = b64encode(image.read_bytes()).decode()
        parts.append(
            f'<figure><img alt="{escape(f"Figure of {describe(figure)}")}" '
            f'src="data:image/png;base64,{data}"><figcaption>{captions[name]}</figcaption></figure>'
        )
    return "\n".join(['<section class="figures" aria-label="Figures">', *parts, "</section>"])


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], kind: str = "numbers") -> str:
    """Write a table of ``numbers`` or ``text``; every cell is escaped."""
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = "\n".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    return (
        f'<div class="wide"><table class="{kind}"><thead><tr>{names}</tr></thead>\n'
        f"<tbody>{lines}</tbody></table></div>"
    )


def _cell(value: Any) -> str:
    cell = value if isinstance(value, Cell) else Cell(str(value))
    mark = ' class="best"' if cell.best else ""
    note = f"<small>{escape(cell.note)}</small>" if cell.note else ""
    return f"<td{mark}>{escape(cell.text)}{note}</td>"


def percent(share: float | None) -> str:
    """Write a share as a percentage; a dash stands for what was not measured."""
    return NONE if share is None else f"{100 * share:.1f} %"


def readable_bytes(count: float) -> str:
    """Write a number of bytes with three digits and a decimal unit."""
    return readable(count, ("B", "kB", "MB", "GB", "TB"))


def readable(count: float, units: Sequence[str]) -> str:
    """Write a number with three digits in one of `units`, each a thousand of the one before."""
    power = min(len(units) - 1, max(0, int(math.log10(max(count, 1) * 1.0005) / 3)))
    return f"{count / 1000**power:.3g} {units[power]}".rstrip()


def readable_flops(count: float) -> str:
    """Write a number of floating-point operations with three digits and a decimal prefix."""
    return readable(count, ("", "k", "M", "G", "T"))
