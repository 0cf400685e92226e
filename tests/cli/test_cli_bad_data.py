"""Cells that cannot be used are refused in one line; what can be used in spite of its faults is, with a warning."""

import warnings

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from cli.command_line import refused, works, write

import cellwright
from cellwright.data import dataset_path, open_cells


def logs(adata):
    adata.X = adata.X.multiply(1e4 / adata.X.sum(1)).tocsr().log1p().astype(np.float32)


def centred(adata):
    values_ng = adata.X.toarray()
    adata.X = (values_ng - values_ng.mean(0)) / (values_ng.std(0) + 1e-3)


def binned(adata):
    values_ng = adata.X.toarray()
    adata.X = np.ceil(values_ng / values_ng.max(1, keepdims=True) * 50).astype(np.float32)


def bent(adata):
    """Neither counts, nor normalised, nor logarithms."""
    values_ng = adata.X.toarray().astype(np.float64)
    adata.X = (values_ng * 3.7e5) ** 1.01


def one_value(value):
    def change(adata):
        values_ng = adata.X.toarray()
        values_ng[3, 4] = value
        adata.X = values_ng

    return change


def silent(adata):
    adata.X = sp.csr_matrix(adata.shape, dtype=np.float32)


def strangers(adata):
    adata.var_names = [f"thing{g}" for g in range(adata.n_vars)]


def mice(adata):
    adata.var_names = [name.capitalize() for name in adata.var_names]


def silent_where_known(adata):
    """All expression lies in genes that no model knows."""
    adata.var_names = [name if g < 5 else f"thing{g}" for g, name in enumerate(adata.var_names)]
    values_ng = adata.X.toarray()
    values_ng[:, :5] = 0
    adata.X = values_ng


def in_a_layer(adata):
    adata.layers["spliced"] = adata.X.copy()
    del adata.X


NOTHING = ()
REFUSED = {
    "negative": (
        one_value(-1),
        (),
        ["raw counts or normalised values or log1p values needed", "first -1", "cell00003"],
    ),
    "nan": (one_value(np.nan), (), ["NaN", "first nan at cell 'cell00003', gene 'ANKRD34A'", "remove such cells"]),
    "infinite": (one_value(np.inf), (), ["first inf at cell 'cell00003'"]),
    "scaled": (centred, (), ["X is scaled (there are negative values", 'layers["counts"]', "--layer"]),
    "scaled, said to be raw": (centred, ("--assume", "raw"), ["first -"]),
    "no value": (silent, (), ["X is 0 in every cell and gene", "choose another matrix"]),
    "no value that is known": (silent_where_known, (), ["X is 0 in every gene that is matched (5 of 60"]),
    "strange genes": (strangers, (), ["none of the 60 genes is in the vocabulary", "'thing0'", "gene_symbol"]),
    "mouse genes": (mice, (), ["look like mouse, the vocabulary is human", "orthologues"]),
    "no cells": (lambda adata: adata[:0].copy(), (), ["has no cells (0 cells x 60 genes)"]),
    "no genes": (lambda adata: adata[:, :0].copy(), (), ["has no genes (40 cells x 0 genes)"]),
    "no X": (in_a_layer, (), ["has no X; its layers are 'spliced'", "--layer"]),
    "no such layer": (in_a_layer, ("--layer", "splice"), ["no matrix 'splice'", "did you mean 'spliced'?"]),
    "counts, said to be logarithms": (NOTHING, ("--assume", "log1p"), ["assume = 'log1p' is not possible", "reaches"]),
    "logarithms, said to be raw": (logs, ("--assume", "raw"), ["assume = 'raw' is not possible", "X", "is log1p"]),
    "said to be nonsense": (NOTHING, ("--assume", "counts"), ["assume = 'counts'; choose one of raw"]),
    "columns on disk": (lambda adata: setattr(adata, "X", adata.X.tocsc()), ("--backed",), ["leave out --backed"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unusable_values_are_refused(case, adata, official, tmp_path):
    change, words, says = REFUSED[case]
    changed = adata.copy()
    other = change(changed) if change else None
    path = write(changed if other is None else other, tmp_path / "in.h5ad")
    refused(tmp_path, "embed", official, path, "-o", tmp_path / "new" / "out.h5ad", *words, says=says)


@pytest.mark.parametrize("verb", ["embed", "annotate", "inspect", "pretrain", "finetune"])
def test_every_verb_names_an_absent_file(verb, data, annotator, tmp_path):
    absent = data.with_name("cell.h5ad")
    words = {
        "embed": [annotator, absent, "-o", tmp_path / "out.h5ad"],
        "annotate": [annotator, absent, "-o", tmp_path / "out.h5ad"],
        "inspect": [absent],
        "pretrain": [absent, "-o", tmp_path / "run"],
        "finetune": ["annotate", annotator, absent, "--label", "cell_type", "-o", tmp_path / "run"],
    }[verb]
    refused(tmp_path, verb, *words, says=[f"no such file or folder: {absent}", "did you mean 'cells.h5ad'?"])


@pytest.mark.parametrize("content", [b"", b"gene\tcell\n", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"])
def test_files_of_another_kind_are_refused(content, official, tmp_path):
    path = tmp_path / "in.h5ad"
    path.write_bytes(content)
    refused(tmp_path, "embed", official, path, "-o", tmp_path / "out.h5ad", says=[path])


@pytest.mark.parametrize("share", [0.001, 0.02, 0.25, 0.5, 0.9, 0.999])
def test_files_cut_short_are_refused(share, data, official, tmp_path):
    path, content = tmp_path / "in.h5ad", data.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    words = ["embed", official, path, "-o", tmp_path / "out.h5ad"]
    refused(tmp_path, *words, says=[path, "damaged or cut short", "download it again"])


def test_garbled_bytes_never_end_in_a_traceback(data, model, tmp_path):
    content = data.read_bytes()
    path, num_refused = tmp_path / "in.h5ad", 0
    for seed in range(16):
        rng = np.random.default_rng(seed)
        garbled = bytearray(content)
        at = int(rng.integers(100, len(content) - 200))
        garbled[at : at + 64] = rng.integers(0, 256, 64).astype(np.uint8).tobytes()
        path.write_bytes(garbled)
        try:
            open_cells(path, model.vocab)
        except ValueError:  # any other exception fails the test
            num_refused += 1
    assert num_refused >= 4


@pytest.mark.parametrize("where", ["indices", "indptr"])
def test_matrices_that_point_nowhere_are_refused(where, data, official, tmp_path):
    path = tmp_path / "in.h5ad"
    path.write_bytes(data.read_bytes())
    with h5py.File(path, "r+") as file:
        values = file[f"X/{where}"][:]
        values[7] = -1  # would be read as the last gene, or the end of another cell
        file[f"X/{where}"][...] = values
    refused(tmp_path, "embed", official, path, "-o", tmp_path / "out.h5ad", says=[path, "is damaged", "again"])


def test_repeated_genes_are_summed_and_reported(adata, model, official, tmp_path):
    values_ng = sp.hstack([adata.X, adata.X[:, :10]], format="csr")
    var = pd.DataFrame(index=[*adata.var_names, *adata.var_names[:10]])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Variable names are not unique")
        path = write(anndata.AnnData(values_ng, obs=adata.obs, var=var), tmp_path / "in.h5ad")
    said = works("embed", official, path, "-o", tmp_path / "out.h5ad")
    assert f"10 genes occur in several columns, summed ({adata.var_names[0]}:" in said
    summed = adata.copy()
    summed.X = summed.X + sp.hstack([adata.X[:, :10], sp.csr_matrix((40, 50))], format="csr")
    wanted = cellwright.embed(summed, model)
    with h5py.File(tmp_path / "out.h5ad") as file:
        assert np.allclose(file["obsm/X_scGPT"][:], wanted, atol=1e-5)


def test_empty_cells_stay_in_place_with_a_warning(adata, model, official, tmp_path):
    some = adata.copy()
    values_ng = some.X.toarray()
    values_ng[[2, 5]] = 0
    some.X = sp.csr_matrix(values_ng)
    said = works("embed", official, write(some, tmp_path / "in.h5ad"), "-o", tmp_path / "out.h5ad")
    assert "warning: 2 cells express no gene of the vocabulary; they are kept, empty" in said
    found = anndata.read_h5ad(tmp_path / "out.h5ad").obsm["X_scGPT"]
    assert np.isfinite(found).all()
    assert np.array_equal(found[2], found[5])
    full = np.delete(np.arange(40), [2, 5])
    assert np.allclose(found[full], cellwright.embed(adata, model)[full], atol=1e-5)


def test_one_cell_is_enough_to_embed_and_annotate(adata, annotator, official, tmp_path):
    path = write(adata[:1].copy(), tmp_path / "one.h5ad")
    works("embed", official, path, "-o", tmp_path / "a.h5ad")
    works("annotate", annotator, path, "-o", tmp_path / "b.h5ad")
    assert anndata.read_h5ad(tmp_path / "a.h5ad").obsm["X_scGPT"].shape == (1, 16)
    assert anndata.read_h5ad(tmp_path / "b.h5ad").obs["cell_type_pred"].notna().all()


def test_repeated_cell_names_are_kept_and_reported(adata, official, tmp_path):
    same = adata.copy()
    same.obs_names = ["cell"] * 40
    said = works("embed", official, write(same, tmp_path / "in.h5ad"), "-o", tmp_path / "out.h5ad")
    assert "warning: 39 cell names repeat an earlier one" in said


@pytest.mark.parametrize(("change", "kind"), [(binned, "binned"), (bent, "unknown")])
def test_values_of_which_only_the_order_counts_carry_a_warning(change, kind, adata, official, tmp_path):
    changed = adata.copy()
    change(changed)
    path = write(changed, tmp_path / "in.h5ad")
    said = works("embed", official, path, "-o", tmp_path / "out.h5ad")
    line = next(line for line in said.splitlines() if line.startswith("warning: "))
    assert f"values of X are {kind} (" in line
    assert "only their order within a cell can be used" in line
    assert "give raw counts" in line
    warnings = anndata.read_h5ad(tmp_path / "out.h5ad").uns["cellwright"]["X_scGPT"]["contract"]["warnings"]
    assert any("only their order" in warning for warning in warnings)
    assert line in works("inspect", path).splitlines()


def test_counts_and_logarithms_carry_no_such_warning(adata, data, official, tmp_path):
    changed = adata.copy()
    logs(changed)
    for path in (data, write(changed, tmp_path / "logs.h5ad")):
        assert "warning" not in works("embed", official, path, "-o", tmp_path / "out.h5ad")


def test_what_the_user_says_of_the_values_is_believed_and_noted(adata, official, tmp_path):
    changed = adata.copy()
    bent(changed)
    path = write(changed, tmp_path / "in.h5ad")
    said = works("embed", official, path, "-o", tmp_path / "out.h5ad", "--assume", "normalised")
    assert "note: taken as normalised as asked; the values look unknown" in said


def test_a_shipped_data_set_is_found_by_its_nearest_name():
    with pytest.raises(ValueError, match="no data set 'pbmc3kk'; did you mean 'pbmc3k'?"):
        dataset_path("pbmc3kk")
