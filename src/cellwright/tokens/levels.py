"""Levels of single cells relative to the cell's own highest value: the compiled kernel and its numpy twin.

Source: scMulan (Bian et al., RECOMB 2024) and its published code. Called by `level_ragged` and by the sentence kernel;
both twins are equal to the last bit.
"""

from __future__ import annotations

import numpy as np

from cellwright.tokens.draws import IS_COMPILED, compiled, inner, kernel_array
from cellwright.tokens.values import check_indptr, check_values


def level_ragged(value_z: np.ndarray, indptr_n1: np.ndarray, num_levels: int = 10) -> np.ndarray:
    """Replace each cell's expressed values by levels of its highest value.

    Zeros stay 0; expressed values become 1 .. ``num_levels``: the smallest i with ``x <= edge_i``. The edges are
    ``k * (max / num_levels)`` in float64, the last one ``max`` itself, so the highest value always has the highest
    level. Rounding up ``num_levels * x / max`` would differ at the edges.

    Parameters
    ----------
    value_z
        Values ``[z]`` (log-normalised, as published), finite and not negative; read as float32.
    indptr_n1
        Row boundaries.
    num_levels
        Levels of expressed genes; 10 in the published model.

    Returns
    -------
    float32 ``[z]``.

    Raises
    ------
    ValueError
        For a negative, infinite or NaN value, fewer than 1 level, or arrays that do not fit.
    """
    check_levels(num_levels)
    indptr_n1 = check_indptr(value_z, indptr_n1)
    value_z = check_values(kernel_array(value_z, np.float32))
    if not IS_COMPILED:
        return level_rows_numpy(value_z, indptr_n1, num_levels)
    level_z = np.empty(len(value_z), np.float32)
    _level_rows(value_z, indptr_n1, np.empty(num_levels + 1), level_z)
    return level_z


def check_levels(num_levels: int) -> None:
    """Raise ``ValueError`` for a number of levels that names no coding."""
    if num_levels < 1:
        raise ValueError(f"num_levels = {num_levels}: at least 1 is needed")


def level_rows_numpy(value_z: np.ndarray, indptr_n1: np.ndarray, num_levels: int) -> np.ndarray:
    """Code cell by cell with numpy: what the kernel is tested against, and what runs where numba is absent."""
    level_z = np.zeros(len(value_z), np.float32)
    for begin, end in zip(indptr_n1[:-1], indptr_n1[1:], strict=True):
        own_z = value_z[begin:end]
        highest = own_z.max(initial=0)
        if highest > 0:
            edge_k = np.linspace(0, np.float64(highest), num_levels + 1)
            level_z[begin:end] = np.digitize(own_z, edge_k, right=True)
    return level_z


@compiled
def _level_rows(value_z, indptr_n1, edge_k, level_z):
    for cell in range(len(indptr_n1) - 1):
        begin, end = indptr_n1[cell], indptr_n1[cell + 1]
        level_row(value_z[begin:end], edge_k, level_z[begin:end])


@inner
def level_row(value, edge_k, level):
    """Write the levels of one cell into ``level``; ``edge_k`` is working memory of one more than there are levels."""
    highest = np.float64(0)
    for i in range(len(value)):
        highest = max(highest, np.float64(value[i]))
    num = len(edge_k) - 1
    step = highest / num
    for k in range(num):
        edge_k[k] = k * step
    edge_k[num] = highest
    for i in range(len(value)):
        x = np.float64(value[i])
        at = 0
        if x > 0:
            at = min(int(x / step), num)
            while at < num and edge_k[at] < x:
                at += 1
            while at > 1 and edge_k[at - 1] >= x:
                at -= 1
        level[i] = at
