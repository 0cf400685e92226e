"""Every kind of file gives the same cells; everything that is not one of them is refused in one line."""

import anndata
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from unit.data.ten_x_files import write_10x, write_mtx

from cellwright.data import make_cells, open_cells, write_h5ad
from cellwright.data.sources import read_anndata
from cellwright.data.state import sample_rows
from cellwright.vocab import GeneVocab


@pytest.fixture
def vocab():
    return GeneVocab.from_genes(["MS4A1", "NKG7", "CD3E"], {"pad": "<pad>"})


def check(cells):
    """The three cells of COUNTS: MS4A1 is there twice and summed."""
    assert cells.obs_names.tolist() == ["AAA-1", "CCC-1", "GGG-1"]
    assert (cells.values(np.array([2, 0, 1])).toarray() == [[0, 7, 0], [1, 0, 0], [0, 1, 3]]).all()


@pytest.mark.parametrize("version", [2, 3])
def test_10x_h5(tmp_path, vocab, version):
    write_10x(tmp_path / "a.h5", version)
    cells = open_cells(tmp_path / "a.h5", vocab)
    check(cells)
    assert cells.contract.genes.duplicates["MS4A1"] == ("MS4A1", "MS4A1")


@pytest.mark.parametrize(("is_gzipped", "version"), [(True, 3), (False, 3), (False, 2)])
def test_10x_folder(tmp_path, vocab, is_gzipped, version):
    write_mtx(tmp_path / "run", is_gzipped, version)
    check(open_cells(tmp_path / "run", vocab))


def test_antibodies_in_10x_data_are_not_genes(tmp_path, vocab):
    write_10x(tmp_path / "a.h5", 3, ["Gene Expression"] * 3 + ["Antibody Capture"])
    cells = open_cells(tmp_path / "a.h5", vocab)
    assert cells.contract.num_genes == 3
    assert cells.read([0]).total_n == 2


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
@pytest.mark.parametrize("wrap", [sp.csr_matrix, sp.csc_matrix, np.asarray])
@pytest.mark.parametrize("backed", [False, True])
def test_anndata_stores(tmp_path, suffix, wrap, backed):
    pytest.importorskip("zarr")
    adata = make_cells(60, 40, seed=1)
    adata.X = wrap(adata.X.toarray())
    path = tmp_path / f"cells{suffix}"
    write_h5ad(adata, path)
    vocab = GeneVocab(adata.var_names[::-1])
    expected = open_cells(adata, vocab)
    if backed and wrap is sp.csc_matrix:
        with pytest.raises(ValueError, match="column-compressed.*use backed=False"):
            open_cells(path, vocab, backed=True)
        return
    cells = open_cells(path, vocab, backed=backed)
    assert (cells.contract.num_empty_cells is None) == backed
    rows = np.array([59, 0, 0, 31, 7, 33])
    for got, wanted in zip(_parts(cells.read(rows)), _parts(expected.read(rows)), strict=True):
        assert np.array_equal(got, wanted)
    assert (cells.logcp10k() != expected.logcp10k()).nnz == 0
    assert cells.read([]).value_z.shape == (0,)
    assert cells.obs.equals(expected.obs)


def _parts(batch):
    return batch.indptr_n1, batch.gene_z, batch.value_z, batch.row_n, batch.total_n


def test_counts_are_recovered_block_by_block_from_disk(tmp_path):
    adata = make_cells(50, 200, depth=500, seed=1)
    counts_ng = adata.X.toarray()
    adata.X = sp.csr_matrix(np.log1p(counts_ng / counts_ng.sum(1, keepdims=True) * 1e4))
    write_h5ad(adata, tmp_path / "log.h5ad")
    cells = open_cells(tmp_path / "log.h5ad", GeneVocab(adata.var_names), backed=True)
    assert (cells.values().toarray() == counts_ng).all()


def test_a_bad_value_on_disk_is_named_when_it_is_read(tmp_path):
    adata = make_cells(2500, 30, depth=40, seed=1)
    row = next(n for n in range(2000, 2500) if n not in _looked_at(2500))
    counts_ng = adata.X.toarray()
    counts_ng[row, 3] = np.nan
    adata.X = sp.csr_matrix(counts_ng)
    write_h5ad(adata, tmp_path / "bad.h5ad")
    cells = open_cells(tmp_path / "bad.h5ad", GeneVocab(adata.var_names), backed=True)
    assert len(cells.read([row - 1, 5])) == 2
    with pytest.raises(ValueError, match=f"X holds nan at cell 'cell{row:05d}', gene 'GENE0003'"):
        cells.read([row + 1, 5, row, 9])


def _looked_at(n):
    """Rows that opening reads: those inspected, and those that coverage is estimated from."""
    return {*sample_rows(sp.csr_matrix((n, 1)))[0].tolist(), *np.linspace(0, n - 1, 2000).astype(int).tolist()}


def test_an_anndata_opened_backed_works(tmp_path):
    adata = make_cells(30, 20, seed=2)
    adata.write_h5ad(tmp_path / "a.h5ad")
    lent = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    cells = open_cells(lent, GeneVocab(adata.var_names))
    assert (cells.values() != adata.X).nnz == 0
    lent.file.close()
    with pytest.raises(ValueError, match="only those of .h5ad and .zarr files can; use backed=False"):
        open_cells(adata, GeneVocab(adata.var_names), backed=True)


def test_missing_and_foreign_files(tmp_path, vocab):
    with pytest.raises(FileNotFoundError, match="no such file or folder: .*absent.h5ad"):
        open_cells(tmp_path / "absent.h5ad", vocab)
    (tmp_path / "table.h5ad").write_text("gene,cell\n")
    with pytest.raises(ValueError, match="table.h5ad is not an HDF5 file, so neither .h5ad nor 10x"):
        open_cells(str(tmp_path / "table.h5ad"), vocab)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="neither an AnnData .zarr store nor a 10x folder"):
        open_cells(tmp_path / "empty", vocab)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["weights"] = [1.0]
    with pytest.raises(ValueError, match="HDF5 but neither .h5ad nor 10x .h5; it holds weights"):
        open_cells(tmp_path / "other.h5", vocab)
    with h5py.File(tmp_path / "multi.h5mu", "w") as file:
        file.create_group("mod/rna")
    with pytest.raises(ValueError, match=r"MuData file \(rna\); write one modality"):
        open_cells(tmp_path / "multi.h5mu", vocab)
    with pytest.raises(ValueError, match="expected a path or an AnnData, got list"):
        open_cells([1, 2], vocab)


def test_truncated_h5ad(tmp_path):
    adata = make_cells(60, 40, seed=1)
    adata.write_h5ad(tmp_path / "whole.h5ad")
    content = (tmp_path / "whole.h5ad").read_bytes()
    for share in (0.3, 0.9):
        (tmp_path / "cut.h5ad").write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match=r"cut.h5ad is damaged or cut short .*; copy or download it again"):
            open_cells(tmp_path / "cut.h5ad", GeneVocab(adata.var_names))


def test_h5ad_without_x_cells_or_genes(tmp_path, vocab):
    adata = make_cells(5, 6, seed=1)
    anndata.AnnData(obs=adata.obs, var=adata.var).write_h5ad(tmp_path / "nox.h5ad")
    with pytest.raises(ValueError, match="has no X; its layers are none"):
        open_cells(tmp_path / "nox.h5ad", vocab)
    with pytest.raises(ValueError, match=r"has no cells \(0 cells x 6 genes\)"):
        open_cells(adata[:0], vocab)
    with pytest.raises(ValueError, match=r"has no genes \(5 cells x 0 genes\)"):
        open_cells(adata[:, :0], vocab)


def test_10x_folder_with_missing_or_unequal_tables(tmp_path, vocab):
    write_mtx(tmp_path / "short", False, barcodes=("AAA-1",))
    with pytest.raises(ValueError, match="4 genes x 3 cells, features.tsv has 4 lines and barcodes.tsv 1"):
        open_cells(tmp_path / "short", vocab)
    (tmp_path / "short" / "barcodes.tsv").unlink()
    with pytest.raises(ValueError, match="has a matrix.mtx but no barcodes.tsv"):
        open_cells(tmp_path / "short", vocab)
    write_10x(tmp_path / "two.h5", 2, genomes=("hg19", "mm10"))
    with pytest.raises(ValueError, match="several genomes"):
        open_cells(tmp_path / "two.h5", vocab)


def test_read_anndata_reads_every_kind(tmp_path):
    adata = make_cells(6, 5, seed=0)
    for suffix in (".h5ad", ".zarr"):
        write_h5ad(adata, tmp_path / f"a{suffix}")
        assert (read_anndata(tmp_path / f"a{suffix}").X != adata.X).nnz == 0
    write_10x(tmp_path / "a.h5", 3)
    assert read_anndata(tmp_path / "a.h5").var_names.tolist() == ["CD3E", "MS4A1", "NKG7", "MS4A1-1"]
    assert read_anndata(adata) is adata
    with pytest.raises(FileNotFoundError):
        read_anndata(tmp_path / "absent.h5ad")
