"""The table of settings: every setting is in it with what it takes, and the committed page is current."""

from typing import Annotated, Literal

from pydantic import Field

from proteinlm.cli import settings_models
from proteinlm.platform.settings.loading import _names
from proteinlm.platform.settings.reference import Setting, settings_of, to_markdown
from proteinlm.platform.settings.sections import Section
from tests.conftest import ROOT


class Inner(Section):
    depth: int = Field(2, ge=1, lt=9)
    """How deep."""


class Outer(Section):
    name: str
    rates: tuple[Annotated[float, Field(gt=0)], ...] = (0.5,)
    """Several,
    on two lines."""
    kind: Literal["a", "b"] | None = None
    inner: Inner = Inner()
    maybe: Inner | None = None
    """Not always there."""


def test_every_setting_says_what_it_takes() -> None:
    assert list(settings_of(Outer)) == [
        Setting("name", "text", "must be given", ""),
        Setting("rates", "list of number, above 0", "[0.5]", "Several, on two lines."),
        Setting("kind", "'a' or 'b' or null", "null", ""),
        Setting("inner.depth", "whole number, at least 1, below 9", "2", "How deep."),
        Setting("maybe", "a section, or null", "null", "Not always there."),
        Setting("maybe.depth", "whole number, at least 1, below 9", "2", "How deep."),
    ]


def test_no_setting_of_a_verb_is_left_out() -> None:
    for model in settings_models().values():
        listed = {one.name for one in settings_of(model)}
        names = set(_names(model))
        sections = {name for name in names if any(other.startswith(f"{name}.") for other in names)}
        in_a_map = {name for name in names if name.startswith("search.space.")}
        assert names - sections - in_a_map <= listed <= names


def test_the_committed_page_is_current() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    assert page == to_markdown(settings_models()), "run `make settings` and commit docs/settings.md"


def test_every_setting_says_what_it_means() -> None:
    silent = {one.name for model in settings_models().values() for one in settings_of(model) if not one.meaning}
    assert silent == set()
