"""The source as the architecture tests see it."""

from pathlib import Path

import pytest

from tests.architecture.source import ROOMS, ROOT, Module, read_modules


@pytest.fixture(scope="session")
def modules() -> dict[str, Module]:
    """All modules by dotted name."""
    return read_modules(ROOT)


@pytest.fixture(scope="session")
def rooms() -> tuple[str, ...]:
    """Names of the rooms."""
    return ROOMS


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT
