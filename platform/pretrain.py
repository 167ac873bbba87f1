"""`proteinlm pretrain`: masked language modelling on a corpus, from settings to a pretrained model and result rows."""

from pathlib import Path

from rich.console import Console

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.config import ModelConfig
from proteinlm.models.pretrained import content_hash_of, is_tied, load_pretrained, read_config
from proteinlm.models.sequences import letters_verdict
from proteinlm.platform.data.manifest import Manifest, read_manifest
from proteinlm.platform.labelled.split_files import SplitOptions
from proteinlm.platform.labelled.task_data import shared_task_shards
from proteinlm.platform.places.places import reach
from proteinlm.platform.settings.config import PretrainConfig
from proteinlm.platform.settings.sections import ProbeSection
from proteinlm.platform.storage.copies import kept_copy
from proteinlm.platform.storage.phases import phase
from proteinlm.platform.training.driver import hold_run, is_to_run, run_training
from proteinlm.platform.training.job import TrainingJob, check_crop, check_length, crop_notice, scored_notices
from proteinlm.tasks.contact_prediction import NAME as CONTACTS


def pretrain(config: PretrainConfig, console: Console | None = None) -> None:
    """Pretrain as `config` says, or resume the run of its directory.

    Raises ValueError or OSError for wrong input before any worker starts, StoppedError where training ends early.
    """
    manifest = check_pretrain(config)
    probe = _probe_on_shards(config)
    inputs = {"corpus": manifest.content_hash}
    if config.pretrained:
        inputs["pretrained"] = content_hash_of(kept_copy(config.pretrained))
    if probe:
        inputs["probe.data"] = read_manifest(probe.data).content_hash
    with hold_run(config):
        if not is_to_run(config, inputs, console):
            return
        job = TrainingJob.of_pretraining(config, manifest, probe)
        if console:
            tell_plan(config, manifest, job.total_steps, console)
        run_training(config, job, manifest, inputs, console)


def _probe_on_shards(config: PretrainConfig) -> ProbeSection | None:
    if config.probe is None:
        return None
    shards = shared_task_shards(CONTACTS, config.probe.data, config.storage, SplitOptions(seed=config.seed))
    return config.probe.model_copy(update={"data": shards.resolve()})


@phase("checks")
def check_pretrain(config: PretrainConfig) -> Manifest:
    """Check all inputs and return the corpus's manifest; ValueError or FileNotFoundError names what does not fit."""
    for setting, path in (("corpus", config.corpus), ("pretrained", config.pretrained), ("storage", config.storage)):
        reach(setting, path)
    manifest = read_manifest(config.corpus)
    check_corpus(config, manifest)
    check_length(config.model, config.batches)
    check_crop(config.batches, manifest.split("train"))
    if config.pretrained:
        check_start(config.model, config.pretrained)
    return manifest


def check_start(model: ModelConfig, pretrained: Path) -> None:
    """ValueError where the model in `pretrained` is not `model`, or has no language model head."""
    pretrained = kept_copy(pretrained)
    there = read_config(pretrained)
    unseen = {"preset", "initializer_range"}
    found, asked = there.model_dump(exclude=unseen), model.model_dump(exclude=unseen)
    if different := [f"{name}: {found[name]!r}, here {asked[name]!r}" for name in asked if found[name] != asked[name]]:
        raise ValueError(f"model: {pretrained} holds another model ({'; '.join(different)})")
    start = load_pretrained(pretrained)
    if start.head is None or not is_tied(start.encoder, start.head):
        raise ValueError(
            f"pretrained: {pretrained} has no language model head that scores with the encoder's own token table, with "
            "which pretraining goes on"
        )


def check_corpus(config: PretrainConfig, manifest: Manifest) -> None:
    """ValueError where the model cannot be trained on this corpus."""
    if manifest.kind != "corpus":
        raise ValueError(f"corpus: {config.corpus} holds records of the task {manifest.kind}, not a corpus")
    letters = set(manifest.split("train").residue_counts)
    if not letters:
        raise ValueError(f"corpus: the train split of {config.corpus} is empty")
    verdict = letters_verdict(manifest.split("train").residue_counts)
    if verdict and not manifest.settings.get("accept_non_protein"):
        raise ValueError(f"corpus: {config.corpus} {verdict}, or build it with accept_non_protein=true")
    unknown = letters - set(get_alphabet(config.model.alphabet).tokens)
    if unknown:
        raise ValueError(
            f"model.alphabet: {config.model.alphabet!r} has no token for {' '.join(sorted(unknown))}, "
            f"which {config.corpus} contains"
        )


def tell_plan(config: PretrainConfig, manifest: Manifest, total_steps: int, console: Console) -> None:
    """Print model, data, steps, and the losses of a model that ignores all context."""
    from proteinlm.models.config import num_parameters, shape_name
    from proteinlm.platform.results.measure import language_model_floors

    train = manifest.split("train")
    simulated = " of simulated proteins" if manifest.is_simulated else ""
    console.print(
        f"{shape_name(config.model)}, {num_parameters(config.model):,} parameters; {train.rows:,} proteins{simulated}, "
        f"{train.residues:,} residues; {total_steps:,} optimizer steps of about "
        f"{config.batches.lanes * config.batches.micro_batch_residues:,} residues"
    )
    if notice := crop_notice(config.batches, train):
        console.print(notice)
    for split in ("valid", "holdout"):
        if split in manifest.splits and manifest.split(split).rows:
            for notice in scored_notices(config.model, manifest, [split]):
                console.print(notice)
            floors = language_model_floors(manifest, split, config.objective.task_options)
            console.print(
                f"context-free floor of {split}: {floors['loss']:.4f} nats under the training mix, "
                f"{floors['masked_loss']:.4f} at <mask> alone"
            )
