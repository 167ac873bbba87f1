"""A finetuning trial waits for its own pretraining, and for nothing else."""

from ray.tune.search import Searcher

from proteinlm.sweeps.plan import plan_trials
from proteinlm.sweeps.search import RoadSearcher
from tests.sweeps.test_plan import sweep

FIRST, SECOND = "hidden-32-layer-2-head-2", "hidden-64-layer-2-head-2-learning_rate-0.01"
TASK = "-secondary_structure_q3-full"


def searcher(*finished: str) -> RoadSearcher:
    return RoadSearcher(plan_trials(sweep()), set(finished))


def suggested(search: RoadSearcher, trial_id: str) -> object:
    config = search.suggest(trial_id)
    return config["trial"] if isinstance(config, dict) else config


def test_finetuning_starts_as_soon_as_its_own_model_is_there() -> None:
    search = searcher()
    assert suggested(search, "a") == FIRST
    assert suggested(search, "b") == SECOND
    assert suggested(search, "c") == "secondary_structure_q3-baseline"
    assert suggested(search, "d") is None
    search.on_trial_complete("b")
    assert suggested(search, "e") == SECOND + TASK
    assert suggested(search, "f") is None
    search.on_trial_complete("a")
    assert suggested(search, "g") == FIRST + TASK
    assert suggested(search, "h") == Searcher.FINISHED


def test_what_needs_a_failed_trial_is_never_run() -> None:
    search = searcher("secondary_structure_q3-baseline", SECOND)
    assert suggested(search, "a") == FIRST
    search.on_trial_complete("a", error=True)
    assert suggested(search, "b") == SECOND + TASK
    assert suggested(search, "c") == Searcher.FINISHED
