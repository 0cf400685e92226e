"""The published scMulan unification of gene symbols, as pure functions on a table the user brings.

Source: ``GeneSymbolUniform`` of the published code. It is the alternative to `cellwright.data.genes`, for results
that must compare with published ones; it differs on purpose in three points. A name with several candidates is
dropped in both. Here a current symbol is never taken for an alias, though it may be one as well; columns that mean
the same gene are *averaged and rounded* by default, which is only sensible for counts, where ours are summed; and
nothing is known of Ensembl ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

KEPT, CHANGED, SEVERAL, ABSENT = "No Change", "Changed", "Multiple Candidates", "Abandoned"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Unified:
    """Where each column of a data set goes."""

    genes: tuple[str, ...]
    """Target symbols, by code point."""
    at_g: np.ndarray
    """int64: place among ``genes`` of each column, -1 = dropped."""
    status_g: tuple[str, ...]
    """No Change | Changed | Multiple Candidates | Abandoned, of each column, as published reports say."""
    candidates: Mapping[str, tuple[str, ...]]
    """Symbols that each renamed or ambiguous column could mean."""


def unify_symbols(names: Sequence[str], targets: Sequence[str], reference: Sequence[tuple[str, str, str]]) -> Unified:
    """Match column names to a fixed list of symbols by aliases and previous symbols.

    Parameters
    ----------
    names
        Column names, as they are.
    targets
        The symbols to end with (published: 42,117). Underscores become hyphens.
    reference
        (approved symbol, alias, previous symbol) of *approved* genes, one alias and one previous symbol a row, empty
        where there is none. Underscores become hyphens.

    Raises
    ------
    ValueError
        When a name occurs twice, or a name's only candidate is not among the targets. (Published code keeps the last
        of equal columns, and stops with a bare KeyError.)
    """
    names = [str(name) for name in names]
    if len(set(names)) != len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f"gene {twice!r} occurs twice; add up such columns first")
    genes = tuple(sorted({target.replace("_", "-") for target in targets}))
    place = {gene: at for at, gene in enumerate(genes)}
    meant: dict[str, set[str]] = {}
    for row in reference:
        approved, *others = (field.replace("_", "-") for field in row)
        for other in others:
            if other:
                meant.setdefault(other, set()).add(approved)
    at_g, status, candidates = np.full(len(names), -1), [], {}
    for g, name in enumerate(names):
        found = () if name in place else tuple(sorted(meant.get(name, ())))
        if found:
            candidates[name] = found
        if len(found) == 1 and found[0] not in place:
            raise ValueError(f"{name!r} means {found[0]!r}, which is not among the target symbols")
        if name in place or len(found) == 1:
            at_g[g] = place[name if name in place else found[0]]
        status.append(KEPT if name in place else CHANGED if len(found) == 1 else SEVERAL if found else ABSENT)
    return Unified(genes=genes, at_g=at_g, status_g=tuple(status), candidates=candidates)


def unify_columns(value_ng: sp.sparray | sp.spmatrix, unified: Unified, *, is_averaged: bool = True) -> sp.csr_matrix:
    """Bring a matrix onto the unified genes; genes without a column are empty.

    Columns of the same gene are summed and, by default, divided by their number and rounded half to even (published
    ``average_alias``): give counts.
    """
    source_g = np.flatnonzero(unified.at_g >= 0)
    target_g = unified.at_g[source_g]
    shape = (len(unified.at_g), len(unified.genes))
    moved = sp.csr_matrix((np.ones(len(source_g)), (source_g, target_g)), shape=shape)
    out_ng = sp.csr_matrix(sp.csr_matrix(value_ng, dtype=np.float64) @ moved)
    num_g = np.bincount(target_g, minlength=len(unified.genes))
    if is_averaged and (num_g > 1).any():
        num_z = num_g[out_ng.indices]
        out_ng.data = np.where(num_z > 1, np.round(out_ng.data / np.maximum(num_z, 1)), out_ng.data)
        out_ng.eliminate_zeros()
    return out_ng.astype(np.float32)
