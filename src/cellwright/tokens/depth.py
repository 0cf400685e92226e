"""Read depth: fewer molecules of a cell, and the depth that is asked for.

Source: scFoundation (Hao et al., Nature Methods 21:1481, 2024), read-depth-aware modelling. Sequencing a cell less
deeply keeps each molecule with the same chance, so counts are thinned binomially. Molecules are counted one by one:
molecule ``i`` of a cell is kept when word ``i`` of the cell's own random words lies under the share. So thinning does
not depend on the minibatch, compiled and numpy kernels agree to the last bit, and of two shares the smaller one keeps
a part of what the larger one keeps.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from cellwright.tokens.draws import (
    IS_COMPILED,
    STEP,
    THIN,
    cell_keys,
    compiled,
    fill_words,
    kernel_array,
    words_numpy,
)
from cellwright.tokens.values import check_indptr, check_values, library_size
from cellwright.types import CellBatch, Draw

KINDS = {"t": "total", "f": "fold", "a": "added"}
"""Published letter -> kind of target."""
_CHUNK = 4096  # words made at a time: they stay in the first cache
_LARGEST = 2**24  # whole numbers above cannot all be told apart in float32


@dataclass(frozen=True, slots=True)
class DepthTarget:
    """The read depth that a model is asked to predict at (published option ``tgthighres``); all logarithms to base 10.

    Parameters
    ----------
    kind
        ``total``: each cell at 10^amount molecules. ``fold``: at amount times the cell's own molecules. ``added``: at
        10^amount times the cell's own molecules.
    amount
        Finite. Of ``total`` not negative, of ``fold`` positive.
    """

    kind: Literal["total", "fold", "added"]
    amount: float

    def __post_init__(self):
        if self.kind not in KINDS.values():
            raise ValueError(f"depth kind {self.kind!r} is not one of {', '.join(KINDS.values())}")
        is_low = self.amount < 0 if self.kind == "total" else self.amount <= 0 if self.kind == "fold" else False
        if not math.isfinite(self.amount) or is_low:
            raise ValueError(
                f"depth amount {self.amount} of kind {self.kind!r}: a total is the log10 of molecules and not "
                "negative, a fold is positive, all are finite"
            )

    @classmethod
    def parse(cls, text: str) -> DepthTarget:
        """Read ``t4`` or ``total=4`` (10^4 molecules), ``f2`` or ``fold=2`` (twice), ``a1`` or ``added=1`` (tenfold).

        Raises
        ------
        ValueError
            For anything else.
        """
        found = re.fullmatch(r"\s*(?:([tfa])|(total|fold|added)\s*=)\s*([^\s=]+)\s*", text)
        try:
            amount = float(found[3]) if found else math.nan
        except ValueError:
            amount = math.nan
        if not math.isfinite(amount):
            raise ValueError(
                f"read depth {text!r} is not understood; give t4 (10^4 molecules a cell), f5 (five times as many as "
                "the cell has) or a1 (10^1 times as many)"
            )
        return cls(KINDS[found[1]] if found[1] else found[2], amount)

    def __str__(self) -> str:
        short = f"{self.amount:g}"
        return f"{self.kind[0]}{short if float(short) == self.amount else repr(float(self.amount))}"

    def log10_n(self, source_total_n: np.ndarray) -> np.ndarray:
        """Return log10 of the molecules asked for, float32 ``[n]``.

        Raises
        ------
        ValueError
            A cell without molecules has no fold of its own depth.
        """
        total_n = np.asarray(source_total_n, np.float64)
        if self.kind == "total":
            return np.full(total_n.shape, self.amount, np.float32)
        if not (total_n > 0).all():
            where = int(np.argmin(total_n > 0))
            raise ValueError(
                f"cell {where} has {total_n[where]:g} molecules, so {self} of them is no depth; leave empty cells out, "
                "or ask for a total such as t4"
            )
        added = math.log10(self.amount) if self.kind == "fold" else self.amount
        return (np.log10(total_n) + added).astype(np.float32)


def thin_counts(cells: CellBatch, share_n: np.ndarray, draw: Draw) -> CellBatch:
    """Keep each molecule of a cell with the chance ``share_n`` of the cell.

    The counts that result are binomial. Molecules of genes outside the vocabulary are thinned too: ``total_n`` counts
    what is left of all of them. Genes without a molecule left are no longer stored.

    Parameters
    ----------
    cells
        Raw counts.
    share_n
        0 .. 1 for each cell; 1 leaves the cell as it is. Read to one part in 2^32.
    draw
        Seed and epoch; with the cell's ``row_n`` they decide everything.

    Raises
    ------
    ValueError
        When the values are not whole numbers of molecules, a share is out of range, or a total is smaller than the
        counts it is the total of.
    """
    indptr_n1 = check_indptr(cells.value_z, cells.indptr_n1)
    count_z = check_counts(cells)
    share_n = np.asarray(share_n, np.float64)
    if share_n.shape != (len(cells),) or not ((share_n >= 0) & (share_n <= 1)).all():
        raise ValueError(f"shares of molecules to keep must be {len(cells)} numbers within 0 .. 1, got {share_n}")
    own_n = library_size(count_z, indptr_n1)
    other_n = np.rint(cells.total_n) - own_n
    if (other_n < 0).any():
        at = int(np.argmin(other_n))
        raise ValueError(
            f"the cell at row {cells.row_n[at]} has the total {cells.total_n[at]:g}, but its genes have {own_n[at]:g} "
            "molecules; give the sum over all genes of the source"
        )
    limit_n = np.floor(share_n * 2.0**32).astype(np.uint64)
    other_n, key_n = other_n.astype(np.int64), cell_keys(draw, cells.row_n, THIN)
    kept_z, kept_other_n = np.empty(len(count_z), np.float32), np.empty(len(cells), np.int64)
    keep = _keep_rows if IS_COMPILED else keep_rows_numpy
    keep(count_z, indptr_n1, other_n, key_n, limit_n, kept_z, kept_other_n)
    is_left_z = kept_z > 0
    left_n1 = np.concatenate([[0], np.cumsum(is_left_z)])[indptr_n1]
    kept_z = kept_z[is_left_z]
    return replace(
        cells,
        indptr_n1=left_n1,
        gene_z=cells.gene_z[is_left_z],
        value_z=kept_z,
        total_n=library_size(kept_z, left_n1) + kept_other_n,
    )


def check_counts(cells: CellBatch) -> np.ndarray:
    """Return the counts as kernels take them, float32 ``[z]``; refuse what is no count of molecules."""
    value_z = check_values(kernel_array(cells.value_z, np.float32))
    is_whole_z = value_z == np.floor(value_z)
    if cells.state != "raw" or not is_whole_z.all():
        seen = f"{cells.state} values" if cells.state != "raw" else f"{value_z[np.argmin(is_whole_z)]:g}"
        raise ValueError(f"read depth needs raw counts of molecules, got {seen}; choose a matrix of counts (layer=)")
    if value_z.max(initial=0) > _LARGEST:
        raise ValueError(f"a count of {value_z.max():g} is beyond {_LARGEST}; these are no molecules of one cell")
    return value_z


@compiled
def _keep_rows(count_z, indptr_n1, other_n, key_n, limit_n, kept_z, kept_other_n):
    word = np.empty(_CHUNK, np.uint32)
    for cell in range(len(key_n)):
        limit, at = limit_n[cell], 0
        for i in range(indptr_n1[cell], indptr_n1[cell + 1] + 1):
            is_gene = i < indptr_n1[cell + 1]  # after the last gene come the molecules of genes outside
            num = np.int64(count_z[i]) if is_gene else other_n[cell]
            kept = 0
            for _ in range(num):
                if at % _CHUNK == 0:
                    # word i of a cell is the same whichever chunk it is made in: two words a step of the key
                    fill_words(key_n[cell] + np.uint64(at // 2) * STEP, _CHUNK, word)
                kept += word[at % _CHUNK] < limit
                at += 1
            if is_gene:
                kept_z[i] = kept
            else:
                kept_other_n[cell] = kept


def keep_rows_numpy(
    count_z: np.ndarray,
    indptr_n1: np.ndarray,
    other_n: np.ndarray,
    key_n: np.ndarray,
    limit_n: np.ndarray,
    kept_z: np.ndarray,
    kept_other_n: np.ndarray,
) -> None:
    """Thin cell by cell with numpy: what the kernel is tested against, and what runs where numba is absent."""
    for cell, key in enumerate(key_n):
        own = slice(indptr_n1[cell], indptr_n1[cell + 1])
        num_k = np.append(count_z[own].astype(np.int64), other_n[cell])
        is_kept = words_numpy(key, int(num_k.sum())).astype(np.uint64) < limit_n[cell]
        kept_k = np.diff(np.concatenate([[0], np.cumsum(is_kept)])[np.concatenate([[0], np.cumsum(num_k)])])
        kept_z[own], kept_other_n[cell] = kept_k[:-1], kept_k[-1]
