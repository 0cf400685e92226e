"""Which matrix is taken, what is refused and in which words, and counts computed back from normalised values."""

import json

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

from cellwright.data import make_cells, open_cells
from cellwright.data.contract import recover_counts
from cellwright.data.state import inspect_matrix, sample_rows
from cellwright.vocab import GeneVocab


@pytest.fixture
def adata():
    return make_cells(40, 60, depth=400, seed=3)


@pytest.fixture
def vocab(adata):
    return GeneVocab.from_genes(adata.var_names, {"pad": "<pad>"})


def cp10k(counts_ng, target=1e4):
    counts_ng = sp.csr_matrix(counts_ng).toarray().astype(float)
    return counts_ng / counts_ng.sum(1, keepdims=True) * target


def logs(counts_ng, target=1e4):
    return sp.csr_matrix(np.log1p(cp10k(counts_ng, target)).astype(np.float32))


def dense(cells):
    return cells.values(np.arange(len(cells.vocab.genes))).toarray()


def test_a_counts_layer_comes_first(adata, vocab):
    counts_ng = adata.X.copy()
    adata.layers["counts"] = counts_ng
    adata.X = logs(counts_ng)
    cells = open_cells(adata, vocab)
    assert cells.contract.taken_from == 'layers["counts"]'
    assert (dense(cells) == counts_ng.toarray()).all()


def test_raw_x_is_taken_when_x_is_not_acceptable(adata, vocab):
    adata.raw = adata.copy()
    scaled_ng = logs(adata.X).toarray()
    adata.X = scaled_ng - scaled_ng.mean(0)
    assert open_cells(adata, vocab).contract.taken_from == "raw.X"


def test_the_best_accepted_state_wins_over_the_first_matrix(adata, vocab):
    adata.layers["counts"] = adata.X.copy()
    adata.X = logs(adata.X)
    cells = open_cells(adata, vocab, accepts=("log1p", "raw"))
    assert (cells.contract.taken_from, cells.state) == ("X", "log1p")


def test_layer_overrides_and_a_wrong_name_gets_a_hint(adata, vocab):
    adata.layers["spliced"] = adata.X * 2
    assert dense(open_cells(adata, vocab, layer="spliced")).sum() == 2 * adata.X.sum()
    with pytest.raises(ValueError, match="no matrix 'splice'.*did you mean 'spliced'"):
        open_cells(adata, vocab, layer="splice")
    with pytest.raises(ValueError, match="no matrix 'raw'"):
        open_cells(adata, vocab, layer="raw")


@pytest.mark.parametrize("form", ["log1p", "normalised", "log2", "log of counts"])
def test_counts_are_recovered_exactly_and_the_contract_says_so(adata, vocab, form):
    counts_ng = adata.X.toarray()
    values = {
        "log1p": np.log1p(cp10k(counts_ng)),
        "normalised": cp10k(counts_ng, 1e6),
        "log2": np.log2(1 + cp10k(counts_ng)),
        "log of counts": np.log1p(counts_ng),
    }
    adata.X = sp.csr_matrix(values[form].astype(np.float32))
    cells = open_cells(adata, vocab)
    assert cells.state == "raw"
    assert (dense(cells) == counts_ng).all()
    assert any("computed back" in note for note in cells.contract.notes)


def test_log1p_that_cannot_be_inverted_is_refused_with_the_reason(adata, vocab):
    rng = np.random.default_rng(0)
    adata.X = sp.csr_matrix(rng.uniform(0.1, 4.0, adata.shape) * (adata.X.toarray() > 0))
    with pytest.raises(ValueError, match=r"raw counts needed, but X is log1p .*cannot be recovered.*layer=.*assume="):
        open_cells(adata, vocab)


def test_recovery_needs_whole_multiples():
    counts_ng = sp.csr_matrix(np.array([[2.0, 3.0, 7.0], [1.0, 2.0, 5.0]]))
    logs_ng = counts_ng.copy()
    logs_ng.data = np.log1p(logs_ng.data * 3.7)
    state = inspect_matrix(logs_ng)
    with pytest.raises(ValueError, match="not whole multiples"):
        recover_counts(logs_ng, state)
    assert (recover_counts(logs_ng[1:], state).data == [1, 2, 5]).all()


def test_accepted_log1p_is_brought_to_ten_thousand_and_base_e(adata, vocab):
    expected = np.log1p(cp10k(adata.X))
    for values in (np.log2(1 + cp10k(adata.X)), np.log1p(cp10k(adata.X, 1e6)), np.log1p(adata.X.toarray())):
        other = adata.copy()
        other.X = sp.csr_matrix(values)
        cells = open_cells(other, vocab, accepts=("log1p",))
        assert np.allclose(dense(cells), expected, atol=1e-5)
        assert cells.contract.notes
    adata.X = logs(adata.X)
    assert open_cells(adata, vocab, accepts=("log1p",)).contract.notes == ()


def test_scaled_values_are_refused_with_cell_and_gene(adata, vocab):
    scaled_ng = logs(adata.X).toarray()
    adata.X = scaled_ng - scaled_ng.mean(0)
    row, column = np.argwhere(adata.X < 0)[0]
    expected = f"X is scaled.*cell '{adata.obs_names[row]}', gene '{adata.var_names[column]}'"
    for accepts in (("raw",), ("raw", "normalised", "log1p")):
        with pytest.raises(ValueError, match=expected):
            open_cells(adata, vocab, accepts=accepts)
    with pytest.raises(ValueError, match="first -"):
        open_cells(adata, vocab, assume="raw")


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_bad_values_outside_the_sample_are_found_too(vocab, value):
    adata = make_cells(2500, 60, depth=50, seed=1)
    row = min(set(range(2500)) - set(sample_rows(sp.csr_matrix((2500, 1)))[0].tolist()))
    counts_ng = adata.X.toarray()
    counts_ng[row, 5] = value
    adata.X = sp.csr_matrix(counts_ng)
    with pytest.raises(ValueError, match=f"holds .* at cell 'cell{row:05d}', gene 'GENE0005'"):
        open_cells(adata, vocab)


def test_binned_values_are_refused(adata, vocab):
    adata.X = sp.csr_matrix(np.random.default_rng(0).integers(1, 51, adata.shape))
    adata.X[:, 0] = 50
    with pytest.raises(ValueError, match="binned"):
        open_cells(adata, vocab, accepts=("raw", "log1p"))


def test_assume_overrides_the_finding_and_is_noted(adata, vocab):
    adata.X = adata.X * 0.93  # corrected counts
    adata.X.data[::3] = np.rint(adata.X.data[::3])
    adata.X.eliminate_zeros()
    with pytest.raises(ValueError, match="raw counts needed"):
        open_cells(adata, vocab)
    cells = open_cells(adata, vocab, assume="raw")
    assert cells.state == "raw"
    assert np.allclose(dense(cells).sum(), adata.X.sum())
    assert "taken as raw as asked" in cells.contract.notes[0]
    with pytest.raises(ValueError, match="assume = 'counts'; choose one of raw, normalised, log1p"):
        open_cells(adata, vocab, assume="counts")


def test_record_is_json_and_lines_are_text(adata, vocab):
    contract = open_cells(adata, vocab).contract
    record = json.loads(json.dumps(contract.record(), allow_nan=False))
    assert record["num_cells"] == 40
    assert record["state"]["kind"] == "raw"
    assert record["coverage"] == {"source_genes": 1.0, "vocab_genes": 1.0, "molecules": 1.0}
    assert all("\n" not in line for line in contract.lines())


def test_without_x_a_layer_can_be_named(adata, vocab):
    bare = anndata.AnnData(obs=adata.obs, var=adata.var, layers={"spliced": adata.X})
    with pytest.raises(ValueError, match="has no X; its layers are 'spliced': name one with layer="):
        open_cells(bare, vocab)
    assert open_cells(bare, vocab, layer="spliced").contract.taken_from == 'layers["spliced"]'
