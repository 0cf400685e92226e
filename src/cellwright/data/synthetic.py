"""Tiny cells with planted structure, for tests, examples and documentation. They are not a model of biology.

Each type over-expresses its own eighth of the genes; sequencing batches scale every gene a little; depth differs
between cells. Everything follows from the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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


def make_multimodal(
    num_cells: int = 120,
    num_genes: int = 120,
    *,
    num_proteins: int = 8,
    num_peaks: int = 60,
    num_types: int = 3,
    num_batches: int = 2,
    seed: int = 0,
) -> AnnData:
    """Make cells of `make_cells` with proteins and peaks that follow their types.

    Each type has proteins of its own, over a background that all cells have, and peaks that are open mostly in it.

    Returns
    -------
    AnnData
        X = counts of genes, proteins (``P0`` ..) and peaks (``chr1-1000-1500`` ..), told apart by
        ``var["feature_types"]``; obs as of `make_cells`.
    """
    import pandas as pd
    from anndata import AnnData

    cells = make_cells(num_cells, num_genes, num_types=num_types, num_batches=num_batches, seed=seed)
    rng = np.random.default_rng([seed, 1])
    type_n = np.arange(num_cells) % num_types
    is_own_np = np.arange(num_proteins) % num_types == type_n[:, None]
    # background, own proteins, and a depth of staining that all proteins of a cell share
    rate_np = np.where(is_own_np, 400.0, 12.0) * rng.gamma(20, 1 / 20, (num_cells, 1))
    protein_np = rng.poisson(rate_np * rng.gamma(4, 1 / 4, rate_np.shape))
    is_open_nq = rng.random((num_cells, num_peaks)) < np.where(
        np.arange(num_peaks) % num_types == type_n[:, None], 0.5, 0.08
    )
    names = [f"P{p}" for p in range(num_proteins)]
    names += [f"chr1-{1000 * q + 1000}-{1000 * q + 1500}" for q in range(num_peaks)]
    kinds = ["Gene Expression"] * num_genes + ["Antibody Capture"] * num_proteins + ["Peaks"] * num_peaks
    var = pd.DataFrame({"feature_types": kinds}, index=[*cells.var_names, *names])
    x_nf = sp.hstack([cells.X, sp.csr_matrix(protein_np), sp.csr_matrix(is_open_nq)], format="csr", dtype=np.float32)
    return AnnData(x_nf, obs=cells.obs, var=var, uns=dict(cells.uns))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenPlan:
    """What a made-up perturbation screen holds."""

    num_modules: int = 4
    """Groups of perturbed genes with like effects; each group is a gene set."""
    genes_per_module: int = 4
    doubles: int = 6
    """Combinations of two genes of different groups; their effects add up, but for ``synergy``."""
    cells_each: int = 60
    """Cells of each condition and context; twice as many controls."""
    contexts: tuple[str, ...] = ("line",)
    """Cell types; each has its own expression, effects are the same."""
    num_measured: int = 2
    """Perturbed genes that are in the panel; the others are known by name only."""
    strength: float = 1.0
    """Standard deviation of a group's effect on log rates; 0 = nothing happens."""
    synergy: float = 0.0
    """Standard deviation of what a combination adds of its own, to log rates of a tenth of the genes; 0 = nothing."""


def make_perturbed_cells(
    num_genes: int = 120, plan: ScreenPlan | None = None, *, depth: float = 3000.0, seed: int = 0
) -> AnnData:
    """Make raw counts of a perturbation screen whose effects are known.

    A perturbed gene changes the log rates of a quarter of the genes: by its group's effect, and by a third as much of
    its own. Perturbed genes are called ``P00``, ``P01``, ...; combinations ``P00+P05``; controls ``ctrl``.

    Returns
    -------
    AnnData
        X = counts (float32 CSR); obs ``perturbation``, ``cell_type``, ``tech_batch``. ``uns["sets"]`` maps each group
        to its genes, ``uns["effect"]`` holds the planted change of log rates ``[perturbed genes, num_genes]``,
    ``uns["synergy"]`` what each combination adds, by name.
    """
    import pandas as pd
    from anndata import AnnData

    plan = plan or ScreenPlan()
    rng = np.random.default_rng(seed)
    num = plan.num_modules * plan.genes_per_module
    perturbed = [f"P{i:02d}" for i in range(num)]
    names = [*perturbed[: plan.num_measured], *(f"GENE{g:04d}" for g in range(num_genes - plan.num_measured))]
    module_p = np.arange(num) // plan.genes_per_module
    is_hit_mg = rng.random((plan.num_modules, num_genes)) < 0.25
    module_mg = rng.normal(0, plan.strength, (plan.num_modules, num_genes)) * is_hit_mg
    own_pg = rng.normal(0, plan.strength / 3, (num, num_genes)) * is_hit_mg[module_p]
    effect_pg = module_mg[module_p] + own_pg
    pairs = [(i, j) for i in range(num) for j in range(i) if module_p[i] != module_p[j]]
    pairs = [pairs[at] for at in rng.permutation(len(pairs))[: plan.doubles]]
    whole = np.zeros((1, num_genes))
    extra = np.random.default_rng([seed, 1])
    synergy_qg = extra.normal(0, plan.synergy, (len(pairs), num_genes)) * (extra.random((len(pairs), num_genes)) < 0.1)
    doubles = [effect_pg[i] + effect_pg[j] + own_g for (i, j), own_g in zip(pairs, synergy_qg, strict=True)]
    effects = [whole[0], whole[0], *effect_pg, *doubles]
    names_q = [f"{perturbed[j]}+{perturbed[i]}" for i, j in pairs]
    labels = ["ctrl", "ctrl", *perturbed, *names_q]
    base_cg = rng.lognormal(0, 1, (len(plan.contexts), num_genes))
    rows, label_n, context_n = [], [], []
    for context, base_g in zip(plan.contexts, base_cg, strict=True):
        for label, effect_g in zip(labels, effects, strict=True):
            rate_g = base_g * np.exp(effect_g)
            rate_ng = rate_g * rng.gamma(8, 1 / 8, (plan.cells_each, num_genes))
            depth_n = rng.lognormal(np.log(depth), 0.2, plan.cells_each)
            rows.append(rng.poisson(rate_ng / rate_ng.sum(1, keepdims=True) * depth_n[:, None]))
            label_n += [label] * plan.cells_each
            context_n += [context] * plan.cells_each
    counts_ng = np.concatenate(rows).astype(np.float32)
    order = rng.permutation(len(counts_ng))
    obs = pd.DataFrame(
        {
            "perturbation": pd.Categorical(np.array(label_n)[order]),
            "cell_type": pd.Categorical(np.array(context_n)[order]),
            "tech_batch": pd.Categorical([f"batch {i % 2}" for i in range(len(order))]),
        },
        index=[f"cell{n:05d}" for n in range(len(order))],
    )
    sets = {f"set {m}": [p for p, own in zip(perturbed, module_p, strict=True) if own == m] for m in set(module_p)}
    synergy = dict(zip(names_q, synergy_qg, strict=True))
    uns = {"sets": sets, "effect": effect_pg, "perturbed": perturbed, "synergy": synergy}
    return AnnData(sp.csr_matrix(counts_ng[order]), obs=obs, var=pd.DataFrame(index=names), uns=uns)
