"""Planted variable genes are found, and streaming gives the same as the formula written out densely."""

import numpy as np
import pytest
import scipy.sparse as sp

from cellwright.data import make_cells, open_cells, select_genes, select_genes_of_groups
from cellwright.vocab import GeneVocab


@pytest.fixture
def planted():
    """2 x 3 marker sets in 300 genes, and the cells on a vocabulary in another order with a special token."""
    adata = make_cells(300, 300, depth=3000, num_batches=1, seed=2)
    markers = {gene for genes in adata.uns["planted"].values() for gene in genes}
    return adata, GeneVocab(["<pad>", *adata.var_names[::-1]], {"pad": "<pad>"}), markers


def names(genes, vocab):
    return {vocab.tokens[i] for i in genes}


@pytest.mark.parametrize("state", ["raw", "normalised", "log1p"])
def test_planted_markers_are_found(planted, state):
    adata, vocab, markers = planted
    if state != "raw":
        counts_ng = adata.X.toarray()
        values = counts_ng / counts_ng.sum(1, keepdims=True) * 1e4
        adata.X = sp.csr_matrix(values if state == "normalised" else np.log1p(values))
    cells = open_cells(adata, vocab, accepts=(state,))
    chosen = select_genes(cells, len(markers))
    assert (np.diff(chosen) > 0).all()
    assert chosen.dtype == np.int64
    share = len(names(chosen, vocab) & markers) / len(markers)
    assert share > (0.85 if state == "raw" else 0.6), share  # chance: 0.37


def test_counts_score_equals_the_published_formula(planted):
    adata, vocab, _ = planted
    counts_ng = adata.X.toarray().astype(float)
    mean_ng = np.outer(counts_ng.sum(1), counts_ng.sum(0)) / counts_ng.sum()
    residual_ng = (counts_ng - mean_ng) / np.sqrt(mean_ng + mean_ng**2 / 100)
    score_g = np.clip(residual_ng, -np.sqrt(300), np.sqrt(300)).var(0)
    expected = set(adata.var_names[np.argsort(-score_g)[:50]])
    for block in (7, 2048):
        assert names(select_genes(open_cells(adata, vocab), 50, block=block), vocab) == expected


def test_only_the_given_rows_count(planted):
    adata, vocab, _ = planted
    cells = open_cells(adata, vocab)
    rows = np.arange(0, 300, 3)  # one planted type only
    assert (select_genes(cells, 40, rows=rows) == select_genes(cells.select(rows), 40)).all()
    assert set(select_genes(cells, 40, rows=rows)) != set(select_genes(cells, 40))


def test_genes_that_nobody_expresses_are_never_chosen():
    adata = make_cells(40, 20, seed=1)
    adata.X = sp.csr_matrix(adata.X.toarray() * (np.arange(20) < 12))
    cells = open_cells(adata, GeneVocab(adata.var_names))
    assert select_genes(cells, 12).tolist() == list(range(12))
    with pytest.raises(ValueError, match="13 genes wanted, but only 12 are expressed in these 40 cells"):
        select_genes(cells, 13)
    with pytest.raises(ValueError, match="cannot choose 3 genes from 0 cells"):
        select_genes(cells, 3, rows=np.array([], np.int64))


def test_genes_that_only_tell_groups_apart_are_not_chosen():
    """A gene that is loud in one batch and silent in the other varies over all cells, and within neither batch."""
    adata = make_cells(300, 120, depth=3000, num_batches=2, seed=4)
    counts_ng, batch_n = adata.X.toarray(), adata.obs["tech_batch"].cat.codes.to_numpy()
    markers = {gene for some in adata.uns["planted"].values() for gene in some}
    between = [name for name in adata.var_names if name not in markers][:10]
    at = adata.var_names.get_indexer(between)
    loud_n = np.where(batch_n == 0, counts_ng.sum(1) / 60, 0)
    counts_ng[:, at] = np.random.default_rng(0).poisson(np.repeat(loud_n[:, None], 10, axis=1))
    adata.X = sp.csr_matrix(counts_ng.astype(np.float32))
    vocab = GeneVocab(adata.var_names)
    cells = open_cells(adata, vocab)
    assert set(between) <= names(select_genes(cells, 60), vocab)
    chosen = select_genes_of_groups(cells, 60, batch_n)
    assert len(set(chosen.tolist())) == 60
    assert len(set(between) & names(chosen, vocab)) <= 5
    assert markers <= names(chosen, vocab)
    assert (select_genes_of_groups(cells, 30, np.zeros(300, int)) == select_genes(cells, 30)).all()
    with pytest.raises(ValueError, match="121 genes wanted"):
        select_genes_of_groups(cells, 121, batch_n)
