"""The cheap thermometer of pretraining: the contact probe on the attention maps of the encoder as it is now.

At each validation it is fitted anew on the same few proteins and scored on the same ones, by the first worker alone.
"""

from proteinlm.models.alphabet import get_alphabet
from proteinlm.platform.data.manifest import read_manifest
from proteinlm.platform.data.task_shards import read_split
from proteinlm.platform.sections import ProbeSection
from proteinlm.platform.training.engine import Engine
from proteinlm.platform.training.job import Place, TrainingJob
from proteinlm.tasks.contact_precision import precision_metrics
from proteinlm.tasks.contact_probe import fit_contact_probe


class ContactThermometer:
    """Reads what an engine's encoder knows of contacts without having been told."""

    def __init__(self, section: ProbeSection, engine: Engine, seed: int, is_first_worker: bool) -> None:
        """`section.data` is a directory of shards of contact prediction."""
        manifest = read_manifest(section.data)
        self._train = read_split(section.data, manifest, "train")
        self._valid = read_split(section.data, manifest, "valid").slice(0, section.max_scored)
        self._section, self._engine, self._seed, self._is_first = section, engine, seed, is_first_worker

    @classmethod
    def of(cls, job: TrainingJob, engine: Engine, place: Place) -> "ContactThermometer | None":
        """The thermometer that the job asks for; None where it asks for none."""
        return None if job.probe is None else cls(job.probe, engine, job.seed, place.is_first)

    def read(self) -> dict[str, float]:
        """`contact_probe/<metric>` for the main precisions, on the first worker; all workers call it."""
        with self._engine.module() as model:  # ZeRO-3 gathers the weights on all workers
            if not self._is_first:
                return {}
            encoder = model.encoder.eval()
            alphabet = get_alphabet(encoder.config.alphabet)
            probe = fit_contact_probe(encoder, self._train, alphabet, self._section.num_proteins, self._seed)
            columns = probe.score(encoder, self._valid)
        return {f"contact_probe/{m.name}": m.compute(columns) for m in precision_metrics() if m.is_main}
