"""The table of a sweep as one page of HTML that needs nothing beside it: style and pictures are inside, no script.

SweepResults (text.text_table), pictures (caption -> PNG or SVG file), findings (sentences) -> to_html -> text
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from proteinlm.sweeps.results.text import NOTHING, PAPER_HEADING, Cell, TextTable, all_notes, text_table, title
from proteinlm.sweeps.results.values import SweepResults

MEDIA = {".svg": "image/svg+xml", ".png": "image/png"}
NUM_TEXT_COLUMNS = 2
"""Configuration and mode; all other columns are figures."""
STYLE = """
:root { color-scheme: light dark; --text: #1a1a1a; --page: #ffffff; --faint: #5c5c5c; --rule: #d5d5d5;
  --band: #f5f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e6e6; --page: #16181b; --faint: #a3a7ad; --rule: #3a3e44; --band: #1f2226; }
}
body { margin: 0 auto; max-width: 80rem; padding: 1.5rem; font: 16px/1.5 system-ui, sans-serif; color: var(--text);
  background: var(--page); }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.findings p { max-width: 48rem; }
.warning { border: 2px solid #d55e00; padding: 0.5rem 0.8rem; font-weight: 600; }
.scroll { overflow-x: auto; border: 1px solid var(--rule); border-radius: 6px; }
table { border-collapse: collapse; font-size: 0.82rem; font-variant-numeric: tabular-nums; white-space: nowrap; }
caption { caption-side: top; text-align: left; padding: 0.6rem 0.8rem; color: var(--faint); }
th, td { padding: 0.32rem 0.7rem; text-align: right; border-bottom: 1px solid var(--rule); }
thead th { vertical-align: bottom; border-bottom: 2px solid var(--text); }
th.name, td.name { text-align: left; }
tbody th.name { position: sticky; left: 0; background: var(--page); font-weight: 400; }
tbody.paper th.name { background: var(--band); }
td.best { font-weight: 700; }
tr.unfinished { color: var(--faint); }
tbody.paper { background: var(--band); }
tbody.paper .heading { text-align: left; font-style: italic; font-weight: 400; border-top: 2px solid var(--text); }
.heading span { position: sticky; left: 0.7rem; }
figure { margin: 1.5rem 0; } figcaption { color: var(--faint); font-size: 0.9rem; }
img { max-width: 100%; height: auto; background: #ffffff; border-radius: 6px; }
.notes { font-size: 0.85rem; color: var(--faint); } .notes li { margin: 0.3rem 0; overflow-wrap: anywhere; }
"""


def to_html(
    results: SweepResults,
    pictures: Mapping[str, Path],
    findings: Sequence[str],
    more: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """The page; `pictures`: caption -> file; `more`: heading -> texts, below the pictures.

    ValueError for a picture that is neither .png nor .svg.
    """
    table = text_table(results)
    warning = '<p class="warning">The proteins are SIMULATED: no figure says anything about real ones.</p>'
    notes = [
        *(more or {}).items(),
        ("How it was measured", all_notes(results)),
        ("The paper's figures", results.paper_notes),
    ]
    parts = [
        "<!DOCTYPE html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title(results))}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{STYLE}</style></head><body>",
        f"<h1>{escape(title(results))}</h1>",
        warning if results.is_simulated else "",
        _table(results, table),
        _list("Remarks", table.footnotes, "ol"),
        _findings(findings),
        *(_picture(caption, path) for caption, path in pictures.items()),
        *(_list(heading, texts, "ul") for heading, texts in notes),
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _findings(findings: Sequence[str]) -> str:
    paragraphs = "\n".join(f"<p>{escape(text)}</p>" for text in findings)
    return f'<section class="findings"><h2>What it says</h2>\n{paragraphs}</section>' if findings else ""


def _table(results: SweepResults, table: TextTable) -> str:
    heads = "".join(_cell("th", escape(head), place, ' scope="col"') for place, head in enumerate(table.heads))
    states = [line.state for line in results.lines]
    ours = "\n".join(
        _row(row, "" if state == "finished" else ' class="unfinished"')
        for row, state in zip(table.rows, states, strict=True)
    )
    caption = "Best of a column in bold; mean ± standard deviation over seeds; a number in brackets is a remark below."
    parts = [
        f'<div class="scroll" tabindex="0"><table><caption>{escape(caption)}</caption>',
        f"<thead><tr>{heads}</tr></thead>",
        f"<tbody>{ours}</tbody>",
    ]
    if table.paper_rows:
        heading = f'<th class="heading" colspan="{len(table.heads)}"><span>{escape(PAPER_HEADING)}</span></th>'
        theirs = "\n".join(_row(row, "") for row in table.paper_rows)
        parts.append(f'<tbody class="paper"><tr>{heading}</tr>\n{theirs}</tbody>')
    return "\n".join([*parts, "</table></div>"])


def _row(row: Sequence[Cell], attributes: str) -> str:
    cells = []
    for place, cell in enumerate(row):
        text = escape("–" if cell.text == NOTHING else cell.text)
        tag, more = ("th", ' scope="row"') if place == 0 else ("td", ' class="best"' if cell.is_best else "")
        cells.append(_cell(tag, text, place, more))
    return f"<tr{attributes}>{''.join(cells)}</tr>"


def _cell(tag: str, text: str, place: int, attributes: str) -> str:
    name = ' class="name"' if place < NUM_TEXT_COLUMNS else ""
    return f"<{tag}{name}{attributes}>{text}</{tag}>"


def _list(heading: str, texts: Sequence[str], tag: str) -> str:
    items = "\n".join(f"<li>{escape(text)}</li>" for text in texts)
    return f'<section class="notes"><h2>{escape(heading)}</h2>\n<{tag}>{items}</{tag}></section>' if texts else ""


def _picture(caption: str, path: Path) -> str:
    if path.suffix not in MEDIA:
        raise ValueError(f"cannot show {path}: the suffix is {path.suffix or 'missing'!r}, accepted are .png and .svg")
    data = b64encode(path.read_bytes()).decode("ascii")
    source = f"data:{MEDIA[path.suffix]};base64,{data}"
    said = escape(caption)
    return f'<figure><img src="{source}" alt="{said}"><figcaption>{said}</figcaption></figure>'
