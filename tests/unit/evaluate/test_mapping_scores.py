"""Scores of a mapping: a perfect place, a place that says nothing, types taken out in turn, what cannot be scored."""

import numpy as np
import pytest

from cellwright.data import make_cells, open_cells
from cellwright.evaluate import annotation, outside, projection, study
from cellwright.evaluate.mapping import MappingStudy, evaluate_mapping
from cellwright.evaluate.outside import OUTSIDE, UNKNOWN, LeftOut, outside_auroc
from cellwright.models import FAMILIES, new_model
from cellwright.tasks.mapping import IndexConfig
from cellwright.vocab import GeneVocab

GENES = [f"GENE{g:04d}" for g in range(60)]


@pytest.fixture(scope="module")
def model():
    return new_model("scgpt", GeneVocab.from_genes(GENES, FAMILIES["scgpt"].specials), FAMILIES["scgpt"].sizes["tiny"])


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(annotation, "NUM_RESAMPLES", 50)
    monkeypatch.setattr(outside, "NUM_RESAMPLES", 50)
    monkeypatch.setattr(study, "umap_embedding", lambda x_nd, seed: projection._principal_components(x_nd))


def opened(model, num, seed, types=3):
    return open_cells(make_cells(num, 60, num_types=types, depth=300.0, seed=seed), model.vocab, accepts=("raw",))


def place(cells, noise, seed):
    """A corner for each type."""
    code_n = cells.obs["cell_type"].astype("category").cat.codes.to_numpy()
    generator = np.random.default_rng(seed)
    return (4 * np.eye(6)[code_n] * (noise < 9) + generator.normal(0, noise, (len(cells), 6))).astype(np.float32)


def evaluated(model, noise=0.3, **options):
    reference, query = opened(model, 120, 0), opened(model, 90, 1)
    return evaluate_mapping(
        MappingStudy(
            model=model,
            reference=reference,
            query=query,
            reference_nd=place(reference, noise, 0),
            query_nd=place(query, noise, 1),
            label="cell_type",
            config=IndexConfig(num_neighbors=5, metric="euclidean"),
            **options,
        )
    )


def test_a_perfect_place_scores_best_and_one_that_says_nothing_about_chance(model):
    best, chance = (
        {method.name: method for method in evaluated(model, noise).methods} for noise in (0.3, 9.0)
    )  # fmt: skip
    name = "scGPT embedding"
    assert set(best) == {name, "pca_map", "majority", "pca_logistic"}
    for metric in ("accuracy", "macro_f1_present", OUTSIDE):
        assert best[name].scores[metric].value == pytest.approx(1, abs=0.01), metric
    assert best[name].scores["ece"].value < 0.05
    assert chance[name].scores["accuracy"].value == pytest.approx(1 / 3, abs=0.15)
    assert chance[name].scores[OUTSIDE].value == pytest.approx(0.5, abs=0.1)
    assert best["majority"].scores[OUTSIDE].value == 0.5
    assert best["pca_map"].scores["accuracy"].value > 0.8
    score = chance[name].scores[OUTSIDE]
    assert score.low < score.value < score.high
    assert set(best[name].parts) == {"type 0", "type 1", "type 2"}


def test_the_record_says_what_was_done(model, tmp_path):
    evaluation = evaluated(model)
    assert evaluation.task == "map_reference"
    headings = [section.heading for section in evaluation.sections]
    assert headings == ["Outside the reference", "Cells", "Classes", "Calibration"]
    table = evaluation.sections[0].tables[""]
    for row in table.rows:
        named = dict(zip(table.columns, row, strict=True))
        assert named["median score, taken out"] > 0.9 > named["median score, in the reference"]
    assert [difference.other for difference in evaluation.differences] == ["pca_map", "pca_logistic"]
    evaluation.save(tmp_path)
    assert type(evaluation).load(tmp_path).sections[0].heading == "Outside the reference"


def test_types_that_the_reference_lacks_are_counted_and_named(model):
    reference, query = opened(model, 120, 0), opened(model, 90, 1)
    fewer = reference.select(np.flatnonzero(reference.obs["cell_type"] != "type 2"))
    evaluation = evaluate_mapping(
        MappingStudy(
            model=model, reference=fewer, query=query, label="cell_type",
            reference_nd=place(fewer, 0.3, 0), query_nd=place(query, 0.3, 1), config=IndexConfig(num_neighbors=5),
        )
    )  # fmt: skip
    assert "the reference lacks 'type 2', so no label is scored: 30 cells" in evaluation.summary
    assert all(OUTSIDE not in method.scores for method in evaluation.methods)  # one type would be left
    unknown = {method.name: method.scores[UNKNOWN].value for method in evaluation.methods}
    assert unknown["scGPT embedding"] > 0.95
    assert unknown["majority"] == 0.5
    with pytest.raises(ValueError, match="no query cell is of a type of the reference"):
        evaluate_mapping(
            MappingStudy(
                model=model, reference=fewer, query=query.select(np.flatnonzero(query.obs["cell_type"] == "type 2")),
                label="cell_type", reference_nd=place(fewer, 0.3, 0), query_nd=np.zeros((30, 6), np.float32),
            )
        )  # fmt: skip


def test_the_reference_itself_is_no_query(model):
    reference = opened(model, 60, 0)
    x_nd = place(reference, 0.3, 0)
    with pytest.raises(ValueError, match="60 of 60 held-out cells are training cells too"):
        evaluate_mapping(
            MappingStudy(
                model=model, reference=reference, query=reference, reference_nd=x_nd, query_nd=x_nd, label="cell_type"
            )
        )


def test_outside_scores_are_held_against_other_known_types_only():
    truth_n = np.array([0, 0, 1, 1, -1])
    own = LeftOut(whole_n=np.zeros(5), without={0: np.array([0.9, 0.5, 0.4, 0.5, 1.0])})
    assert outside_auroc(own, truth_n) == {0: pytest.approx(0.875)}
    assert outside_auroc(own, truth_n, np.array([2, 3, 4])) == {}
    assert not LeftOut(whole_n=np.zeros(5), without={})
