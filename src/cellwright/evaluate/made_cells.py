"""Made cells from a file or an object: are they levels, of this vocabulary, and which type was each asked to be?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from cellwright.config import did_you_mean
from cellwright.data.sources import name_of, read_anndata
from cellwright.evaluate.apart import some

_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MadeCells:
    """Made cells and what they were asked to be."""

    level_ng: sp.csr_matrix
    """Levels / highest level, 0 .. 1; columns are the genes of the model's vocabulary."""
    type_n: np.ndarray
    """str ``[n]``: type that each cell was asked to be."""
    record: Mapping[str, Any]
    """What the file says about how they were made."""
    num_cut: int = 0
    """Cells that did not come to their end."""

    def counts(self) -> dict[str, int]:
        """Return type -> number of cells."""
        names, num = np.unique(self.type_n, return_counts=True)
        return dict(zip(names.tolist(), num.tolist(), strict=True))


def read_made(data: Any, model: Any, category: str) -> MadeCells:
    """Read cells that ``cellwright generate`` wrote.

    Parameters
    ----------
    data
        AnnData or path.
    model
        The model that is said to have made them.
    category
        Category of words that are the types; also the name of the column of obs.

    Raises
    ------
    ValueError
        When the values are no levels, the genes are not those of the model's vocabulary, the column is missing, or the
        record names another model.
    """
    name = name_of(data)
    adata = read_anndata(data)
    record = dict(dict(adata.uns.get("cellwright", {})).get("generated", {}))
    _check_model(name, dict(record.get("model", {})), model)
    if category not in adata.obs:
        known = [str(column) for column in adata.obs.columns]
        near = did_you_mean(category, known) or f"; it has {some(known) or 'none'}"
        raise ValueError(f"{name}: no column {category!r} in obs that says what each cell was asked to be{near}")
    if num_missing := int(adata.obs[category].isna().sum()):
        raise ValueError(f"{name}: {num_missing} of {adata.n_obs} cells were asked for no {category}; drop these cells")
    place_g = _places(name, [str(gene) for gene in adata.var_names], model.vocab.genes)
    if adata.X is None:
        raise ValueError(f"{name}: there is no X; made cells hold their levels there")
    level_ng = sp.csr_matrix(adata.X, dtype=np.float32)[:, place_g]
    _check_levels(name, level_ng, model.network.num_levels)
    level_ng.eliminate_zeros()
    num_cut = int((~adata.obs["is_ended"].astype(bool)).sum()) if "is_ended" in adata.obs else 0
    type_n = adata.obs[category].astype(str).to_numpy(dtype=str)
    return MadeCells(level_ng=level_ng, type_n=type_n, record=record, num_cut=num_cut)


def _check_model(name: str, made_by: Mapping[str, Any], model: Any) -> None:
    for what, ours, hint in (
        ("vocab_sha256", model.vocab.sha256, "with another vocabulary"),
        ("sha256", model.sha256(), "by another model"),
    ):
        theirs = made_by.get(what)
        if theirs is not None and str(theirs) != ours:
            raise ValueError(
                f"{name} was made {hint} ({made_by.get('source', 'unknown')}, {str(theirs)[:12]}) than "
                f"{model.report.source} ({ours[:12]}); give the model that made it"
            )


def _places(name: str, theirs: list[str], ours: tuple[str, ...]) -> np.ndarray:
    """Return the column of each gene of the vocabulary."""
    at = {gene: place for place, gene in enumerate(theirs)}
    if strange := [gene for gene in at if gene not in set(ours)]:
        raise ValueError(
            f"{name}: {len(strange)} of {len(theirs)} genes are not in the model's vocabulary ({some(strange, 3)}); "
            "give the model that made these cells"
        )
    if lacking := [gene for gene in ours if gene not in at]:
        raise ValueError(
            f"{name} lacks {len(lacking)} of {len(ours)} genes of the model's vocabulary ({some(lacking, 3)}); give "
            "the file as it was made"
        )
    return np.array([at[gene] for gene in ours])


def _check_levels(name: str, level_ng: sp.csr_matrix, num_levels: int) -> None:
    value_z = level_ng.data
    if not len(value_z):
        raise ValueError(f"{name}: X is 0 everywhere; there is nothing to score")
    if not np.isfinite(value_z).all() or value_z.min() < 0 or value_z.max() > 1 + _TOLERANCE:
        raise ValueError(
            f"{name}: X holds values from {value_z.min():g} to {value_z.max():g}; made cells hold levels, 0 .. 1, as "
            "'cellwright generate' writes them, neither counts nor normalised values"
        )
    is_off_z = np.abs(value_z * num_levels - np.rint(value_z * num_levels)) > _TOLERANCE * num_levels
    if is_off_z.any():
        raise ValueError(
            f"{name}: X holds values such as {value_z[is_off_z][0]:g}, which is no level of the model (multiples of "
            f"1/{num_levels}); made cells hold levels, as 'cellwright generate' writes them"
        )
