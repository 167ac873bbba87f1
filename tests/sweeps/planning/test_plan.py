"""A sweep's settings become trials named by what determines their results, or one message with every fault."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from proteinlm.models.config import num_parameters
from proteinlm.platform.settings.config import FinetuneConfig, PretrainConfig
from proteinlm.platform.settings.loading import SettingsError, validate
from proteinlm.platform.settings.sections import settings_of_result
from proteinlm.sweeps.planning.config import SweepConfig
from proteinlm.sweeps.planning.cost import pretraining_cost
from proteinlm.sweeps.planning.plan import plan_sweep
from proteinlm.sweeps.planning.trial import Trial, identity
from tests.made.planned_sweep import BASE, FIRST, SECOND, readable, sweep
from tests.made.small_corpus import write_small_corpus


def plan_trials(config: SweepConfig) -> list[Trial]:
    return plan_sweep(config).trials


def names(**changes: Any) -> list[str]:
    return [trial.name for trial in plan_trials(sweep(**changes))]


def test_every_configuration_is_pretrained_and_every_task_is_run_on_it() -> None:
    trials = plan_trials(sweep())
    first, second = trials[0].name, trials[1].name
    assert [(readable(trial.name), trial.needs) for trial in trials] == [
        (FIRST, None),
        (SECOND, None),
        (f"{FIRST}-secondary_structure_q3-full", first),
        (f"{SECOND}-secondary_structure_q3-full", second),
        ("secondary_structure_q3-baseline", None),
    ]
    assert [trial.label for trial in trials] == [FIRST, SECOND, FIRST, SECOND, ""]
    finetuned = trials[2].config
    assert isinstance(finetuned, FinetuneConfig)
    # Tune changes the working directory of a trial, so that nothing in it may be relative.
    assert finetuned.pretrained == Path(f"runs/s/{first}/model").resolve()
    assert finetuned.directory == Path(f"runs/s/{trials[2].name}").resolve()
    assert finetuned.data == Path("d").resolve()
    assert isinstance(trials[0].config, PretrainConfig)
    assert trials[0].config.corpus == Path("c").resolve()


def test_a_name_changes_with_what_determines_the_result_and_with_nothing_else() -> None:
    before = names()
    same = {
        "storage": "elsewhere",
        "max_concurrent": 7,
        "threads_per_worker": 3,
        "pretrain": {"training": {"checkpoint_every": 2}},
        "finetune": {"cluster": {"max_failures": 1}},
    }
    assert names(**same) == before
    more = [*BASE["configurations"], {"model.hidden_size": 16}]
    assert set(before) < set(names(configurations=more))
    pretrained_anew = names(pretrain={"optimizer": {"weight_decay": 0.5}})
    assert [a == b for a, b in zip(before, pretrained_anew, strict=True)] == [False, False, False, False, True]
    finetuned_anew = names(finetune={"training": {"steps": 4}})
    assert [a == b for a, b in zip(before, finetuned_anew, strict=True)] == [True, True, False, False, False]


def another(value: Any) -> Any:
    """A value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 3 + 0.01  # a share stays one
    if isinstance(value, Path):
        return value / "other"
    return (*value, *value) if isinstance(value, tuple) else f"{value}-other"


def with_another(settings: BaseModel, name: str) -> BaseModel:
    """`settings` with another value of the dotted `name`, unchecked."""
    key, _, rest = name.partition(".")
    value = getattr(settings, key)
    return settings.model_copy(update={key: with_another(value, rest) if rest else another(value)})


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # a text that is none of the accepted ones
@pytest.mark.parametrize("number", [0, 2])
def test_every_setting_that_determines_the_result_is_in_the_name(number: int) -> None:
    config = plan_trials(sweep())[number].config
    names = {name for name, value in settings_of_result(config).items() if value not in (None, {}) and name != "seed"}
    assert {"optimizer.learning_rate", "training.steps", "batches.lanes"} < names
    assert [name for name in sorted(names) if identity(with_another(config, name)) == identity(config)] == []
    assert identity(with_another(config, "seed")) == identity(config)


def test_the_corpus_is_known_by_its_content(tmp_path: Path) -> None:
    for name, proteins in (("one", 40), ("copy", 40), ("other", 44)):
        (tmp_path / name).mkdir()
        write_small_corpus(tmp_path / name, proteins=proteins)
    one, copy, other = (names(pretrain={"corpus": str(tmp_path / name)})[0] for name in ("one", "copy", "other"))
    assert one == copy != other


def test_seeds_share_a_name_but_for_the_seed() -> None:
    trials = plan_trials(sweep(seeds=[0, 1, 2]))
    finetuned = [trial for trial in trials if trial.needs == trials[0].name]
    assert [trial.config.seed for trial in finetuned] == [0, 1, 2]
    first = finetuned[0].name
    assert {trial.configuration for trial in finetuned} == {first}
    assert {trial.config.configuration for trial in finetuned} == {first}
    assert [trial.name for trial in finetuned] == [first, f"{first}-seed-1", f"{first}-seed-2"]
    assert first in names()
    assert [trial.config.seed for trial in trials if trial.needs is None] == [0, 0, 0]  # a baseline has no seeds


def test_a_task_on_models_of_several_seeds_is_one_configuration() -> None:
    trials = plan_trials(sweep(configurations=[{"seed": seed} for seed in (0, 7)], tasks=BASE["tasks"][:1]))
    of_model, of_task = trials[:2], trials[2:]
    assert [trial.seed for trial in of_model] == [0, 7]
    assert [trial.needs for trial in of_task] == [trial.name for trial in of_model]
    assert len({trial.name for trial in of_task}) == 2
    assert {trial.configuration for trial in of_model} == {of_model[0].name}
    assert {trial.configuration for trial in of_task} == {of_task[0].name}


def test_a_model_from_elsewhere_is_known_by_its_whole_path() -> None:
    first, second = (plan_finetuning_of(f"my-{word}-test/model")[0].configuration for word in ("seed-7", "seed-8"))
    assert first != second


def plan_finetuning_of(pretrained: str) -> list[Trial]:
    finetune = {"data": "d", "pretrained": pretrained, "training": {"steps": 3}}
    values = {"name": "grid", "finetune": finetune, "tasks": [{"task": "stability", "mode": "full"}]}
    return plan_trials(validate(SweepConfig, values, "test"))


def test_a_grid_is_the_product_of_its_lists() -> None:
    grid = {"model.hidden_size": [16, 32], "model.num_hidden_layers": [1, 2]}
    trials = plan_trials(sweep(configurations=(), grid=grid))
    shapes = [t.config.model.hidden_size for t in trials if isinstance(t.config, PretrainConfig)]
    assert shapes == [16, 16, 32, 32]


def test_points_that_break_a_constraint_are_left_out_of_a_grid_and_refused_in_a_list() -> None:
    grid = {"model.hidden_size": [32, 48, 256], "model.num_attention_heads": [2, 3]}
    plan = plan_sweep(sweep(configurations=(), grid=grid, constraints={"parameters": [1e4, 1e5]}))
    pretrained = [t.config.model for t in plan.trials if isinstance(t.config, PretrainConfig)]
    assert [(model.hidden_size, model.num_attention_heads) for model in pretrained] == [(32, 2), (48, 2), (48, 3)]
    assert all(1e4 <= num_parameters(model) <= 1e5 for model in pretrained)
    assert len(plan.left_out) == 3
    assert "3 heads do not divide a width of 32" in plan.left_out[0]
    with pytest.raises(SettingsError, match=r"model: [0-9,]+ parameters; constraints.parameters") as caught:
        plan_sweep(sweep(constraints={"parameters": [1e4, 1e5]}))
    assert [fault.source for fault in caught.value.faults] == ["configurations[1]"]


def test_draws_depend_on_their_seed_and_number_alone() -> None:
    space = {
        "model.hidden_size": {"choice": [32, 64, 96]},
        "model.num_attention_heads": {"randint": [1, 5]},
        "optimizer.learning_rate": {"loguniform": [1e-4, 1e-1]},
        "optimizer.weight_decay": {"uniform": [0.0, 0.2]},
    }
    few, many = (
        plan_trials(sweep(configurations=(), search={"trials": count, "space": space}, tasks=())) for count in (4, 12)
    )
    assert [trial.name for trial in many[:4]] == [trial.name for trial in few]
    assert len(many) == 12
    for trial in many:
        assert isinstance(trial.config, PretrainConfig)
        assert trial.config.model.hidden_size % trial.config.model.num_attention_heads == 0
        assert 1e-4 <= trial.config.optimizer.learning_rate <= 1e-1
        assert 0 <= trial.config.optimizer.weight_decay <= 0.2
    others = plan_trials(sweep(configurations=(), search={"trials": 4, "space": space, "seed": 1}, tasks=()))
    assert not {trial.name for trial in others} & {trial.name for trial in many}


def test_a_search_without_a_way_out_is_given_up() -> None:
    space = {"model.hidden_size": {"choice": [33]}, "model.num_attention_heads": {"choice": [2]}}
    with pytest.raises(ValueError, match="search: 0 of 2 configurations keep the constraints in 400 draws"):
        plan_sweep(sweep(configurations=(), search={"trials": 2, "space": space}))


def test_equal_training_flops_for_all(tmp_path: Path) -> None:
    write_small_corpus(tmp_path)
    changes = {"constraints": {"training_flops": 2e12}, "pretrain": {"corpus": str(tmp_path)}}
    trials = [trial for trial in plan_trials(sweep(**changes)) if isinstance(trial.config, PretrainConfig)]
    spent = [
        pretraining_cost(trial.config).training_flops for trial in trials if isinstance(trial.config, PretrainConfig)
    ]
    assert spent == pytest.approx([2e12, 2e12], rel=0.05)
    assert trials[0].config.training.steps > trials[1].config.training.steps  # type: ignore[operator]
    budgets = {"training_flops": [1e12, 4e12], "model.hidden_size": [32]}
    trials = plan_trials(sweep(configurations=(), grid=budgets, tasks=(), pretrain={"corpus": str(tmp_path)}))
    steps = [trial.config.training.steps for trial in trials]
    assert steps[1] == pytest.approx(4 * steps[0], rel=0.05)  # type: ignore[operator]
    assert [readable(trial.name).rsplit("-", 1)[1] for trial in trials] == ["1e12", "4e12"]


def test_tasks_alone_run_on_a_model_from_elsewhere() -> None:
    finetune = {"data": "d", "pretrained": "runs/x/model", "training": {"steps": 3}}
    trials = plan_trials(
        validate(
            SweepConfig,
            {
                "name": "grid",
                "finetune": finetune,
                "tasks": [{"task": "all", "mode": "full"}, {"task": "stability", "mode": "baseline"}],
                "finetune_grid": {"optimizer.learning_rate": [1e-3, 1e-4]},
                "seeds": [0, 1],
            },
            "test",
        )
    )
    assert len(trials) == 6 * 2 * 2 + 1
    assert {trial.needs for trial in trials} == {None}
    assert {trial.config.optimizer.learning_rate for trial in trials if trial.config.seed == 1} == {1e-3, 1e-4}
    assert any(trial.name.startswith("stability-full-learning_rate-0.0001-") for trial in trials)
    assert len({trial.name for trial in trials}) == len(trials)


def test_all_faults_are_said_at_once() -> None:
    with pytest.raises(ValueError, match="num_attention_heads") as caught:
        plan_trials(
            sweep(
                configurations=[{"model.num_attention_heads": 3}, {"model.hiden_size": 64}],
                tasks=[{"task": "secondary_structure_q3", "mode": "half"}],
            )
        )
    message = str(caught.value)
    for words in ("configurations[0]", "configurations[1]", "hiden_size", "hidden_size", "tasks[0]", "half"):
        assert words in message


def test_a_fault_says_which_entry_of_the_file_it_is_in() -> None:
    tasks = [{"task": "all"}, {"task": "stability", "mode": "half"}]
    configurations = [{"model.hidden_size": width, "training.steps": -5} for width in (32, 64, 96, 128)]
    with pytest.raises(SettingsError) as caught:
        plan_trials(sweep(configurations=configurations, tasks=tasks))
    shared, of_task = caught.value.faults
    assert (shared.name, shared.source) == (
        "training.steps",
        "configurations[0], configurations[1], configurations[2] and 1 others",
    )
    assert (of_task.name, of_task.source) == ("mode", "tasks[1]")
