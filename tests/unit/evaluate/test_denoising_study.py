"""A study of read depth from cells to the record: who is compared, what is paired, what is refused."""

from dataclasses import replace

import numpy as np
import pytest

import cellwright
from cellwright.data import make_cells
from cellwright.data.cells import open_cells
from cellwright.evaluate import DenoisingStudy, denoising_study, evaluate_denoising, result_rows, verdict, write_report
from cellwright.evaluate.denoising import Drawn
from cellwright.evaluate.denoising_study import PRIMARY, mean_over_depths
from cellwright.metrics import DENOISING_METRICS
from cellwright.models import FAMILIES, new_model
from cellwright.vocab import GeneVocab

QUIET = cellwright.InferenceOptions(progress=False, device="cpu")
QUERY_ALONE = {"scFoundation", "query_mean", "unchanged", "library_size", "pca", "neighbors", "deep_again"}
DEPTHS = ("5 % of molecules", "20 % of molecules")


def cells(num, *, seed):
    adata = make_cells(num, 40, num_types=3, depth=600, seed=seed)
    adata.obs["donor"] = [f"donor {seed}-{n % 6}" for n in range(num)]
    return adata


@pytest.fixture(scope="module")
def model():
    family = FAMILIES["scfoundation"]
    vocab = GeneVocab.from_genes(cells(2, seed=0).var_names, family.specials)
    size = family.sizes["tiny"]
    return new_model("scfoundation", vocab, size, seed=0)


@pytest.fixture(scope="module")
def found(model):
    """A study with training cells; in place of the network, the model says what the deep cells hold."""
    source, train = (open_cells(cells(num, seed=seed), model.vocab) for num, seed in ((36, 1), (60, 2)))
    study = DenoisingStudy(
        model=model, source=source, train=train, label="cell_type", group="donor", shares=(0.05, 0.2), num_cells=30,
        num_resamples=100, seed=3,
    )  # fmt: skip
    return study, evaluate_denoising(study, QUIET)


def test_every_baseline_stands_beside_the_model_at_every_depth(found):
    _, evaluation = found
    kinds = {method.name: method.kind for method in evaluation.methods}
    assert kinds["scFoundation"] == "model"
    assert kinds["gene_mean"] == "floor"
    assert kinds["deep_again"] == "roof"
    assert {name for name, kind in kinds.items() if kind == "baseline"} == {
        "unchanged", "library_size", "pca", "neighbors", "training_neighbors", "ridge",
    }  # fmt: skip
    for method in evaluation.methods:
        wanted = {*DENOISING_METRICS, "nmi", "ari"} - ({PRIMARY} if method.kind == "roof" else set())
        assert set(method.scores) == wanted
        assert set(method.parts) == set(DEPTHS)
        for name, score in method.scores.items():
            each = [method.parts[depth][name] for depth in DEPTHS]
            assert score.value == pytest.approx(np.mean([one.value for one in each]))
            assert all(one.low <= one.value <= one.high for one in (score, *each))
            assert score.cells == {"cells": 30}
    assert "whole groups of 'donor'" in evaluation.interval_note
    assert evaluation.provenance.split_sha256
    # the untrained network is no better than the counts it is given
    assert "A baseline wins" in verdict(evaluation)


def test_the_same_seed_gives_the_same_scores_whatever_the_other_depths(found):
    study, evaluation = found
    again = evaluate_denoising(replace(study, shares=study.shares[:1]), QUIET)
    for one, two in zip(evaluation.methods, again.methods, strict=True):
        assert one.parts[DEPTHS[0]] == two.parts[DEPTHS[0]] == two.scores


def test_the_record_and_its_report_are_whole(found, tmp_path):
    _, evaluation = found
    evaluation.save(tmp_path)
    assert type(evaluation).load(tmp_path).sections == evaluation.sections
    page = write_report(evaluation, tmp_path / "report.html").read_text(encoding="utf-8")
    for text in ("Over read depth", "Depth by depth", "held-out deviance", "Thinned cells", "data:image/svg+xml"):
        assert text in page
    rows = [row for row in result_rows(evaluation) if row["metric"] == "expressed_mae" and row["part"] == DEPTHS[1]]
    assert {row["method"] for row in rows} == {method.name for method in evaluation.methods}
    assert all(row["floor"] is not None and row["roof"] is not None for row in rows)


def test_differences_are_paired(found):
    _, evaluation = found
    assert {difference.other for difference in evaluation.differences} == {
        method.name for method in evaluation.methods if method.kind in ("baseline", "floor")
    }
    scores = {method.name: method.scores[PRIMARY] for method in evaluation.methods if method.kind != "roof"}
    for difference in evaluation.differences:
        ours, theirs = scores["scFoundation"], scores[difference.other]
        assert difference.value == pytest.approx(ours.value - theirs.value)
        assert difference.low <= difference.value <= difference.high
    both = Drawn(1.0, np.array([0.0, 1.0, 2.0])), Drawn(3.0, np.array([4.0, 3.0, 2.0]))
    assert mean_over_depths(both).value == 2
    assert mean_over_depths(both).value_r.tolist() == [2, 2, 2], "the same resamples at each depth"


def test_without_training_cells_baselines_know_the_thinned_cells_alone(model):
    source = open_cells(cells(20, seed=1), model.vocab)
    evaluation = evaluate_denoising(DenoisingStudy(model=model, source=source, shares=(0.3,), num_resamples=100), QUIET)
    assert {method.name for method in evaluation.methods} == QUERY_ALONE
    assert any("No training cells were given" in line for line in evaluation.summary)
    assert any("clusters of the deep cells" in line for line in evaluation.summary)
    assert evaluation.provenance.split_sha256 is None


def test_a_model_that_gives_the_deep_cells_back_wins(model, monkeypatch):
    """What is scored is the answer: a perfect one is best by every score that can tell."""
    from cellwright.evaluate import denoised
    from cellwright.evaluate.depth_cases import deep_values, recounted
    from cellwright.tasks.denoise import DenoisedCells

    def perfect(model, thinned, depth, *, gene_ids, options):
        deep = recounted(thinned._source.read(np.arange(len(thinned))), model.tokenizer())
        values = deep_values(deep, gene_ids).astype(np.float32)
        return DenoisedCells(value_ng=values, genes=(), gene_ids=gene_ids, depth=depth)

    monkeypatch.setattr(denoised, "denoise_cells", perfect)
    source = open_cells(cells(30, seed=1), model.vocab)
    study = DenoisingStudy(model=model, source=source, shares=(0.1,), num_resamples=100, label="cell_type")
    evaluation = evaluate_denoising(study, QUIET)
    scores = {method.name: method.scores for method in evaluation.methods if method.bound != "roof"}
    for metric, measure in evaluation.measures.items():
        best = min(measure.gap(own[metric].value) for own in scores.values())
        assert measure.gap(scores["scFoundation"][metric].value) <= best + 1e-6, metric
    assert verdict(evaluation).startswith("scFoundation has the best held-out deviance")


def test_cells_that_lose_everything_are_counted_and_too_few_are_refused(model):
    source = open_cells(cells(40, seed=1), model.vocab)
    evaluation = evaluate_denoising(
        DenoisingStudy(model=model, source=source, shares=(0.002,), num_resamples=100), QUIET
    )
    assert any("Cells without any molecule left" in line for line in evaluation.summary)
    with pytest.raises(ValueError, match=r"with 0\.01 % of their molecules \d+ of 40 cells have any left"):
        evaluate_denoising(DenoisingStudy(model=model, source=source, shares=(0.0001,)), QUIET)


def test_what_cannot_be_scored_is_refused(model):
    source, few = (open_cells(cells(num, seed=1), model.vocab) for num in (20, 9))
    with pytest.raises(ValueError, match="9 of 9 cells hold molecules of the model's genes; at least 10"):
        evaluate_denoising(DenoisingStudy(model=model, source=few), QUIET)
    with pytest.raises(ValueError, match="held-out cells are training cells too"):
        evaluate_denoising(DenoisingStudy(model=model, source=source, train=source), QUIET)
    with pytest.raises(ValueError, match="no denoising baseline 'magick'; did you mean 'magic'"):
        evaluate_denoising(DenoisingStudy(model=model, source=source, further=("magick",)), QUIET)
    with pytest.raises(ValueError, match="'ridge' learns from training cells, and none were given"):
        evaluate_denoising(DenoisingStudy(model=model, source=source, further=("ridge",)), QUIET)
    assert denoising_study.DRAWN[0] == PRIMARY
