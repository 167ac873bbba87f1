"""Simulated proteins: the same for a seed, well formed, split by clan, and with signal, measured without a model."""

import gzip
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from proteinlm.models.alphabet import STANDARD_AMINO_ACIDS
from proteinlm.platform.labelled.files import TEST_SPLIT, is_simulated
from proteinlm.platform.labelled.split_files import SplitOptions
from proteinlm.platform.labelled.task_data import build_task_shards, read_split
from proteinlm.platform.simulated.families import SS3_OF_STRUCTURE, STRUCTURES, profiles, substitutions
from proteinlm.platform.simulated.proteins import Simulated, simulate
from proteinlm.tasks.baselines import fit_baselines
from proteinlm.tasks.catalog import build_task
from proteinlm.tasks.metrics import evaluate

CLASS_OF_THREE = {"G": 0, "H": 0, "I": 0, "B": 1, "E": 1, "S": 2, "T": 2, "C": 2}
SPLITS = ("train", "valid", TEST_SPLIT)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Simulated:
    return simulate(tmp_path_factory.mktemp("simulated"), num_families=60, proteins_per_family=12, seed=4)


def read_fasta(path: Path) -> list[tuple[str, str]]:
    lines = path.read_text().splitlines()
    return list(zip(lines[::2], lines[1::2], strict=True))


def read_task(made: Simulated, split: str) -> list[dict]:
    with gzip.open(made.directory / f"secondary_structure_{split}.jsonl.gz", "rt") as file:
        return [json.loads(line) for line in file]


def as_numbers(sequence: str) -> np.ndarray:
    return np.array([STANDARD_AMINO_ACIDS.index(letter) for letter in sequence])


def entropy(counts: np.ndarray) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def conditional_entropy(pairs: np.ndarray) -> float:
    """Nats of the column, given the row, of a table of counts."""
    return entropy(pairs.ravel()) - entropy(pairs.sum(1))


def test_the_fasta_has_pfam_headers_and_only_amino_acids(made):
    records = read_fasta(made.fasta)
    assert len(records) == made.num_proteins == 60 * 12
    assert sum(len(sequence) for _, sequence in records) == made.num_residues
    name, again, family = records[0][0][1:].split()
    assert name == again == f"SIM0001M00001_SIMUL/1-{len(records[0][1])}"
    assert family == "PF90001.1;Simulated-1;"
    assert len({header.split()[0] for header, _ in records}) == len(records)
    assert set("".join(sequence for _, sequence in records)) == set(STANDARD_AMINO_ACIDS)
    assert 40 <= min(len(sequence) for _, sequence in records) <= max(len(sequence) for _, sequence in records) <= 160


def test_the_clans_file_has_pfams_five_columns(made):
    rows = [line.split("\t") for line in made.clans.read_text().splitlines()]
    assert [row[0] for row in rows] == [f"PF{90001 + family}" for family in range(60)]
    assert {len(row) for row in rows} == {5}
    sizes = defaultdict(int)
    for row in rows:
        sizes[row[1]] += 1
    assert sizes.pop("") > 3
    assert len(sizes) == made.num_clans
    assert min(sizes.values()) >= 2


def test_the_same_arguments_give_the_same_bytes_and_another_seed_others(tmp_path):
    folders = [
        simulate(tmp_path / str(i), num_families=4, proteins_per_family=3, seed=seed)
        for i, seed in enumerate([1, 1, 2])
    ]
    files = [{path.name: path.read_bytes() for path in sorted(made.directory.iterdir())} for made in folders]
    assert files[0] == files[1]
    assert files[0]["simulated.fasta"] != files[2]["simulated.fasta"]
    assert files[0]["secondary_structure_train.jsonl.gz"][4:8] == bytes(4)  # no time of day in the gzip header
    assert set(files[0]) == {"SIMULATED.txt", "simulated.fasta", "clans.tsv"} | {
        f"secondary_structure_{split}.jsonl.gz" for split in SPLITS
    }


def test_everything_is_marked_as_simulated(made, tmp_path):
    assert is_simulated(made.directory)
    assert is_simulated(made.fasta)
    assert not is_simulated(tmp_path)
    assert "not real" in (made.directory / "SIMULATED.txt").read_text()


def test_no_clan_of_the_test_split_is_in_train(made):
    clans = {row[0]: row[1] or row[0] for row in (line.split("\t") for line in made.clans.read_text().splitlines())}
    groups = {split: {clans[record["family"]] for record in read_task(made, split)} for split in SPLITS}
    assert all(groups.values())
    assert not groups["train"] & groups[TEST_SPLIT]
    assert not groups["train"] & groups["valid"]
    assert not groups["valid"] & groups[TEST_SPLIT]
    assert {split: len(read_task(made, split)) for split in SPLITS} == made.task_proteins


def test_the_records_are_the_proteins_of_the_fasta(made):
    sequences = {header[1:].split("/")[0]: sequence for header, sequence in read_fasta(made.fasta)}
    for record in read_task(made, "valid"):
        assert record["primary"] == sequences[record["id"]]
        assert record["ss3"] == [CLASS_OF_THREE[STRUCTURES[label]] for label in record["ss8"]]
        assert 0 < sum(record["valid_mask"]) <= len(record["valid_mask"]) == record["protein_length"]
    assert {record["valid_mask"][0] for record in read_task(made, "train")} == {0, 1}
    assert {record["valid_mask"][-1] for record in read_task(made, "train")} == {0, 1}
    assert {label for record in read_task(made, "train") for label in record["ss8"]} == set(range(8))


def test_relatives_tell_about_a_residue(made):
    """Proteins of one family share far more 3-residue words than proteins of other families."""
    words: dict[int, list[set[str]]] = defaultdict(list)
    for i, (_, sequence) in enumerate(read_fasta(made.fasta)):
        words[i // 12].append({sequence[k : k + 3] for k in range(len(sequence) - 2)})
    within = np.mean([len(family[0] & family[11]) / len(family[0]) for family in words.values()])
    between = np.mean([len(words[f][0] & words[(f + 7) % 60][11]) / len(words[f][0]) for f in words])
    assert within > 0.2
    assert between < 0.1


def test_structure_neighbours_and_composition_tell_about_a_residue(made):
    records = read_task(made, "train")
    residues = [as_numbers(record["primary"]) for record in records]
    everything = np.concatenate(residues)
    unigram = entropy(np.bincount(everything, minlength=20))
    by_structure, by_neighbour = np.zeros((3, 20)), np.zeros((20, 20))
    np.add.at(by_structure, (np.concatenate([record["ss3"] for record in records]), everything), 1)
    np.add.at(
        by_neighbour,
        (np.concatenate([part[:-2] for part in residues]), np.concatenate([part[2:] for part in residues])),
        1,
    )
    assert conditional_entropy(by_structure) < unigram - 0.05
    helix, strand, coil = by_structure / by_structure.sum(1, keepdims=True)
    assert coil[as_numbers("GP")].sum() > 2 * helix[as_numbers("GP")].sum()
    assert strand[as_numbers("VIY")].sum() > 1.5 * helix[as_numbers("VIY")].sum()
    assert conditional_entropy(by_neighbour) < unigram - 0.02
    # Composition of the protein's first half, with a pinch of the overall one, predicts its second half.
    overall = np.bincount(everything, minlength=20) / len(everything)
    loss = 0.0
    for part in residues:
        half = len(part) // 2
        seen = np.bincount(part[:half], minlength=20) + 30 * overall
        loss -= np.log(seen / seen.sum())[part[half:]].sum()
    assert loss / sum(len(part) - len(part) // 2 for part in residues) < unigram - 0.03


def test_a_window_of_residues_predicts_structure_in_clans_not_seen(made, tmp_path):
    manifest = build_task_shards("secondary_structure_q3", made.directory, tmp_path / "q3", SplitOptions(seed=0))
    assert manifest.is_simulated
    task = build_task("secondary_structure_q3").on_splits(manifest.splits)
    train, valid, test = (read_split(tmp_path / "q3", manifest, split) for split in SPLITS)
    majority, window = (
        evaluate(task.metrics[0], baseline.score(test)) for baseline in fit_baselines(task, train, valid)
    )
    assert window.low > majority.high + 0.1


def test_the_tables_are_probabilities_and_a_substitution_changes_the_residue():
    assert profiles().sum(1) == pytest.approx(1)
    table = substitutions()
    assert table.sum(2) == pytest.approx(1)
    assert not np.diagonal(table, axis1=1, axis2=2).any()
    leucine, isoleucine, aspartate = (STANDARD_AMINO_ACIDS.index(letter) for letter in "LID")
    assert (table[:, leucine, isoleucine] > table[:, leucine, aspartate]).mean() > 0.8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_families": 2}, "num_families is 2; accepted: 3"),
        ({"num_families": 10_000}, "to 9999"),
        ({"proteins_per_family": 0}, "proteins_per_family is 0"),
        ({"shortest": 90, "longest": 80}, "lengths from 90 to 80"),
    ],
)
def test_arguments_out_of_range_are_refused_before_anything_is_written(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate(tmp_path / "out", **{"num_families": 3, "proteins_per_family": 2, "seed": 0, **arguments})
    assert not (tmp_path / "out").exists()


def test_the_smallest_set_has_every_split(tmp_path):
    made = simulate(tmp_path, num_families=3, proteins_per_family=1, seed=0)
    assert made.task_proteins == {"train": 1, "valid": 1, TEST_SPLIT: 1}


def test_three_classes_are_the_eight_joined():
    assert dict(zip(STRUCTURES, SS3_OF_STRUCTURE.tolist(), strict=True)) == CLASS_OF_THREE
