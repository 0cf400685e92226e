"""Values of a cell's genes: library size, normalisation, quantile bins. All on ragged (CSR) rows.

The axis ``z`` runs over stored entries; cell ``i`` owns ``indptr_n1[i]:indptr_n1[i + 1]``. Quantile binning follows
scGPT (Cui et al., Nature Methods 2024, Methods "Input embeddings") down to the last digit of the published code,
with both rules for tied values. Sequences, padding and sub-sampling are in `cellwright.tokens.sequence`.
"""

from __future__ import annotations

import numpy as np

from cellwright.tokens.draws import IS_COMPILED, TIES, cell_keys, kernel_array
from cellwright.tokens.quantiles import bin_rows, bin_rows_numpy, bin_scratch
from cellwright.types import Draw

TIE_RULES = ("upper", "random")
_FIRST_DRAW = Draw()


def library_size(value_z: np.ndarray, indptr_n1: np.ndarray) -> np.ndarray:
    """Return the sum of each cell's values, float64 ``[n]``; 0 for a cell without entries."""
    indptr_n1 = check_indptr(value_z, indptr_n1)
    total_n = np.zeros(len(indptr_n1) - 1)
    has_entry_n = np.diff(indptr_n1) > 0
    if has_entry_n.any():
        starts = indptr_n1[:-1][has_entry_n]
        total_n[has_entry_n] = np.add.reduceat(np.asarray(value_z, np.float64), starts)
    return total_n


def normalise_ragged(
    value_z: np.ndarray,
    indptr_n1: np.ndarray,
    total_n: np.ndarray,
    *,
    target: float = 1e4,
    log: bool = True,
) -> np.ndarray:
    """Scale each cell to ``target`` molecules and take ``log(1 + x)``.

    Parameters
    ----------
    value_z
        Raw counts ``[z]``.
    indptr_n1
        Row boundaries.
    total_n
        Molecules of each cell over *all* genes of its source, so that genes outside the vocabulary count.
    target
        Sum of a cell after scaling; 10,000 in the published recipes.
    log
        Whether to take the natural logarithm of 1 + x (zeros stay 0 either way).

    Returns
    -------
    float32 ``[z]``. The input is left alone.

    Raises
    ------
    ValueError
        When ``target`` is not positive, or a cell with expressed genes has no positive total.
    """
    indptr_n1 = check_indptr(value_z, indptr_n1)
    total_n = np.asarray(total_n, np.float64)
    if not target > 0:
        raise ValueError(f"target = {target!r}: the sum to scale to must be positive")
    if len(total_n) != len(indptr_n1) - 1:
        raise ValueError(f"total_n has {len(total_n)} entries for {len(indptr_n1) - 1} cells")
    is_bad_n = ~(total_n > 0) & (library_size(value_z, indptr_n1) > 0)
    if is_bad_n.any():
        row = int(np.flatnonzero(is_bad_n)[0])
        raise ValueError(f"cell {row} has expressed genes but total {total_n[row]!r}; give its sum over all genes")
    scale_n = np.divide(target, total_n, out=np.zeros_like(total_n), where=total_n > 0)
    scaled_z = (value_z * np.repeat(scale_n, np.diff(indptr_n1))).astype(np.float32)
    return np.log1p(scaled_z, out=scaled_z) if log else scaled_z


def bin_ragged(
    value_z: np.ndarray,
    indptr_n1: np.ndarray,
    num_bins: int,
    *,
    ties: str = "upper",
    draw: Draw = _FIRST_DRAW,
    row_n: np.ndarray | None = None,
    uniform_z: np.ndarray | None = None,
) -> np.ndarray:
    """Replace each cell's expressed values by the index of their quantile bin.

    Zeros stay 0; expressed values become 1 .. ``num_bins - 1``. The ``num_bins - 1`` edges are the linearly
    interpolated quantiles of the cell's own expressed values at equal steps from 0 to 1, in float64 and *not*
    de-duplicated, so a value that is common in the cell equals several edges. With L = number of edges <= x and
    R = number of edges < x the digit is

    - ``ties="upper"``: L. No random numbers. The rule under which the published scGPT weights were trained.
    - ``ties="random"``: ceil(u (R - L) + L), that is one of R + 1 .. L at random. The published package since 0.1.5.

    A cell with a single expressed value, or with equal ones only, gets ``num_bins - 1`` under "upper".

    Parameters
    ----------
    value_z
        Values ``[z]``, finite and not negative. float32 and float64 are read as they are (edges differ in the last
        bit between them, as in numpy); integers as float64.
    indptr_n1
        Row boundaries.
    num_bins
        Number of digits, the 0 of unexpressed genes included; 51 in the published models.
    ties
        "upper" or "random".
    draw, row_n
        Where u comes from: (seed, epoch), and each cell's position in its source (0 .. n-1 if not given).
    uniform_z
        The numbers u themselves, ``[z]``, read at expressed entries only; takes the place of ``draw``.

    Returns
    -------
    float32 ``[z]``.

    Raises
    ------
    ValueError
        For a negative, infinite or NaN value, an unknown tie rule, less than 2 bins, or arrays that do not fit.
    """
    check_binning(num_bins, ties)
    indptr_n1 = check_indptr(value_z, indptr_n1)
    given = np.asarray(value_z).dtype
    if given not in (np.float32, np.float64) and given.kind not in "iub":
        raise ValueError(f"values have dtype {given}; give float32, float64 or integers")
    value_z = check_values(kernel_array(value_z, given if given.kind == "f" else np.float64))
    if uniform_z is not None:
        uniform_z = kernel_array(uniform_z, np.float64)
        if uniform_z.shape != value_z.shape:
            raise ValueError(f"uniform_z has shape {uniform_z.shape}, value_z {value_z.shape}: one number an entry")
    row_n = np.arange(len(indptr_n1) - 1) if row_n is None else np.asarray(row_n)
    if len(row_n) != len(indptr_n1) - 1:
        raise ValueError(f"row_n has {len(row_n)} entries for {len(indptr_n1) - 1} cells")
    key_n, is_random = cell_keys(draw, row_n, TIES), ties == "random"
    if not IS_COMPILED:
        return bin_rows_numpy(value_z, indptr_n1, num_bins, is_random=is_random, key_n=key_n, uniform_z=uniform_z)
    digit_z = np.empty(len(value_z), np.float32)
    scratch = bin_scratch(int(np.diff(indptr_n1).max(initial=0)), num_bins, value_z.dtype)
    given_z = np.empty(0) if uniform_z is None else uniform_z
    bin_rows(value_z, indptr_n1, key_n, given_z, is_random, scratch, digit_z)
    return digit_z


def check_binning(num_bins: int, ties: str) -> None:
    """Raise ``ValueError`` for options that name no binning."""
    if num_bins < 2:
        raise ValueError(f"num_bins = {num_bins}: at least 2 are needed, one of them for unexpressed genes")
    if ties not in TIE_RULES:
        raise ValueError(f"ties = {ties!r} is no rule; choose one of {', '.join(TIE_RULES)}")


def check_values(value_z: np.ndarray) -> np.ndarray:
    """Return the values if they are finite and not negative, else raise ``ValueError``."""
    if not (value_z.min(initial=0) >= 0 and value_z.max(initial=0) < np.inf):
        raise ValueError("expression values must be finite and not negative; is the matrix scaled, or is there a NaN?")
    return value_z


def check_indptr(value_z: np.ndarray, indptr_n1: np.ndarray) -> np.ndarray:
    """Return row boundaries as int64 if they fit the values, else raise ``ValueError``."""
    indptr_n1 = kernel_array(indptr_n1, np.int64)
    if indptr_n1.ndim != 1 or not len(indptr_n1) or np.ndim(value_z) != 1:
        raise ValueError("a ragged matrix needs one-dimensional values and row boundaries [n + 1]")
    if indptr_n1[0] != 0 or indptr_n1[-1] != len(value_z) or (np.diff(indptr_n1) < 0).any():
        raise ValueError(f"row boundaries must rise from 0 to the number of values, {len(value_z)}")
    return indptr_n1
