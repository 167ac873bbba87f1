"""Which tokens of a window are residues, and which stored label each of them has: special tokens and crops.

Shapes: N tokens of the window, B proteins, R residues of all stored proteins, K residues that were kept.
"""

import numpy as np
from numpy.typing import NDArray

from proteinlm.tasks.task import Window


def kept_residues(window: Window, residues: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Whether a token is a residue [N], and for those that are, where its label is among the stored ones [K].

    `residues` [B] is how many each stored protein has, before it was cropped: labels [R] lie protein after protein.
    """
    lengths = window.lengths.astype(np.int64)
    num_trailing = 0 if window.alphabet.eos_id is None else 1
    place = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)  # in the protein, <cls> at 0
    is_residue = (place > 0) & (place < np.repeat(lengths - num_trailing, lengths))
    first = np.cumsum(residues) - residues + window.starts  # of each protein's kept residues, among the stored ones
    source = np.repeat(first - 1, lengths) + place
    return is_residue, source[is_residue]
