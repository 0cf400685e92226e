"""Cells on a vocabulary: what a read returns, what views share, and that nothing lent is changed."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from cellwright.data import label_codes, make_cells, open_cells
from cellwright.protocols import CellSource
from cellwright.vocab import GeneVocab

NAMES = ["ENSG00000198851.4", "NOT_A_GENE", "MARCH8", "MARCHF8", "MS4A1"]
COUNTS = np.array([[3, 9, 1, 2, 0], [0, 4, 0, 0, 0], [0, 0, 0, 0, 6]], dtype=np.float32)


@pytest.fixture
def vocab():
    return GeneVocab(["<pad>", "MS4A1", "MARCHF8", "CD3E"], {"pad": "<pad>"})


@pytest.fixture
def adata():
    obs = pd.DataFrame({"label": ["a", "b", "a"]}, index=["c0", "c1", "c2"])
    return anndata.AnnData(sp.csr_matrix(COUNTS), obs=obs, var=pd.DataFrame(index=NAMES))


def test_read_returns_the_contract_of_cell_batch(adata, vocab):
    cells = open_cells(adata, vocab)
    assert isinstance(cells.state, str)
    assert len(cells) == 3
    source: CellSource = cells
    batch = source.read(np.array([2, 0, 1, 0]))
    assert batch.indptr_n1.tolist() == [0, 1, 3, 3, 5]
    assert batch.gene_z.tolist() == [1, 2, 3, 2, 3]
    assert batch.value_z.tolist() == [6, 3, 3, 3, 3]
    assert batch.row_n.tolist() == [2, 0, 1, 0]
    assert batch.total_n.tolist() == [6, 15, 4, 15]
    types = [batch.indptr_n1, batch.gene_z, batch.value_z, batch.row_n, batch.total_n]
    assert [part.dtype for part in types] == [np.int64, np.int32, np.float32, np.int64, np.float64]


def test_empty_cells_stay_and_are_counted(adata, vocab):
    contract = open_cells(adata, vocab).contract
    assert contract.num_empty_cells == 1
    assert "1 cells express no gene of the vocabulary; they are kept, empty" in contract.warnings
    assert contract.coverage["molecules"] == pytest.approx(12 / 25)
    assert any("only 48.0% of expression" in warning for warning in contract.warnings)


@pytest.mark.parametrize("wrap", [sp.csr_matrix, sp.csc_matrix, sp.csr_array, np.asarray])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint16", "uint8"])
def test_every_matrix_format_and_type_reads_the_same(adata, vocab, wrap, dtype):
    expected = open_cells(adata, vocab).values(np.arange(4))
    adata.X = wrap(COUNTS.astype(dtype))
    assert (open_cells(adata, vocab).values(np.arange(4)) != expected).nnz == 0


def test_stored_zeros_unsorted_and_repeated_entries(vocab):
    parts = (np.array([0.0, 2, 1, 4]), np.array([4, 3, 2, 3]), np.array([0, 4]))
    stored = sp.csr_matrix(parts, shape=(1, 5))
    adata = anndata.AnnData(stored, var=pd.DataFrame(index=NAMES))
    batch = open_cells(adata, vocab).read([0])
    assert (batch.gene_z.tolist(), batch.value_z.tolist(), batch.total_n.tolist()) == ([2], [7], [7])


def test_nothing_lent_is_changed_and_obs_is_a_copy(adata, vocab):
    before = adata.X.copy()
    cells = open_cells(adata, vocab)
    obs = cells.obs
    obs["label"] = "changed"
    obs["new"] = 1
    batch = cells.read([0])
    batch.value_z[:] = -1
    assert adata.obs.columns.tolist() == ["label"]
    assert adata.obs["label"].tolist() == ["a", "b", "a"]
    assert (adata.X != before).nnz == 0
    assert cells.obs["label"].tolist() == ["a", "b", "a"]
    assert cells.read([0]).value_z.tolist() == [3, 3]


def test_views_share_values_and_keep_positions(adata, vocab):
    cells = open_cells(adata, vocab)
    codes, classes = label_codes(adata.obs, "label")
    view = cells.with_obs({"label": codes}).select([2, 1]).select([1])
    batch = view.read([0])
    assert (batch.row_n.tolist(), batch.obs["label"].tolist(), classes) == ([1], [1], ("a", "b"))
    assert view.obs_names.tolist() == ["c1"]
    assert view.row_n.tolist() == [1]
    assert cells.read([0]).obs == {}
    assert view._store is cells._store


def test_mistaken_rows_and_codes(adata, vocab):
    cells = open_cells(adata, vocab)
    for rows in ([3], [-1]):
        with pytest.raises(ValueError, match="rows must be 0 .. 2"):
            cells.read(rows)
    with pytest.raises(ValueError, match="list of positions"):
        cells.read([0.5])
    for codes in ([0, 1], [0.0, 1.0, 2.0], [0, -2, 1]):
        with pytest.raises(ValueError, match="codes 'label' must be 3 integers"):
            cells.with_obs({"label": np.array(codes)})


def test_logcp10k_uses_the_total_of_all_genes(adata, vocab):
    logs = open_cells(adata, vocab).logcp10k(np.array([3, 2])).toarray()
    assert np.allclose(logs[0], np.log1p([3 / 15 * 1e4, 3 / 15 * 1e4]))
    assert logs[1].tolist() == [0, 0]
    with pytest.raises(ValueError, match="gene ids must be 0 .. 3"):
        open_cells(adata, vocab).logcp10k(np.array([4]))


def test_logcp10k_of_log1p_and_normalised_input_equals_that_of_counts():
    adata = make_cells(20, 30, seed=4)
    vocab = GeneVocab(adata.var_names)
    expected = open_cells(adata, vocab).logcp10k().toarray()
    counts_ng = adata.X.toarray()
    cpm_ng = counts_ng / counts_ng.sum(1, keepdims=True) * 1e6
    for values, accepts in ((cpm_ng, "normalised"), (np.log1p(cpm_ng / 100), "log1p")):
        adata.X = sp.csr_matrix(values)
        assert np.allclose(open_cells(adata, vocab, accepts=(accepts,)).logcp10k().toarray(), expected, atol=1e-5)


def test_what_a_heading_calls_the_data(adata, vocab, tmp_path):
    assert open_cells(adata, vocab).contract.title == "3 cells x 5 genes in memory"
    for unusable in (3, "", " ", ["blood"]):
        adata.uns["name"] = unusable
        assert open_cells(adata, vocab).contract.source == "AnnData"
    adata.uns["name"] = "blood/second run"
    named = open_cells(adata, vocab).contract
    assert (named.source, named.title) == ("blood/second run",) * 2
    assert named.lines()[0].startswith("blood/second run: 3 cells x 5 genes from X")
    with pytest.raises(ValueError, match="of blood/second run cannot stay on disk"):
        open_cells(adata, vocab, backed=True)
    adata.write_h5ad(tmp_path / "cells.h5ad")  # of a file it is the file's name
    assert open_cells(tmp_path / "cells.h5ad", vocab).contract.title == "cells.h5ad"


def test_one_cell_and_repeated_cell_names(adata, vocab):
    assert open_cells(adata[:1], vocab).read([0]).value_z.tolist() == [3, 3]
    with pytest.warns(UserWarning, match="Observation names are not unique"):
        twice = anndata.concat([adata, adata])
    assert "3 cell names repeat an earlier one" in open_cells(twice, vocab).contract.warnings


def test_repeated_gene_names_are_summed(vocab):
    with pytest.warns(UserWarning, match="Variable names are not unique"):
        adata = anndata.AnnData(COUNTS, var=pd.DataFrame(index=["MS4A1", "MS4A1", "CD3E", "X1", "CD3E"]))
    cells = open_cells(adata, vocab)
    assert cells.read([0]).value_z.tolist() == [12, 1]
    assert cells.contract.genes.duplicates == {"MS4A1": ("MS4A1", "MS4A1"), "CD3E": ("CD3E", "CD3E")}


def test_names_from_var_columns(vocab):
    var = pd.DataFrame({"feature_name": ["MS4A1", "CD3E", None, "MARCH8", "X1"]}, index=list("01234"))
    match = open_cells(anndata.AnnData(COUNTS, var=var), vocab).contract.genes
    assert (match.column, match.num_matched) == ("feature_name", 3)


def test_low_coverage_is_a_warning_but_a_small_panel_is_not():
    adata = make_cells(20, 40, seed=1)
    others = [f"OTHER{i}" for i in range(60)]
    warned = open_cells(adata, GeneVocab([*adata.var_names[:10], *others])).contract.warnings
    assert any("only 10 of 40 genes" in warning for warning in warned)
    assert open_cells(adata, GeneVocab(adata.var_names[:10])).contract.warnings == ()


def test_zero_overlap_is_refused(adata):
    with pytest.raises(ValueError, match="none of the 5 genes is in the vocabulary"):
        open_cells(adata, GeneVocab(["TP53", "GAPDH"]))
