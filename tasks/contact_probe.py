"""The unsupervised contact probe: do an encoder's attention maps know which residues touch?

Symmetrised attention maps (A + A^T), average product correction, and an L1-penalised logistic regression on layers x
heads of them, fitted on at most 20 proteins: the encoder is never trained on contacts, so that what is found was
learned in pretraining. A cheap thermometer of pretraining; an encoder with random weights gives the floor.

Source: Rao et al. 2021, Transformer protein language models are unsupervised structure learners (pairs 6 or more apart,
C = 0.15, scikit-learn's liblinear); transformers' EsmContactPredictionHead for the features. Contacts here are C-alpha
atoms below 8 Angstrom, there C-beta: values are not to be ranked with theirs.

For the maps the encoder runs as it always does; what each layer projects to queries and keys is read on the way and
multiplied out protein by protein. Memory is for all maps of the micro batch at once: pack few long proteins together.

Shapes: B proteins, L residues of one protein (for the maps: its tokens), A layers x heads, P scored pairs of one
protein, M pairs that are fitted; N tokens of the micro batch, D hidden, H heads, d size of a head.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from proteinlm.models.alphabet import Alphabet
from proteinlm.models.attention import Rotation, rotation
from proteinlm.models.encoder import EncoderLayer, ProteinEncoder
from proteinlm.models.packed import Packed, pack
from proteinlm.tasks.contact_prediction import (
    MIN_SEPARATION,
    coordinates_of_each,
    precision_counts,
    scored_pairs,
    stacked,
)
from proteinlm.tasks.task import Columns

NUM_PROTEINS = 20
INVERSE_REGULARISATION = 0.15
"""scikit-learn's C of the L1 penalty."""
MOST_VALUES = 40_000_000
"""Features of all fitted pairs together (320 MB in fp64): above it, pairs are drawn at random."""


@dataclass(frozen=True)
class ContactProbe:
    """A fitted probe. It belongs to the encoder that it was fitted on."""

    weights: NDArray[np.float64]
    """[A] of each corrected map, most of them 0."""
    bias: float
    alphabet: Alphabet
    seed: int
    proteins: tuple[str, ...]
    """Ids of the proteins that it was fitted on."""
    num_pairs: int
    """M."""
    num_contacts: int
    """Contacts among the M pairs."""

    @property
    def description(self) -> str:
        """What it is and what it was fitted on: printed with its values."""
        return (
            f"logistic regression (L1, C = {INVERSE_REGULARISATION:g}) on {len(self.weights)} symmetrised, average "
            f"product corrected attention maps, {int((self.weights != 0).sum())} of them used, fitted on "
            f"{self.num_pairs:,} pairs ({self.num_contacts:,} contacts) of {len(self.proteins)} training proteins"
        )

    def probabilities(self, encoder: ProteinEncoder, table: pa.Table) -> Iterator[NDArray[np.float32]]:
        """Contact probability [L, L], symmetric, of each protein of `table` (column sequence), one after the other.

        Raises ValueError for an encoder of another number of maps than the probe was fitted on.
        """
        num_maps = encoder.config.num_hidden_layers * encoder.config.num_attention_heads
        if num_maps != len(self.weights):
            raise ValueError(
                f"the encoder has {num_maps} attention maps, but the probe was fitted on {len(self.weights)}"
            )
        used = np.flatnonzero(self.weights)
        weights = torch.from_numpy(self.weights[used]).float()
        for sequence in table.column("sequence").to_pylist():
            if not len(used):
                yield np.full((len(sequence), len(sequence)), 1 / (1 + np.exp(-self.bias)), np.float32)
                continue
            maps = residue_maps(encoder, sequence, self.alphabet)[torch.from_numpy(used)]
            logits = torch.einsum("a,aij->ij", weights.to(maps.device), corrected(maps)) + self.bias
            yield torch.sigmoid(logits).cpu().numpy()

    def score(self, encoder: ProteinEncoder, table: pa.Table) -> Columns:
        """Per-protein columns [B] of a split's `table` (sequence, tertiary, valid_mask), as `contact_prediction` gives
        them: its metrics apply.

        A probe that uses no map ranks the pairs at random, by its seed: its precision is the share of contacts.
        """
        generator = np.random.default_rng(self.seed)
        losses, scored, counts = [], [], []
        labels = (scored_pairs(coordinates) for coordinates in coordinates_of_each(table))
        for probability, (first, second, is_contact) in zip(self.probabilities(encoder, table), labels, strict=True):
            found = probability[first, second].astype(np.float64)
            losses.append(-np.log(np.maximum(np.where(is_contact, found, 1 - found), 1e-12)).sum())
            scored.append(len(found))
            ranking = found if self.weights.any() else generator.random(len(found))
            counts.append(precision_counts(ranking, is_contact, second - first, len(probability)))
        return {"loss": np.array(losses, np.float64), "scored": np.array(scored, np.float64), **stacked(counts)}


def fit_contact_probe(
    encoder: ProteinEncoder,
    table: pa.Table,
    alphabet: Alphabet,
    num_proteins: int = NUM_PROTEINS,
    seed: int = 0,
    max_length: int = 512,
) -> ContactProbe:
    """A probe fitted on `num_proteins` of `table` (id, sequence, tertiary, valid_mask), drawn by `seed`.

    Proteins longer than `max_length` residues or without a known contact are passed over. Above `MOST_VALUES` the pairs
    are drawn at random, and C grows by as much, so that the penalty means the same. Raises ValueError where no protein
    is left.
    """
    if num_proteins < 1:
        raise ValueError(f"num_proteins is {num_proteins}; accepted: 1 or more")
    generator = np.random.default_rng(seed)
    chosen = _chosen(table, num_proteins, max_length, generator)
    num_maps = encoder.config.num_hidden_layers * encoder.config.num_attention_heads
    num_pairs = sum(len(is_contact) for _, (_, _, is_contact) in chosen)
    kept = min(1.0, MOST_VALUES / (num_maps * num_pairs))
    features, targets = [], []
    sequences = table.column("sequence")
    for place, (first, second, is_contact) in chosen:
        drawn = np.flatnonzero(generator.random(len(is_contact)) < kept)
        maps = corrected(residue_maps(encoder, sequences[place].as_py(), alphabet)).cpu()
        features.append(maps[:, torch.from_numpy(first[drawn]), torch.from_numpy(second[drawn])].T.numpy())
        targets.append(is_contact[drawn])
    fitted = np.concatenate(targets)
    weights, bias = _regression(np.concatenate(features), fitted, INVERSE_REGULARISATION / kept, seed)
    ids = tuple(str(table.column("id")[place].as_py()) for place, _ in chosen)
    return ContactProbe(weights, bias, alphabet, seed, ids, len(fitted), int(fitted.sum()))


def residue_maps(encoder: ProteinEncoder, sequence: str, alphabet: Alphabet) -> Tensor:
    """Attention maps [A, L, L] between the residues of one protein; special tokens are left out."""
    tokens, lengths = alphabet.encode([sequence])
    packed = pack(tokens, lengths, alphabet).to(encoder.token_embedding.weight.device)
    residues = packed.is_residue
    return attention_maps(encoder, packed)[0][:, residues][:, :, residues]


def corrected(maps: Tensor) -> Tensor:
    """Maps [A, L, L] made symmetric (A + A^T), then a_ij - a_i a_j / a: the average product correction (sums over
    columns, rows and both).
    """
    symmetric = maps + maps.transpose(1, 2)
    sums = symmetric.sum(dim=2)
    return symmetric - sums[:, :, None] * sums[:, None, :] / sums.sum(dim=1)[:, None, None]


def _chosen(
    table: pa.Table, num_proteins: int, max_length: int, generator: np.random.Generator
) -> list[tuple[int, tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]]]:
    """(row, its scored pairs) of the proteins to fit on."""
    chosen = []
    proteins = coordinates_of_each(table)
    for place in generator.permutation(table.num_rows).tolist():
        if len(proteins[place]) > max_length:
            continue
        pairs = scored_pairs(proteins[place])
        if pairs[2].any():
            chosen.append((place, pairs))
        if len(chosen) == num_proteins:
            break
    if not chosen:
        raise ValueError(
            f"the contact probe needs a protein of at most {max_length} residues with a known contact of separation "
            f"{MIN_SEPARATION} or more; none of the {table.num_rows} has one"
        )
    return chosen


def _regression(
    features: NDArray[np.float32], targets: NDArray[np.bool_], inverse_regularisation: float, seed: int
) -> tuple[NDArray[np.float64], float]:
    """Weights [A] and bias from features [M, A] and contacts [M]."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(l1_ratio=1.0, C=inverse_regularisation, solver="liblinear", random_state=seed)
    model.fit(features.astype(np.float64), targets)
    return model.coef_[0], float(model.intercept_[0])


@torch.no_grad()
def attention_maps(encoder: ProteinEncoder, packed: Packed) -> list[Tensor]:
    """Attention probabilities [A, L, L] in fp32 of each protein of `packed`: rows query, columns key, no dropout.

    Map number layer * H + head, layers from the first to the last. Special tokens are among the L tokens. The encoder's
    mode is as it was afterwards. Raises ValueError as the encoder does for proteins longer than its learned positions.
    """
    with _evaluating(encoder), encoder.uncompiled(), _projections(encoder) as projections:
        encoder(packed)
    heads = encoder.config.num_attention_heads
    angles = _angles(encoder, packed)
    each_layer = [qkv.split_with_sizes(packed.lengths) for qkv in projections]
    return [
        torch.cat([_probabilities(layer[protein], angles, heads) for layer in each_layer])
        for protein in range(packed.num_proteins)
    ]


def _angles(encoder: ProteinEncoder, packed: Packed) -> Rotation | None:
    if encoder.config.position != "rotary":
        return None
    return rotation(packed.longest, encoder.config.head_size, packed.tokens.device)


def _probabilities(qkv: Tensor, angles: Rotation | None, num_heads: int) -> Tensor:
    """Queries, keys and values [L, 3 D] of one protein -> [H, L, L]."""
    length = qkv.shape[0]
    query, key, _ = qkv.float().view(length, 3, num_heads, -1).permute(1, 2, 0, 3)
    if angles is not None:
        query, key = _rotated(query, angles), _rotated(key, angles)
    with torch.autocast(qkv.device.type, enabled=False):  # the products stay in fp32 under bf16 training too
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(1, 2)
    probabilities: Tensor = scores.softmax(dim=-1)
    return probabilities


def _rotated(states: Tensor, angles: Rotation) -> Tensor:
    """Queries or keys [H, L, d] rotated by the angles of their positions; dimension i is paired with i + d / 2.

    Not `attention._rotate`, which writes into a given tensor and rounds differently (by up to 2.4e-7).
    """
    cos, sin = (table[: states.shape[1]] for table in angles)
    first, second = states.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


@contextmanager
def _projections(encoder: ProteinEncoder) -> Iterator[list[Tensor]]:
    """A list that the encoder's next run fills with queries, keys and values [N, 3 D], layer after layer."""
    found: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.append(output)

    handles = []
    for layer in encoder.layers:
        assert isinstance(layer, EncoderLayer)
        handles.append(layer.attention.qkv.register_forward_hook(keep))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _evaluating(encoder: nn.Module) -> Iterator[None]:
    was_training = encoder.training
    encoder.eval()
    try:
        yield
    finally:
        encoder.train(was_training)
