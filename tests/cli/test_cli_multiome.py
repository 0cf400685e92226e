"""``multiome`` trains on several modalities, embeds, tells proteins, and leaves a model, cells, scores and a report."""

import json

import anndata
import numpy as np
import pytest
from cli.command_line import SIZE, refused, works

import cellwright
from cellwright.data import make_multimodal
from cellwright.models import FAMILIES, load, new_model
from cellwright.verbs import CellColumns, InferenceOptions
from cellwright.vocab import GeneVocab

QUICK = [
    "train.max_epochs=1", "train.accelerator=cpu", "train.checkpoint_every=1000", "num_genes=30", "num_peaks=15",
    "batch_size=32",
]  # fmt: skip
WORDS = ["--no-progress", "--device", "cpu", *(word for change in QUICK for word in ("--set", change))]
QUIET = InferenceOptions(progress=False, device="cpu")


@pytest.fixture(autouse=True)
def _quick_drawing(monkeypatch):
    """UMAP takes long to compile."""
    from cellwright.evaluate import multiome, projection

    monkeypatch.setattr(multiome, "umap_embedding", lambda x_nd, seed: projection._principal_components(x_nd))


@pytest.fixture(scope="module")
def cells():
    return make_multimodal(70, 40, num_proteins=6, num_peaks=20)


@pytest.fixture(scope="module")
def place(tmp_path_factory, cells):
    """A model, cells with proteins, and the same with peaks, in files."""
    home = tmp_path_factory.mktemp("multiome")
    genes = cells.var_names[:40]
    new_model("scgpt", GeneVocab.from_genes(genes, FAMILIES["scgpt"].specials), SIZE).save(home / "model")
    kinds = cells.var["feature_types"]
    cells[:, kinds != "Peaks"].copy().write_h5ad(home / "cite.h5ad")
    cells[:, kinds != "Antibody Capture"].copy().write_h5ad(home / "atac.h5ad")
    cells[:, kinds == "Gene Expression"].copy().write_h5ad(home / "rna.h5ad")
    return home


def test_a_mosaic_is_trained_told_scored_and_written(place, tmp_path):
    out = tmp_path / "run"
    words = ["--label", "cell_type", "--tech-batch", "tech_batch", "--query", place / "cite.h5ad", *WORDS]
    printed = works("multiome", place / "model", place / "cite.h5ad", place / "rna.h5ad", "-o", out, *words)
    assert "70 cells have RNA and proteins" in printed
    assert "AvgBIO" in printed
    found = anndata.read_h5ad(out / "cells.h5ad")
    assert found.n_obs == 140
    assert found.obsm["X_scGPT"].shape == (140, 16)
    assert list(found.obsm["protein_told"].columns) == [f"P{p}" for p in range(6)]
    assert np.isfinite(found.obsm["protein_told"].to_numpy()).all()
    assert found.obs["has_protein"].tolist() == [True] * 70 + [False] * 70
    model = load(out)
    assert model.tech_batches == ("batch 0", "batch 1")
    assert set(model.origin["multiome"]["calibration"]) == {f"protein:P{p}" for p in range(6)}
    report = (out / "report.html").read_text()
    for heading in ("Cells", "Proteins told from RNA", "Proteins of the query", "Training"):
        assert f">{heading}</h2>" in report
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert {"scGPT multi-omic", "PCA of both", "CCA", "shuffled"} <= {row["method"] for row in rows}
    told = [json.loads(line) for line in (out / "proteins" / "results.jsonl").read_text().splitlines()]
    assert {"scGPT multi-omic", "ridge", "kNN", "mean"} == {row["method"] for row in told}
    assert (out / "query" / "report.html").is_file()


def test_peaks_and_no_label_leave_a_model_without_scores(place, tmp_path):
    printed = works("multiome", place / "model", place / "atac.h5ad", "-o", tmp_path / "run", *WORDS)
    assert "nothing was scored: there are neither labels (--label) nor proteins" in printed
    assert not (tmp_path / "run" / "report.html").exists()
    assert "X_scGPT" in anndata.read_h5ad(tmp_path / "run" / "cells.h5ad").obsm


def test_without_labels_the_comparison_is_of_told_proteins(place, cells, tmp_path):
    before = cells.copy()
    out = tmp_path / "run"
    result = cellwright.multiome(cells, place / "model", out=out, changes=QUICK, run=QUIET)
    assert result.evaluation.primary_metric == "feature_pearson"
    assert result.told_nf.shape == (70, 6)
    assert result.proteins == tuple(f"P{p}" for p in range(6))
    assert [section.heading for section in result.evaluation.sections] == ["Protein by protein", "Cells"]
    assert (cells.X != before.X).nnz == 0
    assert list(cells.obsm) == []
    # the trained model can be opened, and trained further on the same modalities
    again = cellwright.multiome(cells, out, out=tmp_path / "again", changes=[*QUICK, "train.max_steps=1"], run=QUIET)
    assert again.model.vocab == result.model.vocab


def test_what_cannot_be_used_is_refused(place, tmp_path):
    model, cite, rna, out = place / "model", place / "cite.h5ad", place / "rna.h5ad", tmp_path / "run"
    command = ("multiome", model, cite, "-o", out, *WORDS)
    refused(tmp_path, "multiome", model, rna, "-o", out, *WORDS, says=["there is RNA and nothing beside it"])
    refused(tmp_path, "multiome", model, place / "no.h5ad", "-o", out, *WORDS, says=["no such file", "no.h5ad"])
    refused(tmp_path, *command, "--label", "cel_type", says=["no column 'cel_type'", "did you mean 'cell_type'"])
    refused(tmp_path, *command, "--tech-batch", "lane", says=["no column 'lane'"])
    refused(tmp_path, *command, "--slot", "adt", says=["no obsm['adt']"])
    refused(tmp_path, *command, "--query", rna, says=["has no proteins to compare with"])
    refused(tmp_path, *command, "--set", "hidden_fraction=2", says=["hidden_fraction"])
    refused(tmp_path, *command, "--layer", "counts", says=["no matrix 'counts'"])
    refused(place, "multiome", model, cite, "-o", place, *WORDS, says=["holds files"])


def test_a_query_with_other_proteins_is_refused(place, cells, tmp_path):
    other = cells[:, cells.var["feature_types"] != "Peaks"].copy()
    other.var_names = [f"other {name}" if name.startswith("P") else name for name in other.var_names]
    with pytest.raises(ValueError, match="shares no protein with the training cells"):
        cellwright.multiome(
            cells, place / "model", out=tmp_path / "run", query=other, changes=QUICK, run=QUIET,
            columns=CellColumns(split_by="cells"),
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_too_few_whole_cells_are_refused(place, cells, tmp_path):
    with pytest.raises(ValueError, match="10 cells have RNA and proteins; at least 20 are needed"):
        cellwright.multiome(cells[:10].copy(), place / "model", out=tmp_path / "run", changes=QUICK, run=QUIET)


def test_a_mosaic_in_which_no_cell_has_everything(place, tmp_path):
    studies = [place / "cite.h5ad", place / "atac.h5ad"]
    result = cellwright.multiome(
        studies, place / "model", out=tmp_path / "run", changes=[*QUICK, "train.max_steps=1"], run=QUIET
    )
    assert result.model.inputs.modalities == ("peak", "protein", "rna")
    assert result.told_nf.shape == (140, 6)
    assert any("of the training cells lack a modality" in line for line in result.evaluation.summary)
