"""Who wins, in words and in the terminal's table."""

import pytest
from unit.evaluate.made_up import METHODS, made_up_evaluation

from cellwright.evaluate import Cells, Difference, Method, Score, measures_of, table_text, verdict
from cellwright.evaluate.comparison import best_methods, metric_columns, ranked
from cellwright.metrics import METRICS

MEASURES = measures_of(METRICS)


def method(name, is_baseline, value, low=None, high=None, **more):
    scores = {"macro_f1": Score(value=value, low=low, high=high)} | {k: Score(value=v) for k, v in more.items()}
    return Method(name=name, what="", is_baseline=is_baseline, scores=scores)


def judged(*methods, differences=(), **changes):
    changes = {"cells": Cells(), "cells_method": ""} | changes
    return verdict(made_up_evaluation(methods=methods, differences=differences, **changes))


def test_a_baseline_that_wins_is_said_plainly():
    text = judged(method("net", False, 0.7, 0.6, 0.75), method("pca", True, 0.8, 0.77, 0.85))
    assert text == (
        "A baseline wins: pca has the best macro-F1 (0.800); the best model, net, reaches 0.700. "
        "Their intervals do not overlap."
    )


def test_overlap_is_said():
    text = judged(method("net", False, 0.81, 0.7, 0.9), method("pca", True, 0.8, 0.77, 0.85))
    assert text.startswith("net has the best macro-F1 (0.810); the best baseline, pca, reaches 0.800.")
    assert "overlap, so the order is not settled" in text


def test_no_interval_is_said():
    assert "not known how sure" in judged(method("net", False, 0.81), method("pca", True, 0.8))


def test_a_tie_as_printed_has_no_winner():
    assert judged(method("net", False, 0.80004), method("pca", True, 0.8)).startswith("No winner: net and the")


@pytest.mark.parametrize(("low", "words"), [(0.002, "which excludes zero"), (-0.002, "do not settle it")])
@pytest.mark.parametrize("is_turned", [False, True])
def test_the_paired_difference_decides_and_may_be_given_either_way(low, words, is_turned):
    pair = {"method": "net", "other": "pca", "value": 0.01, "low": low, "high": 0.03}
    if is_turned:
        pair = {"method": "pca", "other": "net", "value": -0.01, "low": -0.03, "high": -low}
    text = judged(
        method("net", False, 0.81, 0.7, 0.9),
        method("pca", True, 0.8, 0.77, 0.85),
        differences=(Difference(metric="macro_f1", **pair),),
    )
    assert words in text
    assert f"+0.010 [{low:+.3f}, +0.030]" in text


def test_one_kind_alone_proves_nothing():
    assert "no baseline was run" in judged(method("net", False, 0.81), method("net2", False, 0.8))
    assert "no model was run" in judged(method("pca", True, 0.81))


def test_a_different_winner_by_another_metric_is_named():
    text = judged(method("net", False, 0.81, accuracy=0.8, nmi=0.5), method("pca", True, 0.8, accuracy=0.9, nmi=0.6))
    assert text.endswith("By accuracy and NMI the baseline pca is ahead.")


def test_lower_is_better_where_it_is():
    text = judged(method("net", False, 0.1, ece=0.02), method("pca", True, 0.9, ece=0.3), primary_metric="ece")
    assert text.startswith("net has the best ECE (0.020)")


def test_ranking_puts_missing_scores_last_and_keeps_ties_in_order():
    methods = [method("a", True, 0.5), method("b", True, 0.5, ece=0.1), method("c", True, 0.7, ece=0.2)]
    assert [m.name for m in ranked(methods, "macro_f1", MEASURES["macro_f1"])] == ["c", "a", "b"]
    assert [m.name for m in ranked(methods, "ece", MEASURES["ece"])] == ["b", "c", "a"]
    evaluation = made_up_evaluation(methods=methods, differences=(), cells=Cells(), cells_method="")
    assert metric_columns(evaluation) == ["macro_f1", "ece"]
    assert best_methods(evaluation, "ece") == {"b"}
    assert best_methods(evaluation, "nmi") == set()


def test_table_is_aligned_and_complete():
    evaluation = made_up_evaluation()
    lines = table_text(evaluation).split("\n")
    head, rule, body = lines[0], lines[1], lines[2 : 2 + len(METHODS)]
    starts = [0] + [i + 1 for i in range(len(rule)) if rule[i - 1 : i + 1] == " -" and i > 0]
    assert len(rule.split()) == 2 + 4 + 2
    for line in (head, *body):
        assert all(line[start - 2 : start - 1].strip() == "" for start in starts[1:6])
    assert body[0].startswith("scgpt-small, pre-trained, fine-tuned  model")
    assert "0.861* [0.848, 0.873]" in body[0]
    assert body[-1].startswith("majority")
    assert body[-1].rstrip().endswith("-")
    assert {line.index("[") for line in body} == {body[0].index("[")}
    assert verdict(evaluation) in lines
