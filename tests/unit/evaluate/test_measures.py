"""What a report says of a score: aims, ranges, and how far a value is from the best."""

import pytest
from unit.evaluate.made_up import made_up_evaluation

from cellwright import metrics
from cellwright.evaluate import Cells, Measure, Method, Score, measures_of, result_rows, verdict, write_results
from cellwright.evaluate.comparison import best_methods, format_number, metric_columns, ranked
from cellwright.metrics import (
    DENOISING_METRICS,
    GENERATION_METRICS,
    INTEGRATION_METRICS,
    METRICS,
    NETWORK_METRICS,
    REPORTED,
)

MEASURES = measures_of(REPORTED)
OPEN = Measure(label="gain", what="bits", low=0)


def made(name, value, *, is_baseline=True, bound=None, **more):
    scores = {"e_distance": Score(value=value)} | {key: Score(value=number) for key, number in more.items()}
    return Method(name=name, what="", is_baseline=is_baseline, bound=bound, scores=scores, parts={"T": scores})


def study(*methods, **changes):
    fields = {
        "measures": measures_of(GENERATION_METRICS), "primary_metric": "e_distance", "methods": methods,
        "differences": (), "cells": Cells(), "cells_method": "", "curves": (),
    }  # fmt: skip
    return made_up_evaluation(**(fields | changes))


def test_every_metric_of_the_tables_can_be_shown():
    named = (METRICS, GENERATION_METRICS, DENOISING_METRICS, NETWORK_METRICS, INTEGRATION_METRICS)
    tables = (*named, metrics.FILLED_METRICS, metrics.MODALITY_METRICS)
    assert set(MEASURES) == set().union(*tables)
    assert len(REPORTED) == sum(map(len, tables))
    assert len({measure.label for measure in MEASURES.values()}) == len(MEASURES)
    for name, measure in MEASURES.items():
        assert measure.aim == ("higher" if REPORTED[name].is_higher_better else measure.aim)
        if measure.best is not None:
            others = [measure.best - 0.1, measure.best + 0.1]
            inside = [v for v in others if (measure.low is None or v >= measure.low)]
            inside = [v for v in inside if (measure.high is None or v <= measure.high)]
            assert all(measure.gap(value) > measure.gap(measure.best) for value in inside)


@pytest.mark.parametrize(
    ("name", "advice", "end"),
    [
        ("accuracy", "higher is better", "0 to 1, best 1"),
        ("ece", "lower is better", "0 to 1, best 0"),
        ("c2st_auroc", "best at 0.5", "0 to 1, best 0.5"),
        ("nearest_ratio", "best at 1", "0 or more, best 1"),
        ("e_distance", "best at 0", "any number, best 0"),
    ],
)
def test_range_and_aim_in_words(name, advice, end):
    assert MEASURES[name].advice == advice
    assert MEASURES[name].note.endswith(end)


def test_an_open_range_has_no_best_value():
    assert OPEN.note == "bits; 0 or more, higher is better"
    assert OPEN.gap(3) < OPEN.gap(2)
    with pytest.raises(ValueError, match="nearer to what"):
        Measure(label="x", what="", aim="nearer")
    with pytest.raises(ValueError, match="no metric 'zap'"):
        measures_of(["zap"])


def test_best_may_lie_inside_the_range():
    methods = [made("a", 0.1, c2st_auroc=0.9), made("b", -0.3, c2st_auroc=0.52), made("c", 0.0, c2st_auroc=0.1)]
    assert [m.name for m in ranked(methods, "c2st_auroc", MEASURES["c2st_auroc"])] == ["b", "a", "c"]
    assert [m.name for m in ranked(methods, "e_distance", MEASURES["e_distance"])] == ["c", "a", "b"]
    assert best_methods(study(*methods), "c2st_auroc") == {"b"}


def test_the_roof_leads_but_does_not_compete():
    methods = (
        made("net", 0.5, is_baseline=False, mmd=0.4), made("any", 0.9, bound="floor", mmd=0.5),
        made("copies", 0.0, bound="roof", mmd=0.0), made("nb", 0.2, mmd=0.6),
    )  # fmt: skip
    evaluation = study(*methods)
    assert [m.name for m in ranked(methods, "e_distance", MEASURES["e_distance"])] == ["copies", "nb", "net", "any"]
    assert best_methods(evaluation, "e_distance") == {"nb"}
    text = verdict(evaluation)
    assert text.startswith("A baseline wins: nb has the best E-distance (0.200); the best model, net, reaches 0.500.")
    assert "For scale: the floor, any, 0.900 and the roof, copies, 0.000." in text
    assert text.endswith("By MMD the model net is ahead.")
    assert [m.kind for m in methods] == ["model", "floor", "roof", "baseline"]


def test_numbers_are_printed_without_a_sign_on_zero():
    assert [format_number(value) for value in (-0.0001, 0.25, -7.5, 233.14)] == ["0.000", "0.250", "-7.500", "233.1"]


def test_rows_stand_alone(tmp_path):
    evaluation = study(
        made("net", 0.5, is_baseline=False), made("any", 0.9, bound="floor"), made("copies", 0.0, bound="roof"),
        dataset="blood",
    )  # fmt: skip
    rows = result_rows(evaluation)
    assert [(row["method"], row["part"]) for row in rows[:3]] == [("net", None), ("net", "T"), ("any", None)]
    assert len(rows) == 6
    for row in rows:
        assert (row["floor"], row["roof"], row["best"], row["aim"]) == (0.9, 0.0, 0.0, "nearer")
        assert (row["dataset"], row["seed"], row["metric"]) == ("blood", 0, "e_distance")
        assert row["versions"]["torch"]
    path = write_results(evaluation, tmp_path / "results.jsonl")
    assert len(path.read_text().splitlines()) == 6


def test_columns_are_the_scored_measures_and_strange_ones_are_refused():
    evaluation = study(made("net", 0.5, is_baseline=False, copied_share=0.0, mmd=0.1))
    assert metric_columns(evaluation) == ["e_distance", "mmd", "copied_share"]
    with pytest.raises(ValueError, match="no metric 'e_distanc' among the measures; did you mean 'e_distance'"):
        study(made("net", 0.5), drawn=("e_distanc",))
    own = {"gain": OPEN}
    evaluation = study(
        Method(name="x", what="", is_baseline=False, scores={"gain": Score(value=2)}),
        measures=own,
        primary_metric="gain",
    )
    assert "x has the gain 2.000; no baseline was run" in verdict(evaluation)
