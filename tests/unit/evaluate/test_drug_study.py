"""Studies of drug response from answers to the record: what is shown, what is paired, what a fold is."""

import numpy as np
import pytest

from cellwright.data.drug_splits import split_pairs
from cellwright.data.drugs import LineFeatures, Responses
from cellwright.evaluate import verdict, write_report
from cellwright.evaluate.drug_sections import mean_interval
from cellwright.evaluate.drug_study import DrugStudy, evaluate_drugs
from cellwright.evaluate.drugs import baseline_answers
from cellwright.evaluate.transfer_study import TransferStudy, evaluate_transfer
from cellwright.tasks.transfer import Transferred


def planted(num_lines=50, num_drugs=6, seed=0):
    rng = np.random.default_rng(seed)
    value_lf = rng.normal(size=(num_lines, 4)).astype(np.float32)
    line_p, drug_p = (part.ravel() for part in np.indices((num_lines, num_drugs)))
    value_p = 2.0 * drug_p + value_lf[line_p, 0] + rng.normal(0, 0.5, len(line_p))
    lines = tuple(f"L{i}" for i in range(num_lines))
    return (
        Responses(line_p, drug_p, value_p, lines, tuple(f"D{i}" for i in range(num_drugs))),
        LineFeatures(lines, value_lf, ("a", "b", "c", "d")),
    )


def study(folds=1, seeds=1, num_lines=50):
    """A study whose network knows the truth up to some noise."""
    pairs, lines = planted(num_lines)
    parts = [split_pairs(pairs, by="line", fold=fold, valid=0) for fold in range(folds)]
    test = pairs.take(np.concatenate([part.test for part in parts]))
    each = [baseline_answers(pairs, lines, part) for part in parts]
    answers = {"network": [test.value_p + np.random.default_rng(s).normal(0, 0.3, len(test)) for s in range(seeds)]}
    answers |= {name: [np.concatenate([own[name] for own in each])] for name in each[0]}
    fold_p = np.repeat(np.arange(folds), [len(part.test) for part in parts]) if folds > 1 else None
    return DrugStudy(
        title="Drugs", dataset="ic50.csv", held_out="held out by line", pairs=test, answers=answers,
        what={"network": "an oracle"}, fold_p=fold_p, num_resamples=100,
    )  # fmt: skip


def test_everything_has_a_score_an_interval_and_a_difference(tmp_path):
    evaluation = evaluate_drugs(study())
    assert evaluation.primary_metric == "within_drug_pearson"
    kinds = {method.name: method.kind for method in evaluation.methods}
    assert kinds["network"] == "model"
    assert kinds["drug_mean"] == "floor"
    for method in evaluation.methods:
        assert set(method.scores) == {"within_drug_pearson", "pearson", "rmse", "mse"}
        assert all(score.low <= score.value <= score.high for score in method.scores.values())
    assert {difference.other for difference in evaluation.differences} == set(kinds) - {"network"}
    assert all(difference.low > 0 for difference in evaluation.differences), "the oracle is surely better"
    assert verdict(evaluation).startswith("network has the best Pearson within drugs")
    assert [section.heading for section in evaluation.sections] == ["Drug by drug"]
    tables = evaluation.sections[0].tables
    shares = tables["Share of drugs that the network orders better"]
    assert len({row[0] for row in shares.rows}) == len(shares.rows) == len(kinds) - 1
    assert all("[" in row[1] for row in shares.rows)
    assert all("[" in row[2] for row in tables["Correlation over lines"].rows)
    evaluation.save(tmp_path)
    again = type(evaluation).load(tmp_path)
    assert (again.methods, again.sections) == (evaluation.methods, evaluation.sections)
    page = write_report(evaluation, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Drug by drug" in page


def test_folds_and_seeds_have_means_with_intervals():
    given = study(folds=3, seeds=2)
    evaluation = evaluate_drugs(given)
    section = evaluation.sections[0]
    assert section.heading == "Over folds and seeds"
    rows = {row[0]: row for row in section.tables["RMSE"].rows}
    assert rows["network"][1:3] == (3, 2)
    assert rows["kernel_ridge"][1:3] == (3, 1)
    by_hand = [
        np.sqrt(np.mean((pred_p - given.pairs.value_p)[given.fold_p == fold] ** 2))
        for pred_p in given.answers["network"]
        for fold in range(3)
    ]
    assert rows["network"][3] == mean_interval(by_hand)
    scores = {method.name: method.scores for method in evaluation.methods}
    both = [np.sqrt(np.mean((pred_p - given.pairs.value_p) ** 2)) for pred_p in given.answers["network"]]
    assert scores["network"]["rmse"].value == pytest.approx(np.mean(both)), "the mean over seeds, not their ensemble"
    assert scores["drug_mean"]["within_drug_pearson"].value == 0, "within a fold a drug's mean is constant"
    assert "means over 2 seeds" in evaluation.interval_note


def test_students_interval_by_hand():
    assert mean_interval([1.0, 2.0, 3.0]) == "2.000 [-0.484, 4.484]"  # 4.303 / sqrt(3)
    assert mean_interval([1.5]) == "1.500 (one value, no interval)"


def test_where_no_drug_can_be_scored_the_error_decides():
    evaluation = evaluate_drugs(study(num_lines=20))  # four held-out lines
    assert evaluation.primary_metric == "rmse"
    assert any("No drug has 8 of these pairs" in line for line in evaluation.summary)
    assert not evaluation.sections


def bulk_and_cells(num=60, seed=0):
    rng = np.random.default_rng(seed)
    sides = []
    for where in ("bulk", "cell"):
        label_n = np.arange(num) % 2
        value_nf = rng.normal(size=(num, 5))
        value_nf[:, 0] += 2.0 * label_n
        names = tuple(f"{where}{i}" for i in range(num))
        sides += [label_n, LineFeatures(names, value_nf.astype(np.float32), tuple("abcde"))]
    return sides


def transfer_study(**changes):
    label_n, bulk, truth_n, cells = bulk_and_cells()
    fold_n = np.arange(60) // 2 % 3
    found = Transferred(
        logit_nk=np.tile(truth_n[:, None].astype(float), 3), fold_n=fold_n, source_logit_n=label_n.astype(float),
        source_fold_n=fold_n, source_auroc=1.0,
    )  # fmt: skip
    given = {"truth_n": truth_n, "label_n": label_n, "num_resamples": 100} | changes
    return TransferStudy(
        title="Cells", dataset="cells.h5ad", found=found, source=bulk, target=cells, scale="each", **given,
    )  # fmt: skip


def test_cells_with_a_truth_decide_and_groups_are_drawn_whole(tmp_path):
    groups_n = np.repeat([f"line {i}" for i in range(6)], 10)
    evaluation = evaluate_transfer(transfer_study(group_n=groups_n))
    scores = {method.name: method.scores for method in evaluation.methods}
    assert evaluation.primary_metric == "cell_auroc"
    assert scores["network"]["cell_auroc"].value == scores["network"]["bulk_auroc"].value == 1
    assert scores["constant"]["cell_auroc"] == scores["constant"]["bulk_auroc"]
    assert scores["constant"]["cell_auroc"].low == scores["constant"]["cell_auroc"].high == 0.5
    assert 0.8 < scores["logistic"]["cell_auroc"].low < scores["logistic"]["cell_auroc"].value < 1
    assert scores["centroids"]["bulk_auroc"].value > 0.8
    assert "whole groups" in evaluation.interval_note
    assert len(evaluation.sections[0].tables["By group"].rows) == 6
    evaluation.save(tmp_path)
    again = type(evaluation).load(tmp_path)
    assert (again.methods, again.sections) == (evaluation.methods, evaluation.sections)


def test_without_a_truth_nothing_is_said_of_cells():
    evaluation = evaluate_transfer(transfer_study(truth_n=None))
    assert evaluation.primary_metric == "bulk_auroc"
    assert all(set(method.scores) == {"bulk_auroc"} for method in evaluation.methods)
    assert any("nothing is said of them" in line for line in evaluation.limitations)
    few = evaluate_transfer(transfer_study(group_n=np.repeat(["A", "B"], 30)))
    assert any("2 groups, too few" in line for line in few.summary)
    with pytest.raises(ValueError, match="hold both classes"):
        evaluate_transfer(transfer_study(truth_n=None, label_n=np.ones(60, int)))
