"""OUT = DATA with additions: everything stays, nothing half-written, nothing lent changed."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from unit.data.ten_x_files import write_10x

from cellwright.data import make_cells, open_cells, write_h5ad
from cellwright.data.write import check_out, storable
from cellwright.vocab import GeneVocab

PROVENANCE = {
    "version": "0.1",
    "seed": 3,
    "nested": {"share": 0.5, "is_ok": True, "none": None, "names": ["a", "b"], "numbers": [1, 2]},
    "per_type": {"CD4+/CD45RO+ Memory": 3},
    "nothing": [],
}


@pytest.fixture
def full():
    """An AnnData with something in every slot."""
    adata = make_cells(30, 20, seed=1)
    adata.layers["counts"] = adata.X.copy()
    adata.raw = adata.copy()
    adata.obsm["X_pca"] = np.arange(60.0).reshape(30, 2)
    adata.varm["loadings"] = np.ones((20, 3))
    adata.obsp["distances"] = sp.eye(30, format="csr")
    adata.uns["neighbors"] = {"params": {"k": 5}}
    adata.obs["text"] = [f"t{i}" for i in range(30)]
    return adata


def additions(n=30):
    return {
        "obsm": {"X_scGPT": np.ones((n, 4), np.float32)},
        "obs": {"pred": np.array(["b", "a"] * (n // 2)), "conf": np.linspace(0, 1, n), "cell_type": ["new"] * n},
        "uns": {"cellwright": PROVENANCE},
        "layers": {"denoised": sp.csr_matrix(np.ones((n, 20), np.float32))},
    }


def check(out, full):
    assert out.obsm["X_scGPT"].shape == (30, 4)
    assert out.obs["pred"].tolist() == ["b", "a"] * 15
    assert isinstance(out.obs["pred"].dtype, pd.CategoricalDtype)
    assert out.obs["cell_type"].unique().tolist() == ["new"]
    assert out.layers["denoised"].sum() == 600
    for place in ("layers", "obsm", "varm", "obsp"):
        for name, value in getattr(full, place).items():
            assert (getattr(out, place)[name] != value).sum() == 0, (place, name)
    assert (out.X != full.X).nnz == 0
    assert (out.raw.X != full.raw.X).nnz == 0
    assert out.uns["neighbors"]["params"]["k"] == 5
    assert out.obs["text"].tolist() == full.obs["text"].tolist()
    assert out.obs.columns.tolist() == [*full.obs.columns, "pred", "conf"]
    record = out.uns["cellwright"]
    assert (record["version"], record["seed"], record["nested"]["share"]) == ("0.1", 3, 0.5)
    assert record["nested"]["is_ok"]
    assert "none" not in record["nested"]
    assert list(record["nested"]["names"]) == ["a", "b"]
    assert list(record["nested"]["numbers"]) == [1, 2]
    assert record["per_type"] == '{"CD4+/CD45RO+ Memory": 3}'


@pytest.mark.parametrize("kind", ["memory", "h5ad", "zarr"])
@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_everything_survives_and_the_additions_are_there(tmp_path, full, kind, suffix):
    pytest.importorskip("zarr")
    source = full
    if kind != "memory":
        source = tmp_path / f"data.{kind}"
        write_h5ad(full, source)
    write_h5ad(source, tmp_path / "new" / f"out{suffix}", **additions())
    read = anndata.read_h5ad if suffix == ".h5ad" else anndata.read_zarr
    check(read(tmp_path / "new" / f"out{suffix}"), full)
    assert full.obs["text"].dtype == object, "the caller's text column was made categorical"
    assert "pred" not in full.obs


def test_written_again_it_replaces_its_own_additions(tmp_path, full):
    write_h5ad(full, tmp_path / "a.h5ad", **additions())
    write_h5ad(tmp_path / "a.h5ad", tmp_path / "b.h5ad", **additions())
    write_h5ad(tmp_path / "a.h5ad", tmp_path / "b.h5ad", **additions())
    check(anndata.read_h5ad(tmp_path / "b.h5ad"), full)


def test_the_input_file_is_untouched(tmp_path, full):
    full.write_h5ad(tmp_path / "data.h5ad")
    before = (tmp_path / "data.h5ad").read_bytes()
    write_h5ad(tmp_path / "data.h5ad", tmp_path / "out.h5ad", **additions())
    assert (tmp_path / "data.h5ad").read_bytes() == before
    for same in (tmp_path / "data.h5ad", tmp_path / "x" / ".." / "data.h5ad"):
        with pytest.raises(ValueError, match="is the input; choose another name"):
            write_h5ad(tmp_path / "data.h5ad", same)


def test_an_error_leaves_no_file_and_keeps_the_old_one(tmp_path, full):
    out = tmp_path / "out.h5ad"
    write_h5ad(full, out)
    before = out.read_bytes()
    with pytest.raises(ValueError, match=r"obsm\['X_bad'\] has shape \(3, 2\), AnnData needs \(30,\)"):
        write_h5ad(full, out, obsm={"X_bad": np.ones((3, 2))})
    with pytest.raises(ValueError, match=r"layers\['bad'\] has shape"):
        write_h5ad(full, out, layers={"bad": np.ones((30, 3))})
    with pytest.raises(ValueError, match="must not be empty or contain '/'"):
        write_h5ad(full, out, obs={"a/b": np.ones(30)})
    with pytest.raises(ValueError, match="other cells, or another order"):
        write_h5ad(full, out, obs=full.obs[["text"]].iloc[::-1])
    with pytest.raises(ValueError, match="must end in .h5ad or .zarr"):
        write_h5ad(full, tmp_path / "out.csv")
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5ad"]


def test_out_can_be_checked_before_a_long_run(tmp_path):
    (tmp_path / "file.zarr").touch()
    (tmp_path / "folder.h5ad").mkdir()
    for name, kind in (("file.zarr", "a file"), ("folder.h5ad", "a folder")):
        with pytest.raises(ValueError, match=f"{name} exists and is {kind}"):
            check_out("data.h5ad", tmp_path / name)
    assert check_out("data.h5ad", tmp_path / "new" / "out.h5ad") == tmp_path / "new" / "out.h5ad"


def test_records_in_uns_are_added_to_earlier_ones(tmp_path, full):
    write_h5ad(full, tmp_path / "a.h5ad", uns={"cellwright": {"X_a": {"seed": 1}, "X_b": 2}})
    write_h5ad(tmp_path / "a.h5ad", tmp_path / "b.h5ad", uns={"cellwright": {"X_b": {"seed": 3}}, "neighbors": "none"})
    uns = anndata.read_h5ad(tmp_path / "b.h5ad").uns
    assert uns["cellwright"] == {"X_a": {"seed": 1}, "X_b": {"seed": 3}}
    assert uns["neighbors"] == "none"


def test_a_backed_anndata_and_a_data_frame_of_columns(tmp_path, full):
    full.write_h5ad(tmp_path / "data.h5ad")
    lent = anndata.read_h5ad(tmp_path / "data.h5ad", backed="r")
    columns = pd.DataFrame({"score": np.arange(30), "has": [True, False] * 15}, index=full.obs_names)
    write_h5ad(lent, tmp_path / "out.h5ad", obs=columns)
    assert str(lent.filename).endswith("data.h5ad")
    lent.file.close()
    out = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert out.obs["score"].tolist() == list(range(30))
    assert out.obs["has"].dtype == bool


def test_ten_x_input_becomes_an_anndata(tmp_path):
    write_10x(tmp_path / "a.h5", 3)
    write_h5ad(tmp_path / "a.h5", tmp_path / "out.h5ad", obsm={"X_e": np.ones((3, 2))})
    out = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert out.var_names.tolist() == ["CD3E", "MS4A1", "NKG7", "MS4A1-1"]
    vocab = GeneVocab(["MS4A1", "NKG7", "CD3E"])
    assert (open_cells(tmp_path / "out.h5ad", vocab).values().toarray()[0] == [7, 0, 0]).all()


def test_storable_forms():
    assert storable({"a": None, "b": {"c": (1, 2.5)}})["b"]["c"].tolist() == [1, 2.5]
    assert storable([1, "a", None]) == '[1, "a", null]'
    assert storable(np.float32(2)) == 2
    assert storable(np.array(["a"])).dtype == object
    assert storable(object).startswith("<class")
