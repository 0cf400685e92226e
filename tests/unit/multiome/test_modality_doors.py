"""Data of several modalities, however they are stored: the same cells come in by every door."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from cellwright.data import make_multimodal
from cellwright.data.features import FeatureOptions, centred_log_ratios, feature_token, make_block, term_frequencies
from cellwright.data.modalities import read_study
from cellwright.data.multimodal import feature_tokens, open_multimodal, read_studies
from cellwright.vocab import GeneVocab

NUM = {"rna": 30, "protein": 4, "peak": 40}


@pytest.fixture
def marked():
    """Cells whose features are told apart by ``var["feature_types"]``."""
    return make_multimodal(24, NUM["rna"], num_proteins=NUM["protein"], num_peaks=NUM["peak"])


def part(adata, kind):
    return adata[:, adata.var["feature_types"] == kind].copy()


def slotted(adata):
    """The same with proteins in obsm, without peaks."""
    out = part(adata, "Gene Expression")
    proteins = part(adata, "Antibody Capture")
    out.obsm["protein_expression"] = pd.DataFrame(proteins.X.toarray(), out.obs_names, proteins.var_names)
    return out


def opened(data, **options):
    studies = read_studies(data, FeatureOptions(**options))
    genes = dict.fromkeys(name for study in studies if study.rna is not None for name in study.rna.var_names)
    vocab = GeneVocab.from_genes(genes, {"pad": "<pad>", "cls": "<cls>"}).extended(feature_tokens(studies))
    return open_multimodal(studies, vocab)


def test_marked_features_are_taken_apart(marked):
    data = opened(marked)
    assert data.modalities == ("peak", "protein", "rna")
    assert data.is_measured_nm.all()
    num_open = int((part(marked, "Peaks").X.sum(0) > 0).sum())
    assert {name: len(data.ids(name)) for name in NUM} == NUM | {"peak": num_open}
    assert np.array_equal(data.cells.values(data.gene_ids).toarray(), part(marked, "Gene Expression").X.toarray())
    counts_nf = part(marked, "Antibody Capture").X.toarray()
    geometric_n1 = np.exp(np.log1p(counts_nf).mean(1, keepdims=True))
    found_nf = data.cells.values(data.ids("protein")).toarray()
    assert np.allclose(found_nf, np.log1p(counts_nf / geometric_n1), atol=1e-5)
    assert set(np.unique(data.cells.values(data.ids("peak")).toarray())) == {0.0, 1.0}
    assert np.array_equal(data.cells.read(np.arange(24)).total_n, part(marked, "Gene Expression").X.sum(1).A1)


def test_all_doors_give_the_same_proteins(marked, tmp_path):
    wanted = opened(slotted(marked))
    values_nv = wanted.cells.values(np.arange(len(wanted.cells.vocab))).toarray()
    rna, protein = part(marked, "Gene Expression"), part(marked, "Antibody Capture")
    array = slotted(marked)
    array.uns["protein_names"] = list(array.obsm["protein_expression"].columns)
    array.obsm["protein_expression"] = array.obsm["protein_expression"].to_numpy()
    marked[:, marked.var["feature_types"] != "Peaks"].copy().write_h5ad(tmp_path / "marked.h5ad")
    doors = [array, {"rna": rna, "prot": protein}, {"ADT": protein, "gex": rna}, tmp_path / "marked.h5ad"]
    mudata = pytest.importorskip("mudata")
    with mudata.set_options(pull_on_update=False):
        both = mudata.MuData({"rna": rna.copy(), "prot": protein.copy()})
        both.write_h5mu(tmp_path / "both.h5mu")
    for door in [*doors, both, tmp_path / "both.h5mu"]:
        data = opened(door)
        assert data.cells.vocab == wanted.cells.vocab
        assert data.cells.obs_names.tolist() == wanted.cells.obs_names.tolist()
        assert np.allclose(data.cells.values(np.arange(len(data.cells.vocab))).toarray(), values_nv)
        assert data.cells.obs["cell_type"].tolist() == wanted.cells.obs["cell_type"].tolist()


def test_10x_files_keep_their_antibodies_for_this_door(tmp_path):
    import h5py

    stored = sp.csr_matrix(np.array([[3, 0, 9, 40], [0, 2, 50, 8], [1, 1, 0, 0]], np.int32))
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        group = file.create_group("matrix")
        group["data"], group["indices"], group["indptr"] = stored.data, stored.indices, stored.indptr
        group["shape"], group["barcodes"] = np.array([4, 3]), np.array(["A", "B", "C"], "S")
        features = group.create_group("features")
        for name in ("id", "name"):
            features[name] = np.array(["CD4", "CD8A", "CD4_TotalSeqB", "CD8"], "S")
        features["feature_type"] = np.array(["Gene Expression"] * 2 + ["Antibody Capture"] * 2, "S")
    data = opened(tmp_path / "raw.h5")
    assert [t for t in data.cells.vocab.tokens if ":" in t] == ["protein:CD4", "protein:CD8"]
    assert data.measured("protein").tolist() == [True, True, False]
    assert data.measured("rna").all()


def test_cells_without_a_modality_have_no_tokens_of_it(marked):
    adata = slotted(marked)
    adata.obsm["protein_expression"].iloc[:5] = 0
    adata.obsm["protein_expression"].iloc[5:7] = np.nan
    data = opened(adata)
    assert data.measured("protein").tolist() == [False] * 7 + [True] * 17
    assert data.cells.values(data.ids("protein"))[:7].nnz == 0
    assert np.isnan(data.feature_values(data.ids("protein"), np.arange(9))[:7]).all()
    assert any("17 cells have RNA and proteins" in line for line in data.lines())
    held_out = data.without("protein", np.array([10, 11]))
    assert held_out.measured("protein").sum() == 15
    assert data.measured("protein").sum() == 17
    assert held_out.cells.values(data.ids("protein"))[10:12].nnz == 0
    assert (held_out.cells.values(data.gene_ids) != data.cells.values(data.gene_ids)).nnz == 0


def test_joined_tables_may_cover_different_cells(marked):
    rna, protein = part(marked, "Gene Expression")[:20].copy(), part(marked, "Antibody Capture")[8:].copy()
    data = opened({"rna": rna, "protein": protein})
    assert len(data) == 24
    assert data.measured("rna").tolist() == [True] * 20 + [False] * 4
    assert data.measured("protein").tolist() == [False] * 8 + [True] * 16
    assert data.cells.obs["cell_type"].notna().all()
    assert data.cells.read(np.array([22])).total_n[0] == 0


def test_a_mosaic_of_studies_says_what_each_has(marked):
    with_proteins, without = slotted(marked), part(marked, "Gene Expression")[:10].copy()
    without.var_names = [*without.var_names[:-5], *(f"OTHER{i}" for i in range(5))]
    without.obs["only_here"] = "x"
    data = opened([with_proteins, without])
    assert len(data) == 34
    assert data.study_n.tolist() == [0] * 24 + [1] * 10
    assert data.measured("protein").tolist() == [True] * 24 + [False] * 10
    assert len(data.gene_ids) == NUM["rna"] - 5
    assert data.cells.obs_names[0] == "cell00000-1"
    assert data.cells.obs["only_here"].isna().tolist() == [True] * 24 + [False] * 10
    assert data.panel("protein").tolist() == data.ids("protein").tolist()


def test_a_protein_of_one_study_is_not_zero_in_the_other(marked):
    first, second = slotted(marked), slotted(marked)
    second.obsm["protein_expression"] = second.obsm["protein_expression"].rename(columns={"P3": "P9"})
    data = opened([first, second])
    assert [data.cells.vocab.tokens[i] for i in data.panel("protein")] == ["protein:P0", "protein:P1", "protein:P2"]
    ids = data.cells.vocab.ids(["protein:P0", "protein:P3", "protein:P9"])
    value_nf = data.feature_values(ids, np.arange(48))
    assert np.isfinite(value_nf[:, 0]).all()
    assert np.isnan(value_nf[:24, 2]).all()
    assert np.isnan(value_nf[24:, 1]).all()


@pytest.mark.parametrize(
    ("modality", "name", "token"),
    [
        ("protein", "CD4", "protein:CD4"),
        ("protein", "protein:CD4", "protein:CD4"),
        ("protein", "CD4_TotalSeqB", "protein:CD4"),
        ("protein", " CD45RA-TotalB ", "protein:CD45RA"),
        ("protein", "PD-1", "protein:PD-1"),
        ("peak", "chr1-100-200", "peak:chr1:100-200"),
        ("peak", "chrX:5-9", "peak:chrX:5-9"),
        ("peak", "KI270_1_4_88", "peak:KI270_1:4-88"),
        ("peak", "promoter", "peak:promoter"),
    ],
)
def test_names_of_features_are_distinct_from_genes(modality, name, token):
    assert feature_token(modality, name) == token


def test_peaks_that_most_cells_have_are_chosen(marked):
    studies = read_studies(marked)
    chosen = feature_tokens(studies, num_peaks=3)
    assert [t for t in chosen if t.startswith("protein")] == [f"protein:P{p}" for p in range(4)]
    cover = np.asarray((studies[0].blocks["peak"].value_nf > 0).sum(0)).ravel()
    kept = {studies[0].blocks["peak"].tokens[i] for i in np.argsort(-cover, kind="stable")[:3]}
    assert {t for t in chosen if t.startswith("peak")} == kept


def test_values_of_peaks_can_be_chosen(marked):
    marked.X = marked.X * 2
    for how, values in (("binary", {0.0, 1.0}), ("counts", {0.0, 2.0})):
        data = opened(marked, peaks=how)
        assert set(np.unique(data.cells.values(data.ids("peak")).toarray())) == values
    weights = opened(marked, peaks="tfidf")
    found = weights.cells.values(weights.ids("peak")).toarray()
    assert len(np.unique(found[found > 0])) > 3


def test_rare_peaks_weigh_more():
    open_nf = sp.csr_matrix(np.array([[1, 1, 0], [1, 0, 1], [1, 0, 0]], float))
    weight_nf = term_frequencies(open_nf).toarray()
    assert weight_nf[0, 1] > weight_nf[0, 0] > 0
    assert weight_nf[2, 0] > weight_nf[0, 0]  # one of one peak, rather than one of two
    assert (weight_nf[open_nf.toarray() == 0] == 0).all()


def test_centred_log_ratios_do_not_depend_on_staining_much():
    count_nf = np.array([[100.0, 200, 400, 0], [1000, 2000, 4000, 0]])
    ratio_nf = centred_log_ratios(sp.csr_matrix(count_nf)).toarray()
    assert (ratio_nf[:, 3] == 0).all()
    assert (np.diff(ratio_nf[:, :3], axis=1) > 0).all()
    logs_nf = np.log1p(count_nf)
    assert np.abs(ratio_nf[0] - ratio_nf[1]).max() < 0.5 * np.abs(logs_nf[0] - logs_nf[1]).max()


def test_what_was_lent_is_left_alone(marked):
    before = marked.copy()
    opened(marked)
    assert (marked.X != before.X).nnz == 0
    assert marked.var.equals(before.var)


def bad_slot(adata, change):
    adata = slotted(adata)
    change(adata.obsm["protein_expression"])
    return adata


@pytest.mark.parametrize(
    ("make", "options", "says"),
    [
        (lambda a: part(a, "Gene Expression"), {}, "there is RNA and nothing beside it"),
        (lambda a: part(a, "Antibody Capture"), {}, r"no genes \(RNA, Gene Expression\) were found"),
        (lambda a: slotted(a), {"slot": "adt"}, r"no obsm\['adt'\]; it has protein_expression"),
        (
            lambda a: bad_slot(a, lambda t: t.__setitem__("P1", t["P1"] + 0.5)),
            {},
            "not counts; give raw counts, or say",
        ),
        (lambda a: bad_slot(a, lambda t: t.__setitem__("P1", -1.0)), {}, "a protein has the value -1"),
        (lambda a: bad_slot(a, lambda t: t.iloc.__setitem__((3, 1), np.nan)), {}, "1 of 4 proteins are NaN at cell 3"),
        (lambda a: bad_slot(a, lambda t: t.iloc.__setitem__(slice(None), 0.0)), {}, "4 proteins are 0 in every cell"),
        (
            lambda a: bad_slot(a, lambda t: t.rename(columns={"P1": "P0"}, inplace=True)),
            {},
            "protein:P0 occurs twice among its proteins",
        ),
        (lambda a: {"rna": part(a, "Gene Expression"), "spots": a}, {}, "'spots' is no modality"),
        (lambda a: {"rna": part(a, "Gene Expression"), "gex": a}, {}, "has rna twice"),
        (
            lambda a: {"rna": part(a, "Gene Expression"), "protein": renamed(part(a, "Antibody Capture"))},
            {},
            r"no cell is in both rna and protein \(rna has 'cell00000', protein has 'x0'\)",
        ),
        (lambda a: nameless(a), {}, r"obsm\['protein_expression'\] has no names for its 4 columns"),
        (lambda a: [], {}, "no data given"),
    ],
)
def test_what_cannot_be_read_is_refused(marked, make, options, says):
    data = make(marked)
    with pytest.raises(ValueError, match=says):
        opened(data, **options)


def renamed(adata):
    adata.obs_names = [f"x{i}" for i in range(adata.n_obs)]
    return adata


def nameless(adata):
    adata = slotted(adata)
    adata.obsm["protein_expression"] = adata.obsm["protein_expression"].to_numpy()
    return adata


def test_normalised_rna_that_cannot_be_undone_is_refused(marked):
    adata = slotted(marked)
    adata.X = sp.csr_matrix(np.log1p(adata.X.toarray() * np.random.default_rng(0).random(adata.shape)))
    with pytest.raises(ValueError, match="RNA of AnnData: raw counts needed"):
        opened(adata)


def test_proteins_that_are_ready_are_taken_as_they_are(marked):
    adata = slotted(marked)
    table = adata.obsm["protein_expression"]
    adata.obsm["protein_expression"] = np.log1p(table)
    data = opened(adata, proteins="given")
    assert np.allclose(data.cells.values(data.ids("protein")).toarray(), np.log1p(table.to_numpy()), atol=1e-5)


def test_cell_names_that_repeat_cannot_be_joined(marked):
    rna = part(marked, "Gene Expression")
    rna.obs_names = ["same"] * rna.n_obs
    with pytest.raises(ValueError, match="cell names of rna repeat"):
        read_study({"rna": rna, "protein": part(marked, "Antibody Capture")})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.h5ad"):
        read_study(tmp_path / "absent.h5ad")


def test_features_of_other_kinds_are_left_out_and_said(marked):
    marked.var["feature_types"] = marked.var["feature_types"].replace({"Peaks": "CRISPR Guide Capture"})
    study = read_study(marked)
    assert set(study.blocks) == {"protein"}
    assert "features of other kinds are left out: CRISPR Guide Capture" in study.lines()


def test_a_block_can_be_made_from_any_matrix():
    counts_nf = np.array([[0, 5], [3, 0], [0, 0]])
    for matrix in (counts_nf, sp.csc_matrix(counts_nf), anndata.AnnData(counts_nf.astype(float)).X):
        block = make_block("protein", ["a", "b"], matrix, FeatureOptions(), where="here")
        assert block.is_measured_n.tolist() == [True, True, False]
        assert block.value_nf.nnz == 2
