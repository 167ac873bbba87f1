"""The table of tasks: each is built by its name, wrong names and options are answered with the near ones."""

import pickle

import pytest

from proteinlm.tasks.catalog import TASKS, build_task


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_built_under_its_own_name_and_travels(name):
    task = build_task(name)
    assert task.name == name
    assert pickle.loads(pickle.dumps(task)).name == name  # Ray Data sends it to other processes
    assert len({metric.name for metric in task.metrics}) == len(task.metrics)
    assert all(len(metric.definition) > 30 for metric in task.metrics)


def test_options_reach_the_builder():
    assert "30% of the residues" in build_task("masked_language_modeling", mask_fraction=0.3).metrics[0].definition


def test_an_unknown_task_is_answered_with_the_near_one():
    with pytest.raises(
        ValueError, match=r"'secondary_structur_q3' \(did you mean 'secondary_structure_q3'\?\); accepted: mask"
    ):
        build_task("secondary_structur_q3")


def test_an_unknown_option_is_answered_with_the_near_one():
    with pytest.raises(ValueError, match=r"no option 'mask_fracton' \(did you mean 'mask_fraction'\?\)"):
        build_task("masked_language_modeling", mask_fracton=0.1)
    with pytest.raises(ValueError, match="'secondary_structure_q3' has no option 'num_labels'; its options: head"):
        build_task("secondary_structure_q3", num_labels=8)


def test_splits_are_cut_down_to_those_there_are():
    task = build_task("secondary_structure_q3")
    there = task.on_splits(["train", "valid", "ts115", "cb513", "mine"])
    assert (there.valid_splits, there.test_splits) == (("valid",), ("cb513", "ts115", "mine"))
    simulated = task.on_splits(["simulated_test", "valid", "train"])
    assert simulated.test_splits == ("simulated_test",)
    assert build_task("masked_language_modeling").on_splits(["train", "valid"]).valid_splits == ("valid",)
    with pytest.raises(ValueError, match="needs a split 'train'; found cb513"):
        task.on_splits(["cb513"])
