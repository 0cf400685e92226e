"""``integrate`` leaves cells, model and report; what it cannot do is refused in one line and leaves nothing."""

import json

import anndata
import numpy as np
import pytest
from cli.command_line import refused, works

from cellwright.evaluate import integration_sections, projection

FEW = ["--baselines", "pca,centred_pca", "--num-resamples", 100, "--no-progress", "--device", "cpu"]
SMALL = [
    "--set",
    "num_genes=30",
    "--set",
    "batch_size=16",
    "--set",
    "train.max_epochs=1",
    "--set",
    "train.accelerator=cpu",
]


@pytest.fixture(autouse=True)
def _quick_drawing(monkeypatch):
    monkeypatch.setattr(
        integration_sections, "umap_embedding", lambda x_nd, seed: projection._principal_components(x_nd)
    )


def test_a_fine_tuned_run_is_a_folder_of_cells_model_and_report(own, data, adata, tmp_path):
    out = tmp_path / "run"
    words = ["--tech-batch", "tech_batch", "--label", "cell_type", "--mode", "full", *FEW, *SMALL]
    printed = works("integrate", own, data, "-o", out, *words)
    for text in ("scGPT, fine-tuned", "scGPT, zero-shot", "centred_pca", "AvgBIO", "integrated.h5ad", "report: "):
        assert text in printed
    assert {path.name for path in out.iterdir()} >= {"integrated.h5ad", "model", "report.html", "results.jsonl"}
    made = anndata.read_h5ad(out / "integrated.h5ad")
    assert made.obsm["X_scGPT"].shape == (40, 16)
    assert (made.X != adata.X).nnz == 0
    assert made.uns["cellwright"]["X_scGPT"]["integration"]["mode"] == "full"
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert {row["metric"] for row in rows} >= {"overall", "avg_bio", "avg_batch", "ilisi", "bras", "nmi"}
    report = (out / "report.html").read_text()
    for heading in ("Cells in one space", "Scores by type", "Batches and types"):
        assert heading in report
    # and the model can be used again, told of the batches
    works("embed", out / "model", data, "-o", tmp_path / "again.h5ad", "--tech-batch", "tech_batch", "--no-progress")
    again = anndata.read_h5ad(tmp_path / "again.h5ad").obsm["X_scGPT"]
    assert np.allclose(again, made.obsm["X_scGPT"], atol=1e-6)


def test_zero_shot_without_labels(own, data, tmp_path):
    words = ["--tech-batch", "tech_batch", "--slot", "X_mine", *FEW]
    printed = works("integrate", own, data, "-o", tmp_path / "run", *words)
    assert "Without labels" in printed
    assert "X_mine" in anndata.read_h5ad(tmp_path / "run" / "integrated.h5ad").obsm
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "--tech-batch COLUMN"),
        (["--tech-batch", "tech_batc"], "did you mean 'tech_batch'"),
        (["--tech-batch", "tech_batch", "--label", "cell_typ"], "did you mean 'cell_type'"),
        (["--tech-batch", "donor"], "fewer than 10 cells"),
        (["--tech-batch", "tech_batch", "--mode", "ful"], "did you mean 'full'"),
        (["--tech-batch", "tech_batch", "--set", "num_genes=30"], "zero_shot trains nothing"),
        (["--tech-batch", "tech_batch", "--mode", "full", "--set", "num_gene=30"], "did you mean 'num_genes'"),
        (["--tech-batch", "tech_batch", "--mode", "full", "--set", "weights.domains=1"], "there are masked_value"),
        (["--tech-batch", "tech_batch", "--mode", "full", "--set", "train.keep=best"], "easy to tell apart"),
        (
            ["--tech-batch", "tech_batch", "--mode", "full", "--set", "weights.value_gate=0"],
            "weights.value_gate: no such term; there are masked_value, zero_gate, cell_value, cell_zero_gate",
        ),
        (["--tech-batch", "tech_batch", "--label", "cell_type", "--unlabelled", "no"], "no cell has 'no'"),
        (["--tech-batch", "tech_batch", "--baselines", "harmonie"], "did you mean 'harmony'"),
    ],
)  # fmt: skip
def test_mistakes_are_said_and_leave_nothing(own, data, tmp_path, words, says):
    refused(tmp_path, "integrate", own, data, "-o", tmp_path / "run", "--no-progress", *words, says=[says])
