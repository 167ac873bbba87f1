"""All tasks: a table from a task's name to the function that builds it. A new task is one line here and one file."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from functools import partial

from proteinlm.tasks.contact_prediction import contact_prediction
from proteinlm.tasks.fluorescence_stability import fluorescence, stability
from proteinlm.tasks.masked_language_modeling import masked_language_modeling
from proteinlm.tasks.remote_homology import remote_homology
from proteinlm.tasks.secondary_structure import secondary_structure
from proteinlm.tasks.task import Task

TASKS: Mapping[str, Callable[..., Task]] = {
    "masked_language_modeling": masked_language_modeling,
    "secondary_structure_q3": partial(secondary_structure, num_labels=3),
    "secondary_structure_q8": partial(secondary_structure, num_labels=8),
    "contact_prediction": contact_prediction,
    "remote_homology": remote_homology,
    "fluorescence": fluorescence,
    "stability": stability,
}

TAPE_TASKS = (
    "secondary_structure_q3",
    "secondary_structure_q8",
    "contact_prediction",
    "remote_homology",
    "fluorescence",
    "stability",
)
"""The five tasks of TAPE (Rao et al. 2019), secondary structure with three and with eight classes."""


def build_task(name: str, **options: object) -> Task:
    """The task `name` built with `options` (such as mask_fraction); ValueError names the near and the accepted ones."""
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}{_near(name, TASKS)}; accepted: {', '.join(TASKS)}")
    builder = TASKS[name]
    fixed = builder.keywords if isinstance(builder, partial) else {}
    accepted = [option for option in inspect.signature(builder).parameters if option not in fixed]
    for option in options:
        if option not in accepted:
            offered = ", ".join(accepted) or "none"
            raise ValueError(f"task {name!r} has no option {option!r}{_near(option, accepted)}; its options: {offered}")
    return builder(**options)


def _near(name: str, accepted: Mapping[str, object] | list[str]) -> str:
    near = difflib.get_close_matches(name, list(accepted), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
