"""Graphs between genes, built offline: who shares gene sets, who is expressed together.

GEARS (Roohani et al., Nature Biotechnology 42:927, 2024) draws its perturbation graph from shared Gene Ontology terms
(Jaccard index) and its gene graph from co-expression; both keep each gene's strongest neighbours. The same here, from
any ``.gmt`` file and from the control cells alone. Nothing is fetched: sets that are not given are not there.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import svds

from cellwright.data.gene_table import human_genes

MAX_SET = 500
"""Larger gene sets say little about a pair of genes and are left out."""


@dataclass(frozen=True, slots=True, eq=False)
class GeneGraph:
    """Weighted edges between named genes."""

    genes: tuple[str, ...]
    weight_gg: sparse.csr_array
    """float64, 0 .. 1: row = gene, column = one of its neighbours; nobody is its own neighbour. Not symmetric: a gene
    may be among another's nearest without the other being among its own."""
    what: str
    """How it was built, in words."""

    def __post_init__(self):
        if self.weight_gg.shape != (len(self.genes),) * 2:
            raise ValueError(f"weights are {self.weight_gg.shape} for {len(self.genes)} genes")

    @property
    def isolated(self) -> tuple[str, ...]:
        """Genes without a neighbour."""
        return tuple(self.genes[i] for i in np.flatnonzero(np.diff(self.weight_gg.indptr) == 0))

    def over(self, nodes: Sequence[str], same: Mapping[str, str] | None = None) -> GeneGraph:
        """Return the graph over other nodes, which hold all of its genes; new ones are isolated.

        ``same`` names nodes that are a gene of the graph under another name: they get its neighbours.
        """
        at = {name: i for i, name in enumerate(nodes)}
        move_g = np.array([at[gene] for gene in self.genes], np.int64)
        edges = self.weight_gg.tocoo()
        row, column = (move_g[part] for part in edges.coords)
        rows, columns, weights = [row], [column], [edges.data]
        for name, gene in (same or {}).items():
            if name != gene:
                is_its = row == at[gene]
                rows.append(np.full(is_its.sum(), at[name]))
                columns.append(column[is_its])
                weights.append(edges.data[is_its])
        kept = (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns)))
        weight_gg = sparse.coo_array(kept, shape=(len(nodes),) * 2).tocsr()
        return GeneGraph(tuple(nodes), weight_gg, self.what)

    def smoother(self) -> sparse.csr_array:
        """Return the matrix of a graph convolution: neighbours and the gene itself (weight 1), rows sum to 1."""
        whole_gg = (self.weight_gg + sparse.eye_array(len(self.genes), format="csr")).tocsr()
        return (sparse.diags_array(1 / whole_gg.sum(axis=1)) @ whole_gg).tocsr()

    def record(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "what": self.what,
            "num_genes": len(self.genes),
            "num_edges": int(self.weight_gg.nnz),
            "isolated": list(self.isolated),
        }


def read_gene_sets(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Read gene sets from a ``.gmt`` file (plain or ``.gz``): name, description, genes, parted by tabs.

    Raises
    ------
    FileNotFoundError, ValueError
        No such file; a line that is not of this form, or no set at all.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file of gene sets {path}")
    content = path.read_bytes()
    try:
        text = (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a readable file of gene sets ({error})") from None
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        name, *rest = line.split("\t")
        genes = tuple(dict.fromkeys(gene.strip().split(",")[0] for gene in rest[1:] if gene.strip()))
        if not name or not genes:
            raise ValueError(f"{path}, line {number}: not a gene set (name, description, genes, parted by tabs)")
        found[name] = genes
    if not found:
        raise ValueError(f"{path} holds no gene set")
    return found


def membership(genes: Sequence[str], sets: Mapping[str, Sequence[str]]) -> sparse.csr_array:
    """Return which gene is in which set, float64 ``[g, sets]`` of 0 and 1.

    Names are compared by approved human symbol, where there is one. Sets of more than `MAX_SET` genes, and those with
    fewer than two of ``genes``, are left out.
    """
    table = human_genes()
    rows: dict[str, list[int]] = {}
    for at, gene in enumerate(genes):
        rows.setdefault(table.symbol(gene)[0] or gene, []).append(at)
    at_m, set_m, num = [], [], 0
    for members in sets.values():
        if len(members) > MAX_SET:
            continue
        found = sorted({at for gene in members for at in rows.get(table.symbol(gene)[0] or gene, ())})
        if len(found) > 1:
            at_m += found
            set_m += [num] * len(found)
            num += 1
    return sparse.coo_array((np.ones(len(at_m)), (at_m, set_m)), shape=(len(genes), num)).tocsr()


def gene_set_graph(genes: Sequence[str], sets: Mapping[str, Sequence[str]], *, num_neighbors: int = 20) -> GeneGraph:
    """Join genes that share gene sets: the weight is the Jaccard index of the sets that each is in.

    Parameters
    ----------
    num_neighbors
        Neighbours kept of each gene, those of largest weight (equal ones by the order of ``genes``).
    """
    member_gs = membership(genes, sets)
    shared_gg = (member_gs @ member_gs.T).tocoo()
    size_g = np.asarray(member_gs.sum(axis=1)).ravel()
    row, column = shared_gg.coords
    weight = shared_gg.data / np.maximum(size_g[row] + size_g[column] - shared_gg.data, 1)
    what = f"Jaccard index of {member_gs.shape[1]} shared gene sets, {num_neighbors} neighbours each"
    return GeneGraph(tuple(genes), _nearest((row, column, weight), len(genes), num_neighbors), what)


def coexpression_graph(
    genes: Sequence[str], log_ng: sparse.csr_array | sparse.csr_matrix, *, num_neighbors: int = 20, least: float = 0.1
) -> GeneGraph:
    """Join genes that are expressed together: the weight is the absolute correlation over cells.

    Parameters
    ----------
    log_ng
        Log expression of the cells to look at, control cells as a rule: perturbed cells that are held out may not shape
        the graph. Columns are ``genes``.
    least
        Correlations below are no edges.
    """
    if log_ng.shape[1] != len(genes):
        raise ValueError(f"expression has {log_ng.shape[1]} genes, {len(genes)} names were given")
    value_ng = np.asarray(log_ng.todense(), np.float32)
    value_ng -= value_ng.mean(0)
    length_g = np.linalg.norm(value_ng, axis=0)
    value_ng /= np.where(length_g > 0, length_g, 1)
    edges: tuple[list[np.ndarray], ...] = ([], [], [])
    for first in range(0, len(genes), 1024):  # a block of genes at a time: 20,000 genes have 400 million pairs
        block_gg = np.abs(value_ng[:, first : first + 1024].T @ value_ng)
        top_gk = np.argsort(-block_gg, axis=1, kind="stable")[:, : num_neighbors + 1]
        row = np.repeat(np.arange(first, first + len(top_gk)), top_gk.shape[1])
        weight = np.take_along_axis(block_gg, top_gk, 1).ravel()
        is_edge = weight >= least
        for kept, values in zip(edges, (row, top_gk.ravel(), weight), strict=True):
            kept.append(values[is_edge])
    row, column, weight = (np.concatenate(part) for part in edges)
    what = f"correlation of {least} or more in {log_ng.shape[0]} control cells, {num_neighbors} neighbours each"
    return GeneGraph(tuple(genes), _nearest((row, column, np.minimum(weight, 1)), len(genes), num_neighbors), what)


def gene_set_features(genes: Sequence[str], sets: Mapping[str, Sequence[str]], *, width: int = 32) -> np.ndarray:
    """Return coordinates of genes by the sets they are in, float64 ``[g, width or fewer]``.

    The leading left singular vectors of the membership matrix, its columns weighted by log(genes / genes in the set),
    times their singular values. A gene in no set is at 0.
    """
    member_gs = membership(genes, sets)
    if not member_gs.nnz:
        return np.zeros((len(genes), 0))
    size_s = np.asarray(member_gs.sum(axis=0)).ravel()
    weighted_gs = (member_gs @ sparse.diags_array(np.log(len(genes) / size_s) + 1e-3)).tocsr()
    least = min(weighted_gs.shape)
    if width < least:  # the iteration starts from a fixed vector: it gives the same on every call
        vector_gk, value_k, _ = svds(weighted_gs, width, v0=np.full(least, least**-0.5))
    else:
        vector_gk, value_k, _ = np.linalg.svd(weighted_gs.toarray(), full_matrices=False)
    order_k = np.argsort(-value_k, kind="stable")
    vector_gk, value_k = vector_gk[:, order_k], value_k[order_k]
    sign_k = np.sign(vector_gk[np.abs(vector_gk).argmax(0), np.arange(len(value_k))])
    return vector_gk * value_k * sign_k


def graph_sha256(graph: GeneGraph) -> str:
    """Hash a graph's names and weights."""
    digest = hashlib.sha256("\n".join(graph.genes).encode())
    for part in (graph.weight_gg.indptr, graph.weight_gg.indices, np.round(graph.weight_gg.data, 6)):
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def _nearest(edges: tuple[np.ndarray, ...], num_genes: int, num_neighbors: int) -> sparse.csr_array:
    """Keep the strongest edges of each row; an edge of a gene to itself is none."""
    row, column, weight = (part[edges[0] != edges[1]] for part in edges)
    order = np.lexsort((column, -weight, row))
    row, column, weight = row[order], column[order], weight[order].astype(np.float64)
    start = np.searchsorted(row, row)
    is_kept = (np.arange(len(row)) - start < num_neighbors) & (weight > 0)
    kept = (weight[is_kept], (row[is_kept], column[is_kept]))
    out_gg = sparse.coo_array(kept, shape=(num_genes, num_genes)).tocsr()
    out_gg.sort_indices()
    return out_gg
