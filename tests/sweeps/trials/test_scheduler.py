"""A finetuning trial waits for its own pretraining and for room, and for nothing else."""

import math
from typing import Any

from ray.tune.search import Searcher

from proteinlm.sweeps.planning.plan import plan_sweep
from proteinlm.sweeps.planning.trial import Trial
from proteinlm.sweeps.trials.halving import Halving
from proteinlm.sweeps.trials.scheduler import Resources, TrialQueue
from tests.made.planned_sweep import FIRST, SECOND, readable, sweep

TASK = "-secondary_structure_q3-full"
BASELINE = "secondary_structure_q3-baseline"
PLAN = plan_sweep(sweep()).trials


MUCH, ONE_CPU = Resources(8, 0, 8), Resources(1, 0)


def queue(*finished: str, resources: Resources = MUCH, each: Resources = ONE_CPU, **more: Any) -> TrialQueue:
    done = {trial.name for trial in PLAN if readable(trial.name) in finished}
    return TrialQueue(PLAN, done, resources, {trial.name: each for trial in PLAN}, **more)


def suggested(search: TrialQueue, trial_id: str) -> object:
    told = search.suggest(trial_id)
    return readable(told["trial"]) if isinstance(told, dict) else told


def test_finetuning_starts_as_soon_as_its_own_model_is_there() -> None:
    search = queue()
    assert [suggested(search, key) for key in "abcd"] == [FIRST, SECOND, BASELINE, None]
    search.on_trial_complete("b", {"done": True})
    assert [suggested(search, key) for key in "ef"] == [SECOND + TASK, None]
    for key in "ce":
        search.on_trial_complete(key, {"done": True})
    assert suggested(search, "g") is None  # a is running still
    search.on_trial_complete("a", {"done": True})
    assert [suggested(search, key) for key in "hi"] == [FIRST + TASK, None]
    search.on_trial_complete("h", {"done": True})
    assert suggested(search, "j") == Searcher.FINISHED


def test_finetuning_comes_before_other_pretraining() -> None:
    search = queue(resources=Resources(1, 0, 8))
    assert [suggested(search, key) for key in "ab"] == [FIRST, None]
    search.on_trial_complete("a", {"done": True})
    assert suggested(search, "c") == FIRST + TASK


def test_no_trial_is_started_without_room_for_its_workers() -> None:
    for resources, each, fitting in (
        (Resources(1, 0, 8), Resources(0.5, 0), 2),
        (Resources(1, 0, 1), Resources(0.5, 0), 1),
        (Resources(9, 4, 8), Resources(1, 2), 2),
        (Resources(math.inf, math.inf, 3), Resources(4, 8), 3),
    ):
        search = queue(resources=resources, each=each)
        assert [suggested(search, key) is not None for key in "abc"] == [place < fitting for place in range(3)]
        search.on_trial_complete("a", {"done": True})
        assert suggested(search, "d") is not None


def test_what_needs_a_failed_trial_is_never_run() -> None:
    search = queue(BASELINE, SECOND)
    assert suggested(search, "a") == SECOND + TASK
    assert suggested(search, "b") == FIRST
    search.on_trial_complete("b", {"failed": "out of memory"})
    search.on_trial_complete("a", {"done": True})
    assert suggested(search, "c") == Searcher.FINISHED


def test_a_trial_whose_process_died_goes_on_and_is_given_up_in_the_end() -> None:
    given_up: list[tuple[str, int]] = []
    search = queue(
        BASELINE, SECOND, SECOND + TASK, max_failures=2, give_up=lambda name, times: given_up.append((name, times))
    )
    for key in "abc":
        assert suggested(search, key) == FIRST
        search.on_trial_complete(key, error=True)
    assert [(readable(name), times) for name, times in given_up] == [(FIRST, 3)]
    assert suggested(search, "d") == Searcher.FINISHED


def pretraining(search: TrialQueue, trial_id: str) -> Trial | None:
    told = search.suggest(trial_id)
    if not isinstance(told, dict):
        return None
    return next(trial for trial in PLAN if trial.name == told["trial"])


def test_halving_pauses_pretraining_and_lets_the_better_half_go_on() -> None:
    names = [trial.name for trial in PLAN[:2]]
    losses = {names[0]: 2.7, names[1]: 2.6}
    halving = Halving(dict.fromkeys(names, (3,)), 0.5, asynchronous=False)
    search = queue(BASELINE, halving=halving, loss_after=lambda name, step: losses[name] if step == 3 else math.nan)
    told = [search.suggest(key) for key in "ab"]
    assert [one["values"]["training"]["pause_at"] for one in told if isinstance(one, dict)] == [3, 3]
    search.on_trial_complete("a", {"paused": 3})
    assert search.suggest("c") is None
    search.on_trial_complete("b", {"paused": 3})
    on = search.suggest("d")
    assert isinstance(on, dict)
    assert (readable(on["trial"]), on["values"]["training"]["pause_at"]) == (SECOND, None)
    search.on_trial_complete("d", {"done": True})
    assert suggested(search, "e") == SECOND + TASK
    search.on_trial_complete("e", {"done": True})
    assert suggested(search, "f") == Searcher.FINISHED
    assert [readable(name) for name in halving.paused()] == [FIRST]


def test_a_trial_at_rest_stays_so_after_a_crash() -> None:
    names = [trial.name for trial in PLAN[:2]]
    halving = Halving(dict.fromkeys(names, (3,)), 0.5, asynchronous=False)
    halving.restore(names[1], [2.6], is_finished=False)
    search = queue(BASELINE, halving=halving, loss_after=lambda name, step: 2.7)
    assert [suggested(search, key) for key in "ab"] == [FIRST, None]
    search.on_trial_complete("a", {"paused": 3})
    assert suggested(search, "c") == SECOND


def test_after_its_end_was_asked_for_nothing_more_starts_and_what_stopped_is_neither_finished_nor_failed() -> None:
    search = queue()
    assert suggested(search, "a") == FIRST
    search.end()
    assert search.suggest("b") is None
    assert [readable(name) for name in search.running()] == [FIRST]
    search.on_trial_complete("a", {"stopped": 3})
    assert search.running() == []
    assert search.suggest("c") == Searcher.FINISHED
