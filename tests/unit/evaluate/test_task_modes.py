"""Evaluations of many runs put together: means, intervals over cells and seeds at once, what stands beside the ways."""

from __future__ import annotations

import numpy as np
import pytest

from cellwright.evaluate.evaluation import Evaluation
from cellwright.evaluate.measures import Measure
from cellwright.evaluate.modes import ModeRun
from cellwright.evaluate.parts import Cost, Method, Provenance, Score
from cellwright.evaluate.task_modes import RunScores, TaskModeStudy, evaluate_task_modes

CELLS = np.random.default_rng(0).normal(0, 0.02, 4000)
"""What each resample of the cells does to every score."""
LIMITS = ("One data set, one split, one training seed.", "Scores of mixing do not say that it was technical.")


def run_scores(value, *, spread=1.0, rivals=(0.5,), data="d", summary=(), has_draws=True):
    """One run that scores ``value``, and its rivals."""
    scores = {"tuned": value} | {f"rival {k}": rival for k, rival in enumerate(rivals)}
    draws = {name: {"overall": score + spread * CELLS} for name, score in scores.items()}
    return RunScores(
        evaluation=Evaluation(
            title="Integration of cells",
            task="integrate",
            dataset="cells",
            created="2026-01-01T00:00:00+00:00",
            headline="",
            summary=summary,
            measures={"overall": Measure(label="overall", what="all"), "pcr": Measure(label="PCR", what="share")},
            primary_metric="overall",
            methods=tuple(
                Method(
                    name=name,
                    what="",
                    is_baseline=name != "tuned",
                    scores={"overall": Score(value=score), "pcr": Score(value=score / 2)},
                    seconds=1.0,
                )
                for name, score in scores.items()
            ),
            provenance=Provenance(versions={}, seed=7, data_sha256=data),
            cost=Cost(seconds={}, machine=""),
            limitations=LIMITS,
        ),
        main="tuned",
        draws=draws if has_draws else {},
    )


def put_together(scored):
    """``scored``: mode -> its runs' scores."""
    runs = {
        mode: tuple(ModeRun(mode=mode, seed=seed, answers={}, seconds=2.0) for seed in range(len(those)))
        for mode, those in scored.items()
    }
    return evaluate_task_modes(TaskModeStudy(family="scGPT", runs=runs, scored=scored, model_sha256="m"))


def width(evaluation, name, metric="overall"):
    score = next(m for m in evaluation.methods if m.name == name).scores[metric]
    return (score.high - score.low) / 3.92


def test_the_variance_is_that_of_cells_and_of_runs_over_their_number():
    values = [0.55, 0.61, 0.64, 0.70]
    found = put_together({"full": [run_scores(value) for value in values]})
    wanted = np.sqrt(CELLS.var() + np.var(values, ddof=1) / len(values))
    assert width(found, "scGPT, full") == pytest.approx(wanted, rel=0.06)
    one = put_together({"full": [run_scores(0.6)]})
    assert width(one, "scGPT, full") == pytest.approx(CELLS.std(), rel=0.06)
    assert "no training seeds, since there is one" in one.interval_note


def test_a_difference_is_paired_in_cells_and_in_seeds():
    values = [0.5, 0.6, 0.7]
    found = put_together(
        {"full": [run_scores(value + 0.01) for value in values], "scratch": [run_scores(value) for value in values]}
    )
    worth = found.differences[0]
    assert (worth.method, worth.other) == ("scGPT, full", "scGPT, from scratch")
    assert (worth.value, worth.low, worth.high) == pytest.approx((0.01, 0.01, 0.01))
    assert "Pre-training was worth +0.010" in found.headline
    assert width(found, "scGPT, full") > 0.04


def test_without_resamples_there_is_no_interval_and_no_difference():
    found = put_together({mode: [run_scores(0.5, has_draws=False)] for mode in ("full", "scratch")})
    assert found.differences == ()
    assert "worth" not in found.headline
    assert all(method.scores["overall"].low is None for method in found.methods)
    mixed = put_together({mode: [run_scores(0.5)] for mode in ("full", "scratch")})
    assert next(m for m in mixed.methods if m.name == "scGPT, full").scores["pcr"].low is None


def test_rivals_are_those_of_the_shown_run_and_ways_meet_the_best_five():
    many = tuple(np.linspace(0.1, 0.8, 8))
    scored = {"probe": [run_scores(0.4, rivals=(0.9,))], "full": [run_scores(0.5, rivals=many)]}
    found = put_together(scored)
    assert [m.name for m in found.methods[2:]] == [f"rival {k}" for k in range(8)]
    assert {d.other for d in found.differences if "rival" in d.other} == {f"rival {k}" for k in range(3, 8)}
    section = next(s for s in found.sections if s.heading == "What pre-training is worth")
    assert section.tables["Against baselines"].note == "The best 5 of the 8 that stand beside the ways."


def test_what_runs_say_of_themselves_is_said_once_or_by_name():
    same, own = "tuned has collapsed", "tuned is not sure"
    runs = [run_scores(0.5, summary=(same, own, "10 cells")), run_scores(0.5, summary=(same, "10 cells"))]
    summary = put_together({"full": runs}).summary
    assert summary[:3] == (
        "the fine-tuned model has collapsed", "full, seed 0: the fine-tuned model is not sure", "10 cells",
    )  # fmt: skip


def test_limits_of_one_run_are_not_those_of_many():
    found = put_together({"full": [run_scores(0.5), run_scores(0.6)]})
    assert found.limitations[0] == "One data set, one split; 2 training seeds."
    assert LIMITS[0] not in found.limitations
    assert LIMITS[1] in found.limitations


def test_runs_of_other_cells_are_refused():
    with pytest.raises(ValueError, match="the run full, seed 1, was scored on other cells"):
        put_together({"full": [run_scores(0.5), run_scores(0.5, data="e")]})


def test_columns_that_hold_nothing_are_left_out():
    section = next(s for s in put_together({"full": [run_scores(0.5)]}).sections if s.heading == "Runs")
    assert section.tables["Every run"].columns == ("way", "seed", "overall", "seconds")
