"""Predicting perturbations through the verb and the command line: what is written, what is refused."""

import json

import anndata
import numpy as np
import pytest
from cli.command_line import made_up_model, refused, works

import cellwright
from cellwright.data.synthetic import ScreenPlan, make_perturbed_cells
from cellwright.tasks.gene_features import GeneTable, ModelContexts
from cellwright.tasks.perturb_graph import GraphConfig
from cellwright.verbs.perturbing import PerturbConfig

PLAN = ScreenPlan(num_modules=2, genes_per_module=3, doubles=3, cells_each=24, num_measured=2)
FAST = ["--kind", "genes", "--folds", "2", "--no-cell-scores", "--set", "graph.max_epochs=3", "--set", "graph.width=8"]


@pytest.fixture(scope="module")
def screen():
    """A small screen whose panel holds genes that the tiny model knows."""
    found = make_perturbed_cells(60, PLAN, seed=2)
    known = made_up_model().vocab.genes
    found.var_names = [*found.var_names[:2], *known[: found.n_vars - 2]]
    return found


@pytest.fixture(scope="module")
def files(screen, tmp_path_factory):
    folder = tmp_path_factory.mktemp("screen")
    screen.write_h5ad(folder / "screen.h5ad")
    lines = ["\t".join([name, "", *genes]) for name, genes in screen.uns["sets"].items()]
    (folder / "sets.gmt").write_text("\n".join(lines) + "\n")
    return folder


def test_a_run_leaves_scores_predictions_and_their_record(files, tmp_path):
    out = works(
        "perturb", files / "screen.h5ad", "-o", tmp_path / "run", "--perturbation", "perturbation", "--control", "ctrl",
        "--gene-sets", files / "sets.gmt", "--predict", "P00+P03", *FAST,
    )  # fmt: skip
    assert "replicate" in out
    assert "4 of 6 perturbed genes are not measured" in out
    run = tmp_path / "run"
    assert sorted(path.name for path in run.iterdir()) == [
        "calibration.json", "cells.npz", "evaluation.json", "figures", "predictions.h5ad", "record.json",
        "report.html", "results.jsonl", "scores.jsonl", "scores.txt", "splits.json",
    ]  # fmt: skip
    rows = [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]
    check_report(run, rows)
    assert {"graph", "additive", "bilinear_ridge_sets", "replicate", "technical"} <= {row["method"] for row in rows}
    assert {row["num_perturbations"] for row in rows} == {6}
    record = json.loads((run / "record.json").read_text())
    assert record["options"]["methods"]["graph"]["max_epochs"] == 3
    assert len(record["split_sha256"]) == 2
    made = anndata.read_h5ad(run / "predictions.h5ad")
    assert made.obs["condition"].tolist()[-1] == "P00+P03"
    assert sorted(made.obs["condition"][made.obs["fold"] >= 0]) == [f"P0{i}" for i in range(6)]
    assert np.isfinite(made.X).all()
    assert np.isfinite(made.layers["observed"][made.obs["fold"] >= 0]).all()
    splits = json.loads((run / "splits.json").read_text())
    assert not set(splits[0]["profiles"]["train"]) & set(splits[0]["profiles"]["test"])


def check_report(run, rows):
    """The common record tells the same scores as the rows, with floor and roof, and its report is whole."""
    from cellwright.evaluate.evaluation import Evaluation

    found = Evaluation.load(run)
    kinds = {method.name: method.kind for method in found.methods}
    assert (kinds["technical"], kinds["replicate"], kinds["graph"], kinds["additive"]) == (
        "floor", "roof", "model", "baseline",
    )  # fmt: skip
    of_rows = {(r["method"], r["metric"]): (r["value"], r["low"], r["high"]) for r in rows if r["group"] == "all"}
    for method in found.methods:
        for name, score in method.scores.items():
            assert (score.value, score.low, score.high) == of_rows[method.name, name]
    assert {picture.name for picture in found.pictures()} == {"effects", "top-genes"}
    page = (run / "report.html").read_text()
    assert "6 profiles of 6 perturbations that no method has learnt from (single genes held out)" in page
    one_by_one = next(s for s in found.sections if s.heading == "Perturbation by perturbation")
    assert sorted(row[0] for row in one_by_one.tables[""].rows) == [f"P0{i}" for i in range(6)]


def test_a_model_or_a_file_feeds_a_second_graph_model(screen, tmp_path):
    model = made_up_model()
    before = model.sha256(), screen.X.copy()
    config = PerturbConfig(graph=GraphConfig(max_epochs=2, width=8))
    how = {"screen": cellwright.ScreenOptions(kind="genes"), "config": config}
    options = cellwright.PerturbOptions(folds=2, cell_scores=False)
    run = cellwright.InferenceOptions(progress=False, device="cpu")
    for per_cell in (False, True):
        asked = options.model_copy(update={"per_cell": per_cell})
        result = cellwright.perturb(screen, model=model, options=asked, run=run, **how)
        assert "graph_context" in result.predictions.effect_eg
        assert ("cell by cell" in result.predictions.what["graph_context"]) == per_cell
        assert any("of 60 genes" in note for note in result.record["notes"])
    assert model.sha256() == before[0]
    assert (screen.X != before[1]).nnz == 0
    table = GeneTable(tuple(screen.var_names), np.random.default_rng(0).normal(0, 1, (60, 4)), "drawn")
    by_table = cellwright.perturb(screen, embedding=table, options=options, **how)
    assert "bilinear_ridge_model" in by_table.predictions.effect_eg
    with pytest.raises(ValueError, match="both give gene embeddings"):
        cellwright.perturb(screen, embedding=table, model=model, **how)
    with pytest.raises(ValueError, match="per_cell reads a model's"):
        cellwright.perturb(screen, options=options.model_copy(update={"per_cell": True}), **how)


def test_context_embeddings_do_not_depend_on_what_is_read_together(screen):
    from cellwright.verbs import open_data

    model = made_up_model()
    source = open_data(screen, model)
    run = cellwright.InferenceOptions(progress=False, device="cpu", batch_size=3)
    contexts = ModelContexts(model, source, tuple(screen.var_names), run)
    rows = np.array([5, 0, 17, 9, 2])
    together_ngd = contexts.read(rows)
    assert together_ngd.shape == (5, 60, 16)
    alone_ngd = np.concatenate([contexts.read(rows[i : i + 1]) for i in range(5)])
    assert together_ngd == pytest.approx(alone_ngd, abs=1e-5)
    assert not together_ngd[:, :2].any()
    is_there_ng = together_ngd.any(-1)
    assert (is_there_ng[:, 2:] == (screen.X[rows].toarray()[:, 2:] > 0)).all()
    table = contexts.mean(rows)
    assert "P00" not in table.genes
    at = screen.var_names.get_loc(table.genes[0])
    assert table.value_gd[0] == pytest.approx(together_ngd[is_there_ng[:, at], at].mean(0), abs=1e-5)


@pytest.fixture(scope="module")
def kept(screen, files, tmp_path_factory):
    """A run in which a tiny model was fine-tuned and kept; its folder, and the folder of the model it began from."""
    folder = tmp_path_factory.mktemp("kept")
    made_up_model().save(folder / "begun")
    as_labels = ["labels" if word == "genes" else word for word in FAST]
    works(
        "perturb", files / "screen.h5ad", "-o", folder / "run", "--model", folder / "begun", "--use", "cells",
        "--keep-model", *as_labels, "--set", "cells.max_epochs=1", "--set", "cells.cells_per_profile=3", "--set",
        "cells.pool=5", "--set", "cells.device=cpu", "--set", "cells.mode=lora", "--set", "cells.lora.rank=2",
    )  # fmt: skip
    return folder


def test_a_fine_tuned_model_stands_beside_the_others_and_is_kept(kept, screen):
    run = kept / "run"
    rows = [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]
    assert {"cells", "graph", "additive"} <= {row["method"] for row in rows}
    record = json.loads((run / "record.json").read_text())
    assert record["options"]["methods"]["cells"]["lora"]["rank"] == 2
    assert (
        "scGPT is fed 58 of 60 genes, the others are predicted as unchanged; 6 of 6 perturbations have a token"
        in (record["notes"])
    )


def test_a_kept_model_is_asked_of_new_conditions(kept, tmp_path):
    out = works(
        "predict-perturbation", kept / "run", "-o", tmp_path / "new.h5ad", "--predict", "P01+P04", "--predict", "X"
    )
    assert "not known to the model, so without effect: X (X)" in out
    made = anndata.read_h5ad(tmp_path / "new.h5ad")
    assert made.obs["condition"].tolist() == ["P01+P04", "X"]
    assert made.X[0].any()
    assert not made.X[1].any()
    folder = tmp_path / "none"
    folder.mkdir()
    refused(
        tmp_path, "predict-perturbation", folder, "-o", tmp_path / "x.h5ad", "--predict", "A",
        says=["holds no model of perturbations", "perturb --keep-model"],
    )  # fmt: skip
    refused(
        tmp_path, "predict-perturbation", kept / "run", "-o", tmp_path / "x.csv", "--predict", "A", says=["no .h5ad"]
    )
    refused(
        tmp_path, "predict-perturbation", kept / "run", "-o", tmp_path / "x.h5ad", "--predict", "ctrl",
        says=["'ctrl' is the control"],
    )  # fmt: skip


def test_a_wanted_state_is_answered_by_a_list(files, screen, tmp_path):
    wanted = screen[screen.obs["perturbation"].astype(str).isin(["P00+P03", "P03+P00"]), 5:].copy()
    wanted = wanted if wanted.n_obs else screen[screen.obs["perturbation"] == "P02", 5:].copy()
    wanted.write_h5ad(tmp_path / "wanted.h5ad")
    out = works(
        "reverse-perturb", files / "screen.h5ad", "-o", tmp_path / "run", "--state", tmp_path / "wanted.h5ad", "--kind",
        "genes", "--folds", "2", "--top", "1,3", "--set", "graph.max_epochs=2", "--set", "graph.width=8",
    )  # fmt: skip
    assert "candidates for the wanted state, by graph:" in out
    assert "55 of 60 genes measured" in out
    lines = (tmp_path / "run" / "ranking.tsv").read_text().splitlines()
    assert lines[0] == "rank\tperturbation\tscore"
    assert len(lines) == 1 + 6 + 15
    rows = [json.loads(line) for line in (tmp_path / "run" / "results.jsonl").read_text().splitlines()]
    assert {"random_order", "additive", "graph", "replicate"} == {row["method"] for row in rows} & {
        "random_order", "additive", "graph", "replicate",
    }  # fmt: skip
    assert (tmp_path / "run" / "report.html").is_file()


def test_wrong_questions_of_a_state_are_refused(files, tmp_path):
    words = ["reverse-perturb", files / "screen.h5ad", "-o", tmp_path / "run", "--kind", "genes"]
    cases = {
        "no list of whole numbers": ["--top", "1,few"],
        "use = 'cells' fine-tunes a model": ["--use", "cells"],
        "no context 'liver'": ["--in-context", "liver", "--state", files / "screen.h5ad"],
        "are to be looked at; ask for fewer": ["--top", "99", "--set", "graph.max_epochs=1"],
    }
    for message, more in cases.items():
        refused(tmp_path, *words, *more, says=[message])


def test_mistakes_are_told_in_one_line_and_nothing_is_left(files, tmp_path):
    data, out = files / "screen.h5ad", tmp_path / "run"
    cases = {
        "no column 'pertubation'": ["--perturbation", "pertubation"],
        "no control 'DMSO'": ["--perturbation", "perturbation", "--control", "DMSO"],
        "needs at least 2 contexts": ["--split", "cells"],
        "split = 'triple'": ["--split", "triple"],
        "no file of gene sets": ["--gene-sets", tmp_path / "none.gmt"],
        "no gene embedding": ["--embedding", tmp_path / "none.npz"],
        "no option 'graph.widht'": ["--set", "graph.widht=3"],
        "cells.mode = 'prob'": ["--set", "cells.mode=prob"],
        "is the control": ["--predict", "ctrl"],
        "use = 'both' fine-tunes a model": ["--use", "both"],
    }
    for message, words in cases.items():
        refused(tmp_path, "perturb", data, "-o", out, *FAST, *words, says=[message])
