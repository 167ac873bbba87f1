"""The table of modes knows every mode that a settings file may name."""

from typing import get_args

import pytest

from proteinlm.platform.settings.config import MODES, FinetuneConfig, Mode
from proteinlm.platform.settings.loading import SettingsError, validate

VALUES = {"name": "n", "task": "stability", "data": "d", "training": {"steps": 1}}


def test_every_mode_is_in_the_table_and_no_other() -> None:
    assert tuple(MODES) == get_args(Mode)


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_asks_for_the_weights_or_the_shape_that_it_starts_from(mode: str) -> None:
    missing = None
    try:
        validate(FinetuneConfig, VALUES | {"mode": mode}, "test")
    except SettingsError as error:
        (fault,) = error.faults
        missing = fault.text.split(":")[0]
    assert missing == {"scratch": "model", "cnn": "model", "baseline": None}.get(mode, "pretrained")
