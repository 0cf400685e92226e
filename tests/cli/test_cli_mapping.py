"""``index`` makes a reference, ``map-reference`` places other cells on it."""

import anndata
import numpy as np
import pytest
from cli.command_line import cellwright as call
from cli.command_line import made_up_cells, made_up_model, refused, works, write

import cellwright
from cellwright.tasks.mapping import load_index
from cellwright.verbs import InferenceOptions

QUIET = InferenceOptions(progress=False, device="cpu")


@pytest.fixture(scope="module")
def reference(home, own, data):
    """The 40 cells, indexed with their types and donors."""
    words = ["--label", "cell_type,donor", "--num-neighbors", 5, "--no-progress"]
    printed = works("index", own, data, "-o", home / "made.index", *words)
    assert "40 cells, labels: cell_type, donor" in printed
    return home / "made.index"


@pytest.fixture
def query(tmp_path):
    """Other cells of the same types."""
    return write(made_up_cells(24, seed=7), tmp_path / "query.h5ad")


def test_mapped_cells_carry_labels_scores_and_a_record(reference, own, query, tmp_path):
    out = tmp_path / "mapped.h5ad"
    printed = works("map-reference", own, query, "--reference", reference, "-o", out, "--no-progress")
    assert "farther out than 99 % of the reference" in printed
    mapped = anndata.read_h5ad(out)
    assert set(mapped.obs["cell_type_pred"]) <= {"type 0", "type 1"}
    assert mapped.obs["cell_type_prob"].between(0.5, 1).all()  # two types, five votes
    assert mapped.obs["donor_pred"].str.startswith("donor").all()
    assert mapped.obs["reference_outside"].between(0, 1).all()
    assert mapped.obsm["X_scGPT"].shape == (24, 16)
    assert load_index(reference).origin["model"]["family"] == "scgpt"


def test_python_gives_the_same_and_fills_only_what_was_asked(reference, own, tmp_path, query):
    works("map-reference", own, query, "--reference", reference, "-o", tmp_path / "out.h5ad", "--no-progress")
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    adata = anndata.read_h5ad(query)
    before = list(adata.obs)
    mapped = cellwright.map_reference(adata, own, reference, run=QUIET)
    assert list(adata.obs) == before
    np.testing.assert_array_equal(mapped.outside_n, written.obs["reference_outside"].to_numpy())
    cellwright.map_reference(adata, own, load_index(reference), key_added=True, threshold=0.9, run=QUIET)
    assert (adata.obs["cell_type_pred"] == "unassigned").sum() == (mapped.votes["cell_type"].prob_n < 0.9).sum()
    assert adata.uns["cellwright"]["reference"]["index"]["num_neighbors"] == 5


def test_cells_of_the_reference_find_themselves(reference, own, data):
    mapped = cellwright.map_reference(data, own, reference, run=QUIET)
    np.testing.assert_array_equal(mapped.neighbor_nk[:, 0], np.arange(40))
    np.testing.assert_allclose(mapped.distance_nk[:, 0], 0, atol=1e-6)


def test_cells_without_a_label_do_not_vote(own, data, home):
    adata = anndata.read_h5ad(data)
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(object)
    adata.obs.iloc[:37, adata.obs.columns.get_loc("cell_type")] = np.nan
    index = cellwright.index_reference(adata, own, labels=["cell_type"], run=QUIET)
    mapped = cellwright.map_reference(data, own, index, run=QUIET)
    is_silent_n = (index.labels["cell_type"].code_m[mapped.neighbor_nk] < 0).all(1)
    assert is_silent_n.any()
    np.testing.assert_array_equal(mapped.votes["cell_type"].code_n < 0, is_silent_n)


def test_bad_input_is_refused_in_one_line(reference, own, data, query, tmp_path, home):
    out = ["-o", tmp_path / "new", "--no-progress"]
    refused(tmp_path, "index", own, data, "--label", "celltype", *out, says=["'celltype'", "did you mean 'cell_type'"])
    refused(tmp_path, "index", own, data, "--label", "cell_type,", *out, says=["--label"])
    refused(tmp_path, "index", own, data, "--num-neighbors", 40, *out, says=["40 cells", "ask for fewer"])
    refused(tmp_path, "index", own, data, "--metric", "angle", *out, says=["metric", "'angle'"])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    refused(tmp_path, "index", own, data, "-o", tmp_path / "other", says=["holds something else than an index"])
    out = ["-o", tmp_path / "new.h5ad", "--no-progress"]
    refused(tmp_path, "map-reference", own, query, "--reference", tmp_path, *out, says=["is no reference index"])
    words = ["map-reference", own, query, "--reference", reference, *out]
    refused(tmp_path, *words, "--threshold", 3, says=["threshold is 3"])
    made_up_model(seed=3).save(home / "other model")
    words[1] = home / "other model"
    refused(tmp_path, *words, says=["was embedded by", "index the reference with this one"])


def test_help_names_the_options():
    assert "--num-neighbors" in call("index", "--help").out
    assert "--reference" in call("map-reference", "--help").out


def test_a_mapping_is_scored_beside_baselines(own, data, tmp_path, monkeypatch):
    from cellwright.evaluate import Evaluation, projection, study

    monkeypatch.setattr(study, "umap_embedding", lambda x_nd, seed: projection._principal_components(x_nd))
    query = write(made_up_cells(60, seed=7, num_types=3), tmp_path / "query.h5ad")
    reference = write(made_up_cells(80, seed=3, num_types=3), tmp_path / "reference.h5ad")
    words = ["evaluate", "map-reference", own, reference, query, "--label", "cell_type", "--no-progress"]
    printed = works(*words, "-o", tmp_path / "scores", "--num-neighbors", 5)
    assert "pca_map" in printed
    assert "outside AUROC" in printed
    evaluation = Evaluation.load(tmp_path / "scores")
    assert evaluation.methods[0].what.startswith("vote of the 5 nearest")
    report = (tmp_path / "scores" / "report.html").read_text()
    assert "Outside the reference" in report
    assert "taken out" in report
    refused(tmp_path, *words, "-o", tmp_path / "scores", says=["holds files; choose a folder"])
    words[5:7] = ["--label", "celltype"]
    refused(tmp_path, *words, "-o", tmp_path / "new", says=["celltype"])
    with pytest.raises(ValueError, match="mapping needs the labelled cells of a reference"):
        cellwright.score(query, own, task="map_reference", label="cell_type", out=tmp_path / "new", run=QUIET)
