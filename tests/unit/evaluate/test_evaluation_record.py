"""The record of an evaluation: round trip, strict reading, consistency."""

import json

import numpy as np
import pytest
from unit.evaluate.made_up import METHODS, made_up_cells, made_up_evaluation

from cellwright.evaluate import Cells, Difference, Evaluation, Grouping, Method, Score, Table


@pytest.fixture(scope="module")
def evaluation():
    return made_up_evaluation()


def test_round_trip(evaluation, tmp_path):
    (tmp_path / "other.txt").write_text("stays")
    evaluation.save(tmp_path)
    again = Evaluation.load(tmp_path)
    assert again.record() == evaluation.record()
    for name in ("umap_n2", "truth_n", "pred_n", "confidence_n"):
        one, two = getattr(again.cells, name), getattr(evaluation.cells, name)
        assert one.dtype == two.dtype
        assert (one == two).all()
    assert again.cells.groupings["donor"].names == ("donor A", "donor B", "donor C")
    assert (again.cells.groupings["donor"].code_n == evaluation.cells.groupings["donor"].code_n).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cells.npz", "evaluation.json", "figures", "other.txt"]


def test_round_trip_without_cells(tmp_path):
    made_up_evaluation(cells=Cells(), classes=()).save(tmp_path)
    assert len(Evaluation.load(tmp_path).cells) == 0


def test_missing_files_are_named(evaluation, tmp_path):
    with pytest.raises(ValueError, match=r"evaluation.json is missing"):
        Evaluation.load(tmp_path)
    evaluation.save(tmp_path)
    (tmp_path / "cells.npz").unlink()
    with pytest.raises(ValueError, match=r"cells.npz is missing"):
        Evaluation.load(tmp_path)


def test_cells_of_another_evaluation_are_refused(evaluation, tmp_path):
    evaluation.save(tmp_path / "a")
    made_up_evaluation(cells=made_up_cells(seed=1)).save(tmp_path / "b")
    (tmp_path / "b" / "cells.npz").replace(tmp_path / "a" / "cells.npz")
    with pytest.raises(ValueError, match="does not belong"):
        Evaluation.load(tmp_path / "a")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda record: [], "not an evaluation of format"),
        (lambda record: record | {"format": "other"}, "not an evaluation of format"),
        (
            lambda record: record | {"evaluation": record["evaluation"] | {"colour": "red"}},
            "no option 'colour'",
        ),
        (lambda record: record | {"evaluation": record["evaluation"] | {"methods": []}}, "methods"),
        (lambda record: record | {"evaluation": record["evaluation"] | {"classes": ["B"]}}, "for 1 classes"),
        (lambda record: record | {"format": "cellwright-evaluation-1"}, "evaluate again with this version"),
        (lambda record: record | {"figures_sha256": {}}, "no file of the picture 'umap'"),
    ],
)
def test_foreign_records_are_one_clear_error(evaluation, tmp_path, spoil, words):
    evaluation.save(tmp_path)
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(spoil(json.loads(path.read_text()))))
    with pytest.raises(ValueError, match=words) as caught:
        Evaluation.load(tmp_path)
    assert "evaluation.json" in str(caught.value)


def test_cut_record_is_named(evaluation, tmp_path):
    evaluation.save(tmp_path)
    path = tmp_path / "evaluation.json"
    path.write_text(path.read_text()[:200])
    with pytest.raises(ValueError, match="not valid JSON"):
        Evaluation.load(tmp_path)


def test_a_failed_write_leaves_the_old_evaluation(evaluation, tmp_path, monkeypatch):
    evaluation.save(tmp_path)

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("cellwright.evaluate.evaluation._pack_cells", fail)
    with pytest.raises(OSError, match="disk full"):
        made_up_evaluation(title="new").save(tmp_path)
    assert Evaluation.load(tmp_path).title == evaluation.title


BASELINE = METHODS[-1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"primary_metric": "f1"}, "no metric 'f1' among the measures; there are"),
        ({"primary_metric": "ari"}, "no score for the primary metric"),
        ({"methods": (BASELINE, BASELINE)}, "names must differ"),
        ({"cells_method": "nobody"}, "is not among"),
        (
            {"differences": (Difference(method="x", other="pca_knn", metric="ece", value=0, low=0, high=0),)},
            "names no method",
        ),
        (
            {"methods": (BASELINE.model_copy(update={"scores": BASELINE.scores | {"zap": Score(value=1)}}),)},
            "no metric 'zap'",
        ),
        ({"headline": None}, "headline"),
    ],
)
def test_inconsistent_evaluations_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        made_up_evaluation(**({"differences": (), "cells_method": ""} | changes))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Score(value=0.5, low=0.4), "both ends"),
        (lambda: Score(value=0.5, low=0.6, high=0.4), "both ends"),
        (lambda: Score(value=float("nan")), "finite"),
        (lambda: Table(columns=("a", "b"), rows=((1,),)), "1 entries"),
        (lambda: Method(name="m", what="", is_baseline=True, scores={}, speed=3), "speed"),
        (lambda: Cells(truth_n=np.zeros(3, int), pred_n=np.zeros(2, int)), "differ in length"),
        (lambda: Cells(umap_n2=np.zeros((3, 3))), "not cells x 2"),
        (
            lambda: Cells(groupings={"donor": Grouping(np.array([0, 2]), ("a", "b"))}),
            "outside its 2 names",
        ),
    ],
)
def test_bad_parts_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
