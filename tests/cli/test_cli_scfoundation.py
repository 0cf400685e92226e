"""scFoundation through the command line: every published output of cells, genes and expression, and what is refused.

The recorded cases are calls of the published ``get_embedding.py``; each is made again here from a matrix with names.
"""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from cli.command_line import listing, refused, works, write
from parity.cases import Case, assert_close
from parity.depths import close

import cellwright
from cellwright.models.scfoundation import write_container
from cellwright.models.scfoundation.genes import published_genes

MODEL = Case("scfoundation", "cli_tiny19264_checkpoint").folder / "models.ckpt"
RUN = ["--no-progress", "--device", "cpu"]
QUIET = cellwright.InferenceOptions(progress=False, device="cpu")


def case_of(name):
    return Case("scfoundation", name)


def cells_of(case) -> ad.AnnData:
    """Return the recorded matrix with names; a column behind the genes becomes ``obs["total"]``."""
    parts = tuple(case.arrays[f"x_{part}"] for part in ("data", "indices", "indptr"))
    value_ng = sp.csr_matrix(parts, shape=case.arrays["x_shape"])
    names = case.arrays["columns"] if "columns" in case.arrays else np.array(published_genes())
    total_n = value_ng[:, -1].toarray()[:, 0] if value_ng.shape[1] == len(names) + 1 else value_ng.sum(1).A1
    adata = ad.AnnData(value_ng[:, : len(names)].astype(np.float32))
    adata.var_names, adata.obs_names = names.astype(str), [f"cell{i}" for i in range(adata.n_obs)]
    adata.obs["total"] = total_n
    return adata


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Files of recorded cells by the name of their case, made when first asked for."""
    folder, made = tmp_path_factory.mktemp("recorded"), {}

    def path(name):
        if name not in made:
            made[name] = write(cells_of(case_of(name)), folder / f"{name}.h5ad")
        return made[name]

    return path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cli_cell_ce_t4_F", []),
        ("cli_cell_ce_t4_F", ["--key", "ce", "--depth", "total=4", "--pool", "all"]),
        ("cli_cell_rde_t4", ["--key", "rde", "--depth", "t4"]),
        ("cli_cell_rde_t4.5", ["--key", "rde", "--depth", "t4.5"]),
        ("cli_cell_rde_f1", ["--key", "rde", "--depth", "fold=1"]),
        ("cli_cell_rde_f2.5", ["--key", "rde", "--depth", "f2.5"]),
        ("cli_cell_rde_a5", ["--key", "rde", "--depth", "a5"]),
        ("cli_cell_unaligned", ["--genes", "exact"]),
        ("cli_cell_ce_t4_T", ["--log-sum"]),
        ("cli_cell_ce_f1_A_max", ["--depth", "f1", "--total", "total", "--pool", "max"]),
        ("cli_bulk_F_all", ["--bulk", "--assume", "raw"]),
        ("cli_bulk_T_max", ["--bulk", "--log-sum", "--pool", "max"]),
    ],
)
def test_embeddings_are_those_of_the_published_tool(name, words, place, tmp_path):
    said = works("embed", MODEL, place(name), "-o", tmp_path / "out.h5ad", *words, *RUN)
    out = ad.read_h5ad(tmp_path / "out.h5ad")
    wanted = case_of(name)["out"]
    close(torch.from_numpy(out.obsm["X_scFoundation"]), wanted)
    assert f'obsm["X_scFoundation"] {wanted.shape[0]} x {wanted.shape[1]}' in said
    record = out.uns["cellwright"]["X_scFoundation"]
    assert record["pool"] == ("max" if "max" in words else "all")
    assert record["model"]["layout"] == ("key rde" if "rde" in words else "key cell")


def test_names_decide_not_places(place, tmp_path):
    """The published tool takes 19,264 columns or more to be the genes in order; unlisted genes do not count here."""
    adata, rng = cells_of(case_of("cli_cell_ce_t4_F")), np.random.default_rng(0)
    unknown = ad.AnnData(sp.csr_matrix(rng.integers(1, 9, (adata.n_obs, 100)).astype(np.float32)))
    unknown.var_names, unknown.obs_names = [f"NOVEL{i}" for i in range(100)], adata.obs_names
    mixed = ad.concat([adata, unknown], axis=1)[:, rng.permutation(adata.n_vars + 100)].copy()
    assert mixed.n_vars == 19364
    works("embed", MODEL, write(mixed, tmp_path / "in.h5ad"), "-o", tmp_path / "out.h5ad", *RUN)
    found = ad.read_h5ad(tmp_path / "out.h5ad").obsm["X_scFoundation"]
    close(torch.from_numpy(found), case_of("cli_cell_ce_t4_F")["out"])


def test_a_depth_of_one_molecule_is_kept(place, tmp_path):
    """Published: T = 0 is lost among the silent genes; corrected."""
    words = ["embed", MODEL, place("cli_cell_ce_t0"), "-o", tmp_path / "out.h5ad", "--depth", "t0", *RUN]
    works(*words)
    found, theirs = ad.read_h5ad(tmp_path / "out.h5ad").obsm["X_scFoundation"], case_of("cli_cell_ce_t0").arrays["out"]
    assert np.abs(found - theirs)[:, 16:32].max() > 0.1


def test_one_cell_keeps_its_axis_and_counts_come_back_from_logs(tmp_path):
    """A lone cell is one row; log values of counts give the counts' own depth, where the published sum would not."""
    case = case_of("cli_cell_ce_t4_F")
    adata = cells_of(case)
    log = adata.copy()
    log.X = sp.csr_matrix(log.X.multiply(1e4 / log.X.sum(1)).log1p())
    one = cellwright.embed(log[:1].copy(), cellwright.load(MODEL), run=QUIET)
    assert one.shape == (1, 64)
    close(torch.from_numpy(cellwright.embed(log, cellwright.load(MODEL), run=QUIET)), case["out"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cli_gene_f1_F", ["--depth", "f1"]),
        ("cli_gene_f1_A", ["--depth", "f1", "--total", "total"]),
        ("cli_gene_batch_f1_A", ["--depth", "f1", "--total", "total", "--together"]),
    ],
)
def test_states_of_genes_are_those_of_the_published_tool(name, words, place, tmp_path):
    import zarr

    out = ["-o", tmp_path / "out.h5ad", "--contexts", tmp_path / "out.genes.zarr"]
    said = works("embed", MODEL, place(name), *out, "--key", "gene", *words, *RUN)
    assert "3 x 19264 x 16 (cells, genes, width)" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.genes.zarr", "out.h5ad"]
    root = zarr.open_group(str(tmp_path / "out.genes.zarr"), mode="r")
    array = root["contexts"]
    assert (array.dtype, array.shape, array.chunks) == (np.float32, (3, 19264, 16), (1, 19264, 16))
    assert list(root["cells"][:]) == ["cell0", "cell1", "cell2"]
    assert tuple(root["genes"][:]) == published_genes()
    assert root.attrs["record"]["model"]["layout"] == "key gene"
    assert root.attrs["record"]["together"] is ("--together" in words)
    case = case_of(name)
    assert_close(torch.from_numpy(array[:, ::19]), case["out_strided"])
    close(torch.from_numpy(array[:]).double().mean(1), case["out_sum_over_genes"] / 19264)


def test_some_genes_and_blocks_in_python(place, tmp_path):
    import zarr

    genes = [published_genes()[19], published_genes()[0]]
    out = ["-o", tmp_path / "out.h5ad", "--contexts", tmp_path / "some.zarr", "--only", ",".join(genes)]
    for _ in range(2):  # what it wrote itself, it replaces
        works("embed", MODEL, place("cli_gene_f1_F"), *out, "--key", "gene", "--depth", "f1", *RUN)
    root = zarr.open_group(str(tmp_path / "some.zarr"), mode="r")
    assert list(root["genes"][:]) == genes[::-1]
    found = cellwright.gene_contexts(
        place("cli_gene_f1_F"), cellwright.load(MODEL, key="gene"), depth="f1", only=genes, run=QUIET
    )
    blocks = list(found)
    assert [start for start, _ in blocks] == [0]
    assert found.genes == tuple(genes[::-1])
    np.testing.assert_allclose(blocks[0][1], root["contexts"][:], atol=1e-6)
    assert_close(torch.from_numpy(blocks[0][1]), case_of("cli_gene_f1_F")["out_strided"][:, :2])


def test_expression_is_that_of_the_published_tool(place, tmp_path):
    """Values below 0 become 0: they are logarithms of 1 + a share of molecules."""
    name = "cli_gene_expression_f1_F"
    works("denoise", MODEL, place(name), "-o", tmp_path / "out.h5ad", "--key", "gene", "--depth", "f1", *RUN)
    found = ad.read_h5ad(tmp_path / "out.h5ad").layers["denoised"]
    assert_close(torch.from_numpy(found[:, ::7]), case_of(name)["out_strided"].clamp(min=0))


def test_expression_of_log_values_with_totals(place, tmp_path):
    """The same cells as counts and as log values with totals beside get the same values."""
    name = "cli_gene_expression_f1_F"
    log = cells_of(case_of(name))
    log.X = sp.csr_matrix(log.X.multiply(1e4 / log.X.sum(1)).log1p())
    words = ["--key", "gene", "--depth", "f1", "--only", ",".join(published_genes()[:70]), *RUN]
    works("denoise", MODEL, place(name), "-o", tmp_path / "counts.h5ad", *words)
    data = write(log, tmp_path / "in.h5ad")
    works("denoise", MODEL, data, "-o", tmp_path / "log.h5ad", "--total", "total", *words)
    layers = [ad.read_h5ad(tmp_path / f"{kind}.h5ad").layers["denoised"][:, :70] for kind in ("counts", "log")]
    assert np.isfinite(layers[0]).all()
    np.testing.assert_allclose(*layers, atol=1e-5)
    says = ["no column 'totals' of totals", "did you mean 'total'"]
    refused(tmp_path, "denoise", MODEL, data, "-o", tmp_path / "x.h5ad", "--total", "totals", *words, says=says)


def test_inspect_and_convert_take_the_key(place, tmp_path):
    said = works("inspect", MODEL, "--key", "rde")
    assert "note: the model 'rde' was opened; the file also holds" in said
    assert "not commercial" in said
    for key in ("rde", "gene"):
        works("convert", MODEL, tmp_path / key, "--key", key)
    record = json.loads((tmp_path / "rde" / "config.json").read_text())
    assert record["origin"]["layout"] == "key rde"
    works("convert", tmp_path / "rde", tmp_path / "back", "--to", "released")
    words = ["embed", tmp_path / "back", place("cli_cell_rde_a5"), "-o", tmp_path / "out.h5ad", "--depth", "a5", *RUN]
    works(*words)
    found = ad.read_h5ad(tmp_path / "out.h5ad").obsm["X_scFoundation"]
    close(torch.from_numpy(found), case_of("cli_cell_rde_a5")["out"])


def test_a_published_file_of_several_models(tmp_path):
    models = {key: cellwright.load(MODEL, key=key) for key in ("cell", "gene")}
    write_container(models, tmp_path / "both")
    before = torch.load(MODEL, weights_only=True)
    after = torch.load(tmp_path / "both" / "models.ckpt", weights_only=True)
    assert list(after) == ["cell", "gene"]
    for key, entry in after.items():
        assert list(entry["state_dict"]) == list(before[key]["state_dict"])
        assert all(torch.equal(value, before[key]["state_dict"][name]) for name, value in entry["state_dict"].items())
        assert cellwright.load(tmp_path / "both", key=key).sha256() == models[key].sha256()
    small = cellwright.load(Case("scfoundation", "tiny_checkpoint").folder, key="rde")
    for wrong, says in (
        ({}, "no model to write"),
        (models | {"rda": models["cell"]}, "key 'rda' is none of cell, rde, gene; did you mean"),
        (models | {"rde": small}, "'rde' has other genes"),
    ):
        with pytest.raises(ValueError, match=says):
            write_container(wrong, tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--key", "rdf"], ["holds no model 'rdf'", "did you mean 'rde'?"]),
        (["--depth", "deep"], ["read depth 'deep' is not understood"]),
        (["--depth", "f0"], ["a fold is positive"]),
        (["--pool", "mean"], ["no pooling 'mean'", "all, max"]),
        (["--total", "depth"], ["log1p values needed, but X is raw"]),
        (["--total", "total", "--log-sum"], ["choose one"]),
        (["--bulk", "--depth", "t4"], ["leave out --depth"]),
        (["--together"], ["name the place (--contexts)"]),
        (["--contexts", "genes.h5ad"], ["must end in .zarr"]),
    ],
)
def test_options_that_cannot_be(words, says, place, tmp_path):
    refused(tmp_path, "embed", MODEL, place("cli_cell_ce_t4_F"), "-o", tmp_path / "x.h5ad", *words, *RUN, says=says)


@pytest.mark.parametrize(
    ("total_n", "says"),
    [
        ([100.0, -1.0, 5.0], ["obs['total'] is -1 for cell 'cell1'", "must be positive (1 of 3 are not)"]),
        ([np.nan, 2.0, np.inf], ["obs['total'] is nan for cell 'cell0'", "2 of 3"]),
        (["many", "few", "few"], ["no totals of counts"]),
        (None, ["no column 'total' of totals"]),
    ],
)
def test_totals_that_are_none(total_n, says, tmp_path):
    adata = cells_of(case_of("cli_cell_ce_f1_A_max"))
    del adata.obs["total"]
    if total_n is not None:
        adata.obs["total"] = pd.Categorical(total_n) if isinstance(total_n[0], str) else np.array(total_n)
    data = write(adata, tmp_path / "in.h5ad")
    refused(tmp_path, "embed", MODEL, data, "-o", tmp_path / "x.h5ad", "--total", "total", *RUN, says=says)


def test_cells_without_a_depth_are_refused(place, tmp_path):
    adata = cells_of(case_of("cli_cell_ce_t4_F"))
    adata.X = sp.csr_matrix(adata.X.multiply(np.array([[1], [0], [1]]))).astype(np.float32)
    data = write(adata, tmp_path / "in.h5ad")
    says = ["1 of 3 cells express no gene of the model's", "'cell1' at row 1", "leave such cells out"]
    refused(tmp_path, "embed", MODEL, data, "-o", tmp_path / "x.h5ad", *RUN, says=says)
    log = write(_in_between(cells_of(case_of("cli_cell_ce_t4_F"))), tmp_path / "log.h5ad")
    says = ["read depth cannot be told from log1p values", "--total"]
    refused(tmp_path, "embed", MODEL, log, "-o", tmp_path / "x.h5ad", *RUN, says=says)


def _in_between(adata):
    """Return log values that counts cannot be computed back from."""
    value_ng = adata.X.copy()
    value_ng.data = np.log1p(value_ng.data * np.random.default_rng(0).uniform(0.5, 2, value_ng.nnz)).astype(np.float32)
    adata.X = value_ng
    return adata


def test_a_place_that_holds_something_else_is_left_alone(place, tmp_path):
    (tmp_path / "mine.zarr").mkdir()
    (tmp_path / "mine.zarr" / "notes.txt").write_text("mine")
    before = listing(tmp_path)
    words = [
        "embed",
        MODEL,
        place("cli_gene_f1_F"),
        "-o",
        tmp_path / "x.h5ad",
        "--contexts",
        tmp_path / "mine.zarr",
        *RUN,
    ]
    refused(tmp_path, *words, says=["mine.zarr exists and holds something else"])
    assert listing(tmp_path) == before
    refused(
        tmp_path, *words[:-4], tmp_path / "x.zarr", "--only", "NOGENE7", *RUN, says=["none of the model's: NOGENE7"]
    )


def test_other_families_know_no_depth(official, own, data, tmp_path):
    out = tmp_path / "x.h5ad"
    refused(
        tmp_path, "embed", official, data, "-o", out, "--depth", "t4", says=["scGPT knows no read depth", "--depth"]
    )
    refused(tmp_path, "embed", official, data, "-o", out, "--pool", "all", says=["no pooling 'all'", "avg-pool"])
    refused(tmp_path, "embed", own, data, "-o", out, "--key", "cell", says=["holds one model"])
    words = ["embed", official, data, "-o", out, "--contexts", tmp_path / "x.zarr", "--no-progress"]
    refused(tmp_path, *words, says=["scGPT has no states of genes"])
    works("embed", official, data, "-o", out, "--pool", "avg-pool", "--no-progress")
    assert ad.read_h5ad(out).uns["cellwright"]["X_scGPT"]["pool"] == "avg-pool"
