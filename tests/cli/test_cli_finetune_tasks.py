"""``finetune`` is one verb: each task leaves a model and a report, and what a task cannot do is refused in one line."""

import pytest
from cli.command_line import refused, works

import cellwright
from cellwright.evaluate import integration_sections, projection
from cellwright.models import load

QUICK = ["--no-progress", "--device", "cpu", "--set", "train.max_epochs=1", "--set", "train.accelerator=cpu"]


@pytest.fixture(autouse=True)
def _quick_drawing(monkeypatch):
    monkeypatch.setattr(
        integration_sections, "umap_embedding", lambda x_nd, seed: projection._principal_components(x_nd)
    )


@pytest.mark.slow
def test_integrate_is_a_task_of_finetune(own, data, tmp_path):
    out = tmp_path / "run"
    few = ["--set", "num_genes=30", "--set", "batch_size=16"]
    printed = works("finetune", "integrate", own, data, "-o", out, "--tech-batch", "tech_batch", *QUICK, *few)
    assert "scGPT, fine-tuned" in printed
    assert (out / "report.html").is_file()
    assert load(out / "model").tech_batches


def test_what_a_task_lacks_is_said(own, data, tmp_path):
    out = tmp_path / "run"
    assert "--tech-batch" in refused(tmp_path, "finetune", "integrate", own, data, "-o", out)
    words = ["--tech-batch", "tech_batch", "--split-by", "tech_batch"]
    assert "trained on all cells" in refused(tmp_path, "finetune", "integrate", own, data, "-o", out, *words)
    assert "no control" in refused(tmp_path, "finetune", "perturb", own, data, "-o", out, "--label", "cell_type")
    refused(tmp_path, "finetune", "multiome", own, data, "-o", out)
    assert not out.exists()
    with pytest.raises(ValueError, match="did you mean 'integrate'"):
        cellwright.finetune(data, own, task="integrat", out=out)
    with pytest.raises(ValueError, match="name their column of obs"):
        cellwright.finetune(data, own, out=out)
