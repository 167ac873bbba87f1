"""The page: whole, escaped, and with nothing outside itself."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from proteinlm.platform.results.table_export import to_html
from proteinlm.sweeps.results.gather import sweep_table
from proteinlm.sweeps.results.runs import SweepResults
from tests.made.sweep_results import HOSTILE, small_results

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Words, sources of pictures and cells of a page; open elements in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words = ""
        self.sources: list[str] = []
        self.open: list[str] = []
        self.tags: list[str] = []
        self.classes: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open += [] if tag in VOID else [tag]
        self.sources += [value or "" for name, value in attributes if name in ("src", "href")]
        self.classes += [(tag, value or "") for name, value in attributes if name == "class"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data if self.open[-1:] != ["style"] else ""


def page_of(results: SweepResults, findings: Sequence[str] = (), plots: Mapping[str, Path] | None = None) -> str:
    table = sweep_table(results)
    return to_html(table.title, [table], findings, plots)


@pytest.fixture
def plot(tmp_path: Path) -> Path:
    (tmp_path / "loss.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    return tmp_path / "loss.svg"


def test_the_page_is_whole_and_says_everything(plot: Path) -> None:
    finding = "Depth <matters> & width does not."
    text = page_of(small_results(), [finding], {"Loss against <compute>": plot})
    page = Page(text)
    assert page.open == []
    assert not {"script", "link", "not", "matters", "compute"} & set(page.tags)
    for words in (HOSTILE, finding, "Loss against <compute>", "hidden-128-layer-2-head-2 (failed) [1]", "± 0.020"):
        assert words in page.words
    assert "every pair counts twice" in page.words
    assert "DEFINITIONS DIFFER" in page.words
    assert page.tags.count("tr") == 1 + 4 + 2
    assert page.tags.count("td") + page.tags.count("th") == 7 * 9 - 8, (
        "all rows are full, the paper's heading is one cell"
    )
    assert page.tags.count("b") == 4
    assert "prefers-color-scheme: dark" in text
    assert "overflow-x: auto" in text


def test_plots_are_inside(plot: Path) -> None:
    page = Page(page_of(small_results(), plots={"loss": plot}))
    (source,) = page.sources
    head, data = source.split(",")
    assert head == "data:image/svg+xml;base64"
    assert base64.b64decode(data) == plot.read_bytes()
    with pytest.raises(ValueError, match=r"suffix is '\.pdf', accepted are \.png and \.svg"):
        page_of(small_results(), plots={"loss": plot.with_suffix(".pdf")})


def test_simulated_proteins_are_said_at_the_top() -> None:
    assert "SIMULATED" not in Page(page_of(small_results())).words
    page = Page(page_of(replace(small_results(), is_simulated=True)))
    assert page.words.index("SIMULATED") < page.words.index("hidden-64")
