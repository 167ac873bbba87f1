"""Made-up records with TAPE's keys and types, and files in the layout that TAPE's own writer gives them.

The keys are those of TAPE's converter (scripts/tfrecord_to_lmdb.py); the layout is that of its write_lmdb: the pickled
number of records under "num_examples", and record i, a pickled dict, under str(i).
"""

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lmdb
import numpy as np

Arrays = dict[str, Any]
LETTERS = "ACDEFGHIKLMNPQRSTVWY"
FILE_STEMS = {
    "secondary_structure_q3": "secondary_structure",
    "secondary_structure_q8": "secondary_structure",
    "contact_prediction": "proteinnet",
    "remote_homology": "remote_homology",
    "fluorescence": "fluorescence",
    "stability": "stability",
}


def write_as_tape(path: Path, records: Sequence[Any]) -> Path:
    """An LMDB directory as TAPE writes it; a record that is bytes is stored as it is."""
    with lmdb.open(str(path), map_size=1 << 26) as environment, environment.begin(write=True) as transaction:
        for number, record in enumerate(records):
            content = record if isinstance(record, bytes) else pickle.dumps(record)
            transaction.put(str(number).encode(), content)
        transaction.put(b"num_examples", pickle.dumps(len(records)))
    return path


def tape_record(file_stem: str, number: int) -> Arrays:
    """Record `number` of a TAPE archive."""
    draw = np.random.default_rng(number)
    length = int(draw.integers(5, 30))
    primary = "".join(draw.choice(list(LETTERS), length))
    return {"primary": primary, "protein_length": length, **_LABELS[file_stem](draw, length, number)}


def _secondary_structure(draw: np.random.Generator, length: int, number: int) -> Arrays:
    ss8 = draw.integers(0, 8, length, dtype=np.int32)
    return {
        "id": f"{number}abc-A".encode(),
        "evolutionary": _floats(draw, length, 30),
        "ss3": np.array([0, 0, 0, 1, 1, 2, 2, 2], np.int32)[ss8],
        "ss8": ss8,
        "disorder": draw.integers(0, 2, length, dtype=np.int32),
        "interface": draw.integers(0, 2, length, dtype=np.int32),
        **{key: _floats(draw, length) for key in ("phi", "psi", "rsa", "asa_max")},
        "valid_mask": np.r_[1, draw.integers(0, 2, length - 1)].astype(np.float32),
    }


def _proteinnet(draw: np.random.Generator, length: int, number: int) -> Arrays:
    return {
        "id": f"{number}ABC_1_A".encode(),
        "tertiary": _floats(draw, length, 3) * 50,
        "valid_mask": np.ones(length, np.bool_),
        "evolutionary": _floats(draw, length, 21),
    }


def _remote_homology(draw: np.random.Generator, length: int, number: int) -> Arrays:
    levels = {"class_label": 7, "fold_label": 1195, "superfamily_label": 1823, "family_label": 3439}
    return {
        "id": f"d{number}abca_".encode(),
        **{key: int(draw.integers(count)) for key, count in levels.items()},
        "secondary_structure": np.eye(3, dtype=np.float32)[draw.integers(0, 3, length)],
        "solvent_accessibility": np.eye(2, dtype=np.float32)[draw.integers(0, 2, length)],
        "evolutionary": _floats(draw, length, 20),
    }


def _fluorescence(draw: np.random.Generator, length: int, number: int) -> Arrays:
    return {"log_fluorescence": _floats(draw, 1), "num_mutations": int(draw.integers(15))}


def _stability(draw: np.random.Generator, length: int, number: int) -> Arrays:
    parent = f"EEHEE_rd1_{number:04d}"
    return {
        "id": f"{parent}.pdb".encode(),
        "topology": b"EEHEE",
        "parent": parent.encode(),
        "stability_score": _floats(draw, 1),
    }


def _pfam(draw: np.random.Generator, length: int, number: int) -> Arrays:
    return {"clan": int(draw.integers(600)), "family": int(draw.integers(18_000))}


def _floats(draw: np.random.Generator, *shape: int) -> np.ndarray:
    return draw.standard_normal(shape).astype(np.float32)


_LABELS: dict[str, Callable[[np.random.Generator, int, int], Arrays]] = {
    "secondary_structure": _secondary_structure,
    "proteinnet": _proteinnet,
    "remote_homology": _remote_homology,
    "fluorescence": _fluorescence,
    "stability": _stability,
    "pfam": _pfam,
}
