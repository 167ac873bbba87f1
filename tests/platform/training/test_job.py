"""What a worker is told: a value that travels, made from a verb's settings, and how it reads the rows of a split."""

from pathlib import Path

from proteinlm.platform.settings.config import FinetuneConfig, PretrainConfig
from proteinlm.platform.settings.loading import validate
from proteinlm.platform.training.job import TrainingJob, batch_plan, longest_scored
from tests.made.jobs import SHAPE, job
from tests.made.small_corpus import write_small_corpus


def test_a_job_travels_as_plain_values() -> None:
    assert TrainingJob.model_validate(job().model_dump(mode="json")) == job()


def test_scoring_never_crops_what_the_model_can_take() -> None:
    assert longest_scored(SHAPE) > 100_000
    learned = SHAPE.model_copy(update={"position": "learned", "max_positions": 512})
    assert longest_scored(learned) == 510


def test_long_proteins_are_cropped_in_training_alone(tmp_path: Path) -> None:
    manifest = write_small_corpus(tmp_path)
    run = job(batches={"max_length": 50, "crop": "start"})
    lengths = [
        run.reading(manifest.split(split), seed=0, is_training=split == "train").max_length
        for split in ("train", "valid")
    ]
    assert lengths[0] == 50
    assert lengths[1] > 100_000


def test_the_order_of_a_jobs_batches_follows_its_settings(tmp_path: Path) -> None:
    train = write_small_corpus(tmp_path).split("train")
    section = {"lanes": 3, "micro_batch_residues": 700, "max_length": 50, "draw": "random"}
    plan = batch_plan(job(batches=section, seed=5), train)
    assert (plan.seed, plan.lanes, plan.micro_batch_residues, plan.draw, plan.max_length) == (5, 3, 700, "random", 50)
    assert plan.window(0).draw == "random"
    assert batch_plan(job(), train).draw == "by_length"


def test_a_job_of_pretraining_has_what_its_settings_say(tmp_path: Path) -> None:
    manifest = write_small_corpus(tmp_path / "corpus")
    values = {
        "name": "deep",
        "seed": 3,
        "storage": str(tmp_path),
        "corpus": str(tmp_path / "corpus"),
        "model": SHAPE.model_dump(),
        "objective": {"mask_fraction": 0.2, "training_mask_fraction": 0.4},
        "training": {"epochs": 2.0},
        "batches": {"lanes": 1, "micro_batch_residues": 200, "max_length": 100},
    }
    config = validate(PretrainConfig, values, "test")
    made = TrainingJob.of_pretraining(config, manifest, None)
    assert (made.verb, made.mode, made.task) == ("pretrain", "pretrain", "masked_language_modeling")
    assert (made.seed, made.directory, made.data) == (3, tmp_path / "deep", tmp_path / "corpus")
    assert made.task_options["mask_fraction"] == 0.2
    assert made.task_options["training_mask_fraction"] == 0.4
    assert (made.batches, made.model, made.pretrained) == (config.batches, SHAPE, None)
    steps = made.total_steps
    assert steps > 2
    by_steps = config.model_copy(update={"training": config.training.model_copy(update={"steps": 7, "epochs": None})})
    assert TrainingJob.of_pretraining(by_steps, manifest, None).total_steps == 7
    half = config.model_copy(update={"training": config.training.model_copy(update={"epochs": 1.0})})
    assert TrainingJob.of_pretraining(half, manifest, None).total_steps * 2 == steps


def test_only_what_a_mode_uses_is_in_a_job_of_finetuning(tmp_path: Path) -> None:
    manifest = write_small_corpus(tmp_path / "data")
    values = {"name": "n", "task": "stability", "data": "x", "pretrained": str(tmp_path), "training": {"steps": 1}}
    found = {}
    for mode in ("full", "lora", "scratch"):
        config = validate(FinetuneConfig, values | {"mode": mode}, "test")
        found[mode] = TrainingJob.of_finetuning(config, manifest, tmp_path / "data", SHAPE)
    assert [made.pretrained for made in found.values()] == [tmp_path, tmp_path, None]
    assert [made.lora is not None for made in found.values()] == [False, True, False]
