"""The short form of the fuzzing of model directories."""

import pytest

from tests.fuzz.models import KINDS, target
from tests.fuzz.runner import fuzz

pytest.importorskip("transformers")


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_model_directories_are_read_or_refused_by_name(kind: str) -> None:
    findings = fuzz(target(kind), seconds=3, seed=1)
    assert findings.found == []
    assert findings.tries > 30
    assert findings.refusals
    assert findings.accepted
