"""One HTML page of results that needs no other file: style and plots are inside, and there is no script.

    tables, findings (sentences), plots (caption -> PNG or SVG file), notes (heading -> texts) -> page.html.jinja

The template escapes all text.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from proteinlm.platform.results.formatting import UNKNOWN
from proteinlm.platform.results.table_text import text_table
from proteinlm.platform.results.tables import Table

TEMPLATE = "page.html.jinja"
MEDIA = {".svg": "image/svg+xml", ".png": "image/png"}


def to_html(
    title: str,
    tables: Sequence[Table],
    findings: Sequence[str] = (),
    plots: Mapping[str, Path] | None = None,
    notes: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """The text of the page: `tables` with their remarks, `findings` (sentences), `plots` (caption -> file), `notes`
    (heading -> texts), and the notes of the tables, in this order.

    A table that has the page's own title gets no heading of its own. Raises ValueError for a plot that is neither .png
    nor .svg, and OSError where its file cannot be read.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(
        title=title,
        warnings=dict.fromkeys(table.warning for table in tables if table.warning),
        tables=[(table, text_table(table)) for table in tables],
        findings=findings,
        plots={caption: _inside(path) for caption, path in (plots or {}).items()},
        notes=notes or {},
        unknown=UNKNOWN,
    )


def _inside(path: Path) -> str:
    """The file as a data URL."""
    if path.suffix not in MEDIA:
        raise ValueError(f"cannot show {path}: the suffix is {path.suffix or 'missing'!r}, accepted are .png and .svg")
    return f"data:{MEDIA[path.suffix]};base64,{b64encode(path.read_bytes()).decode('ascii')}"
