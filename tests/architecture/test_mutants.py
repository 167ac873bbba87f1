"""The mutants of tests/made/mutations.py have their place in the source of today, so that the table does not rot."""

from pathlib import Path

import pytest

from tests.made.mutations import MUTANTS, Mutant
from tests.mutants import mutated


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.number}")
def test_a_mutant_changes_one_place_and_is_still_python(mutant: Mutant, root: Path) -> None:
    source = (root / mutant.file).read_text()
    changed = mutated(source, mutant)
    assert changed != source
    compile(changed, mutant.file, "exec")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.number}")
def test_the_tests_of_a_mutant_are_there(mutant: Mutant, root: Path) -> None:
    for test in (one for one in mutant.tests if one.startswith("tests/")):
        file, _, name = test.partition("[")[0].partition("::")
        assert f"def {name}(" in (root / file).read_text() if name else (root / file).is_file(), test


def test_each_mutant_is_there_once_with_its_number() -> None:
    assert [mutant.number for mutant in MUTANTS] == list(range(1, len(MUTANTS) + 1))
    assert len({(mutant.file, mutant.old, mutant.new) for mutant in MUTANTS}) == len(MUTANTS)


def test_a_stale_mutant_is_named() -> None:
    mutant = Mutant(7, "what", "models/x.py", "a = 1", "a = 2", ())
    assert mutated("b = 0; a = 1", mutant) == "b = 0; a = 2"
    for source in ("a = 3", "a = 1; a = 1"):
        with pytest.raises(ValueError, match=r"mutant 7 is stale: models/x\.py has its old text [02] times"):
            mutated(source, mutant)
