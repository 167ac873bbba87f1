"""A sweep file is read whole: every fault of its sections and of all trials in one message, each by its dotted name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from proteinlm.platform.settings.loading import load_settings, override, validate
from proteinlm.platform.settings.yaml_text import read_yaml
from proteinlm.sweeps.planning.config import SweepConfig
from proteinlm.sweeps.planning.plan import plan_sweep

STAND_IN = "unnamed"


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> SweepConfig:
    """The sweep of the file with dotted `key=value` overrides, checked as far as its trials go.

    Raises FileNotFoundError for a missing file and ValueError with all faults in one message.
    """
    try:
        sweep = load_settings(SweepConfig, path, overrides)
    except ValueError as error:
        try:
            values = override(read_yaml(path), overrides)
        except ValueError:
            raise error from None
        raise ValueError("\n".join([str(error), *_faults_of_trials(values)])) from None
    plan_sweep(sweep)
    return sweep


def _faults_of_trials(values: Mapping[str, Any]) -> list[str]:
    """Faults of the trials of a file whose sections have faults of their own: those sections are left out."""
    whole: dict[str, Any] = {"name": STAND_IN}
    for key, field in SweepConfig.model_fields.items():
        if key in values:
            try:
                TypeAdapter[Any](field.rebuild_annotation()).validate_python(values[key])
            except ValueError:
                continue
            whole[key] = values[key]
    try:
        plan_sweep(validate(SweepConfig, whole, STAND_IN))
    except (ValueError, OSError) as error:
        return [str(error)] if STAND_IN not in str(error).splitlines()[0] else []
    return []
