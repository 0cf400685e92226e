"""Tiny cells with planted structure, for tests, examples and documentation. They are not a model of biology.

Each type over-expresses its own eighth of the genes; sequencing batches scale every gene a little; depth differs
between cells. Everything follows from the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    from anndata import AnnData

_DONORS_PER_BATCH = 2


def make_cells(
    num_cells: int = 120,
    num_genes: int = 200,
    *,
    num_types: int = 3,
    num_batches: int = 2,
    depth: float = 1500.0,
    gene_names: Sequence[str] | None = None,
    seed: int = 0,
) -> AnnData:
    """Make raw counts of planted cell types.

    Parameters
    ----------
    num_types, num_batches
        Types and batches take turns over the cells, so all combinations are equally frequent.
    depth
        Median number of molecules a cell.
    gene_names
        Names to use, at least ``num_genes``; default ``GENE0000`` and so on. Types favour consecutive genes.

    Returns
    -------
    AnnData
        X = counts (float32 CSR); obs ``cell_type``, ``tech_batch``, ``donor`` (two a batch); every cell has at least
        one molecule. ``uns["planted"]`` maps each type to its marker genes.
    """
    import pandas as pd
    from anndata import AnnData

    if min(num_cells, num_genes, num_types, num_batches) < 1 or num_genes < num_types:
        raise ValueError(f"{num_cells} cells, {num_genes} genes, {num_types} types, {num_batches} batches: too few")
    if gene_names is not None and len(gene_names) < num_genes:
        raise ValueError(f"gene_names holds {len(gene_names)} names for {num_genes} genes")
    names = [f"GENE{g:04d}" for g in range(num_genes)] if gene_names is None else list(gene_names[:num_genes])
    rng = np.random.default_rng(seed)
    type_n = np.arange(num_cells) % num_types
    batch_n = np.arange(num_cells) // num_types % num_batches
    rate_kg = np.tile(rng.lognormal(0.0, 1.0, num_genes), (num_types, 1))
    num_markers = max(1, min(num_genes // 8, num_genes // num_types))
    for k in range(num_types):
        rate_kg[k, k * num_markers : (k + 1) * num_markers] *= 8.0
    shift_bg = rng.lognormal(0.0, 0.25, (num_batches, num_genes))
    rate_ng = rate_kg[type_n] * shift_bg[batch_n] * rng.gamma(4.0, 0.25, (num_cells, num_genes))
    depth_n = rng.lognormal(np.log(depth), 0.3, num_cells)
    counts_ng = rng.poisson(rate_ng / rate_ng.sum(1, keepdims=True) * depth_n[:, None])
    counts_ng[counts_ng.sum(1) == 0, 0] = 1
    donor_n = batch_n * _DONORS_PER_BATCH + rng.integers(0, _DONORS_PER_BATCH, num_cells)
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical([f"type {k}" for k in type_n]),
            "tech_batch": pd.Categorical([f"batch {b}" for b in batch_n]),
            "donor": pd.Categorical([f"donor {d}" for d in donor_n]),
        },
        index=[f"cell{n:05d}" for n in range(num_cells)],
    )
    planted = {f"type {k}": names[k * num_markers : (k + 1) * num_markers] for k in range(num_types)}
    counts_ng = sp.csr_matrix(counts_ng.astype(np.float32))
    return AnnData(counts_ng, obs=obs, var=pd.DataFrame(index=names), uns={"planted": planted})
