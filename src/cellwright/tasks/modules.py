"""Gene modules: groups of genes with like vectors, how strongly cells use them, and what they are known for.

Sources: scGPT's gene programs (nearest neighbours of the gene table, Leiden, at least five genes), scFoundation's gene
modules (the same on context embeddings). Leiden is leidenalg's. Neighbours are weighted by how much their
neighbourhoods overlap (Levine et al. 2015, Cell 162:184), not by UMAP's weights as in the published notebooks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field
from scipy import sparse

from cellwright.config import Config
from cellwright.tasks.gene_features import GeneTable


class ModuleConfig(Config):
    """How genes are grouped."""

    num_neighbors: int = Field(15, ge=2)
    """Neighbours of a gene, itself counted (published 15)."""
    resolution: float = Field(5.0, gt=0)
    """Leiden's resolution: higher = more, smaller modules (published 40 for scGPT's table, 5 for scFoundation)."""
    min_genes: int = Field(5, ge=2)
    """Smaller modules are dropped (published 5)."""
    seed: int = Field(0, ge=0)


def find_modules(embedding: GeneTable, config: ModuleConfig | None = None) -> list[tuple[str, ...]]:
    """Group genes with like vectors (Euclidean, as published).

    Returns
    -------
    Modules, largest first; genes of dropped ones are in none.

    Raises
    ------
    ValueError
        When there are too few genes, no module is left, or leidenalg is not installed.
    """
    config = config or ModuleConfig()
    if len(embedding.genes) <= config.num_neighbors:
        raise ValueError(
            f"{len(embedding.genes)} genes have no {config.num_neighbors} neighbours each; lower the number"
        )
    code_g = _leiden(_weights(embedding.value_gd, config), config)
    groups = [np.flatnonzero(code_g == code) for code in range(code_g.max() + 1)]
    kept = sorted((rows for rows in groups if len(rows) >= config.min_genes), key=len, reverse=True)
    if not kept:
        raise ValueError(f"no module has {config.min_genes} genes; lower the resolution ({config.resolution:g})")
    return [tuple(embedding.genes[row] for row in rows) for rows in kept]


def _weights(x_gd: np.ndarray, config: ModuleConfig) -> sparse.csr_matrix:
    """Return how much the neighbourhoods of neighbouring genes overlap (Jaccard), symmetric, 0 .. 1."""
    from sklearn.neighbors import NearestNeighbors

    num = config.num_neighbors
    near_gg = NearestNeighbors(n_neighbors=num).fit(x_gd).kneighbors_graph(x_gd, mode="connectivity")
    shared_gg = (near_gg @ near_gg.T).multiply((near_gg + near_gg.T) > 0).tocsr()
    shared_gg.data = shared_gg.data / (2 * num - shared_gg.data)
    return shared_gg


def _leiden(weights_gg: sparse.csr_matrix, config: ModuleConfig) -> np.ndarray:
    try:
        import igraph
        import leidenalg
    except ImportError:
        raise ValueError('gene modules need leidenalg: pip install "cellwright[modules]"') from None
    edges = sparse.triu(weights_gg, k=1).tocoo()
    graph = igraph.Graph(n=weights_gg.shape[0], edges=np.stack([edges.row, edges.col], 1).tolist())
    found = leidenalg.find_partition(
        graph, leidenalg.RBConfigurationVertexPartition, weights=edges.data.tolist(), seed=config.seed,
        resolution_parameter=config.resolution, n_iterations=-1,
    )  # fmt: skip
    return np.asarray(found.membership)


def module_scores(
    logcp10k_ng: sparse.csr_matrix, genes: Sequence[str], modules: Sequence[Sequence[str]], *, seed: int = 0
) -> np.ndarray:
    """Score how strongly each cell uses each module (Tirosh et al. 2016, Science 352:189).

    The mean of the module's genes minus that of control genes of like mean expression: from each of 25 bins of mean
    expression that holds a gene of the module, 50 others drawn by seed, all of them where there are fewer (as scanpy's
    ``score_genes`` does, whose bins differ by a gene or two).

    Returns
    -------
    float32 ``[n, modules]``.
    """
    at = {gene: g for g, gene in enumerate(genes)}
    mean_g = np.asarray(logcp10k_ng.mean(axis=0)).ravel()
    bin_g = np.minimum(np.argsort(np.argsort(mean_g, kind="stable"), kind="stable") * 25 // max(len(genes), 1), 24)
    columns_ng = logcp10k_ng.tocsc()
    out_nm = np.zeros((logcp10k_ng.shape[0], len(modules)), np.float32)
    for m, module in enumerate(modules):
        own = np.array([at[gene] for gene in module if gene in at], np.int64)
        if not len(own):
            raise ValueError(f"no gene of module {m} ({', '.join(list(module)[:3])} ...) is among the cells' genes")
        generator = np.random.default_rng([seed, m])
        control: set[int] = set()
        for code in np.unique(bin_g[own]):
            pool = np.setdiff1d(np.flatnonzero(bin_g == code), own)
            control.update(generator.permutation(pool)[:50].tolist())
        out_nm[:, m] = _mean(columns_ng, own) - (_mean(columns_ng, np.array(sorted(control))) if control else 0)
    return out_nm


def _mean(columns_ng: sparse.csc_matrix, some: np.ndarray) -> np.ndarray:
    return np.asarray(columns_ng[:, some].mean(axis=1)).ravel()


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrichment:
    """How much a module and a gene set share."""

    module: int
    gene_set: str
    num_shared: int
    num_module: int
    num_set: int
    """Genes of the set among the background."""
    p_value: float
    """Chance of sharing at least so many (hypergeometric)."""
    q_value: float
    """Benjamini-Hochberg over all pairs that were tested."""


def enrich(
    modules: Sequence[Sequence[str]],
    gene_sets: Mapping[str, frozenset[str]],
    background: Sequence[str],
    *,
    min_shared: int = 2,
) -> list[Enrichment]:
    """Test every module against every gene set.

    Parameters
    ----------
    background
        Genes that could have been in a module; others do not count.
    min_shared
        Pairs that share fewer genes are tested (they count in the correction) and not returned.

    Returns
    -------
    Pairs by rising p-value.
    """
    from scipy.stats import false_discovery_control, hypergeom

    universe = set(background)
    sets = {name: genes & universe for name, genes in gene_sets.items()}
    sets = {name: genes for name, genes in sets.items() if genes}
    own = [set(module) & universe for module in modules]
    if not sets or not any(own):
        raise ValueError("modules or gene sets share no gene with the background; are the names of one kind?")
    pairs = [(m, name, len(some & sets[name])) for m, some in enumerate(own) for name in sets]
    sizes = np.array([(shared, len(sets[name]), len(own[m])) for m, name, shared in pairs])
    p_value = hypergeom.sf(sizes[:, 0] - 1, len(universe), sizes[:, 1], sizes[:, 2])
    q_value = false_discovery_control(np.clip(p_value, 0, 1))
    found = [
        Enrichment(
            module=m, gene_set=name, num_shared=shared, num_module=len(own[m]), num_set=len(sets[name]),
            p_value=float(p_value[i]), q_value=float(q_value[i]),
        )
        for i, (m, name, shared) in enumerate(pairs)
        if shared >= min_shared
    ]  # fmt: skip
    return sorted(found, key=lambda pair: (pair.p_value, pair.module, pair.gene_set))
