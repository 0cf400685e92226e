"""From filled-in genes to the record that a report is written from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from cellwright.baselines.filling import FILLING_BASELINES
from cellwright.config import versions
from cellwright.evaluate.comparison import format_number
from cellwright.evaluate.evaluation import Evaluation
from cellwright.evaluate.filling import (
    BY_MEAN,
    ONE_PASS,
    PRIMARY,
    ROOF,
    STARTS,
    FilledAnswers,
    FillingStudy,
    Scores,
    certainty_correlation,
    error_deciles,
    fill_all,
    interval,
)
from cellwright.evaluate.filling_figures import certainty_figure, gaps_figure, step_curves_figure
from cellwright.evaluate.measures import measures_of
from cellwright.evaluate.parts import Cost, Difference, Method, Picture, Provenance, Score, Section, Table
from cellwright.evaluate.study import cells_sha256, machine, peak_memory_gb
from cellwright.metrics import FILLED_METRICS

Resampled = Mapping[str, tuple[float, np.ndarray]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Framing:
    """What a report says beside the scores."""

    notes: tuple[str, ...] = ()
    limitations: tuple[str, ...] = ()
    split_sha256: str | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)


def evaluate_filling(study: FillingStudy, framing: Framing | None = None) -> Evaluation:
    """Fill in, score everything, and return the record of a report."""
    framing, answers = framing or Framing(), fill_all(study)
    found = _Found(study, answers)
    family, source = study.model.family, study.held_out.contract.title
    num_genes, num_cells = len(answers.question.gene_ids), len(answers.question)
    return Evaluation(
        title=f"Unknown genes filled in by {family.title}, {source}",
        task="unmask",
        dataset=source,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        headline=(
            f"{found.scores.num_values:,} unknown values of {num_cells:,} held-out cells ({num_genes} genes), filled "
            f"in from {STARTS[study.start]}; orders of {study.shown} steps against one pass and "
            f"{len(answers.baselines)} simple ways."
        ),
        summary=(found.answer(), *framing.notes),
        measures=measures_of(FILLED_METRICS),
        primary_metric=PRIMARY,
        methods=found.methods(),
        differences=found.differences(),
        interval_note=_interval_note(study),
        contracts=(Section(heading="Data", lines=tuple(study.held_out.contract.lines())),),
        sections=(found.steps_section(), *found.certainty_sections()),
        provenance=Provenance(
            versions=versions(),
            seed=study.seed,
            model_sha256=study.model.sha256(),
            split_sha256=framing.split_sha256,
            data_sha256=cells_sha256(study.held_out),
            others=dict(framing.hashes),
        ),
        cost=Cost(seconds=dict(answers.seconds), machine=machine(), peak_memory_gb=peak_memory_gb()),
        citations=(family.citation,),
        licences=(family.weights_terms,),
        limitations=(*framing.limitations, *_limitations(study)),
    )


def _interval_note(study: FillingStudy) -> str:
    what = "cells" if study.groups_n is None else f"{len(np.unique(study.groups_n))} whole groups of cells"
    return f"95 % percentile bootstrap over {what}, {study.num_resamples:,} resamples"


def _limitations(study: FillingStudy) -> tuple[str, ...]:
    found = [
        "Values are bins, ranks within a cell; an error of five bins is no number of molecules.",
        "One model, one training: intervals speak of other cells, not of another training.",
    ]
    if study.start == "embedding":
        found.append("The embedding has read the whole cell: this asks how much it keeps, not what can be foretold.")
    if study.model.inputs.genes != "panel":
        found.append("Only genes that a cell expresses were asked for, so which they are was told.")
    return tuple(found)


class _Found:
    """Scores of all methods, made once."""

    def __init__(self, study: FillingStudy, answers: FilledAnswers):
        self.study, self.answers, self.scores = study, answers, Scores(answers, study)
        self.one_pass = self.scores.of(answers.value_of(ONE_PASS, 1))
        self.stepped = {key: self.scores.of(answers.value_of(*key)) for key in answers.stepped}
        self.baselines = {name: self.scores.of(value_ng) for name, value_ng in answers.baselines.items()}
        self.orders = tuple(answers.order_words)
        self.main = next((name for name in self.orders if name not in (BY_MEAN, ROOF)), BY_MEAN)

    def methods(self) -> tuple[Method, ...]:
        """Return the one pass, the orders, the roof and the baselines."""
        shown, title = self.study.shown, self.study.model.family.title
        found = [
            Method(
                name=ONE_PASS,
                what=f"{title} of {self.study.model.num_parameters:,} parameters, all unknown genes at once",
                is_baseline=False,
                scores=self._scores(self.one_pass),
                seconds=self.answers.seconds[ONE_PASS],
            )
        ]
        for name, words in self.answers.order_words.items():
            found.append(
                Method(
                    name=name,
                    what=f"the same in {shown} steps: {words}",
                    is_baseline=False,
                    bound="roof" if name == ROOF else None,
                    scores=self._scores(self.stepped[name, shown]),
                    parts={f"{k} steps": self._scores(self.stepped[name, k]) for k in self.study.steps},
                    seconds=self.answers.seconds[f"{name}, {shown} steps"],
                )
            )
        for name, resampled in self.baselines.items():
            entry = FILLING_BASELINES[name]
            found.append(
                Method(
                    name=name,
                    what=entry.what,
                    is_baseline=True,
                    bound="floor" if entry.role == "floor" else None,
                    scores=self._scores(resampled),
                    seconds=self.answers.seconds[name],
                )
            )
        return tuple(found)

    def _scores(self, resampled: Resampled) -> dict[str, Score]:
        cells = {"cells": self.scores.num_cells, "values": self.scores.num_values}
        found = {}
        for name, (value, value_r) in resampled.items():
            low, high = interval(value, value_r)
            found[name] = Score(value=value, low=low, high=high, cells=cells)
        return found

    def _difference(self, method: str, other: str, left: Resampled, right: Resampled) -> Difference:
        value, value_r = left[PRIMARY][0] - right[PRIMARY][0], left[PRIMARY][1] - right[PRIMARY][1]
        low, high = interval(value, value_r)
        return Difference(method=method, other=other, metric=PRIMARY, value=value, low=low, high=high)

    def differences(self) -> tuple[Difference, ...]:
        """Return each order less the one pass, the best order less random, and every model less each baseline."""
        shown = {ONE_PASS: self.one_pass} | {name: self.stepped[name, self.study.shown] for name in self.orders}
        found = [self._difference(name, ONE_PASS, shown[name], self.one_pass) for name in self.orders]
        if "random" in shown and self.main != "random":
            found.append(self._difference(self.main, "random", shown[self.main], shown["random"]))
        rivals = {name: own for name, own in self.baselines.items() if FILLING_BASELINES[name].role != "floor"}
        found += [
            self._difference(name, other, shown[name], rivals[other])
            for name in shown
            if name != ROOF
            for other in rivals
        ]
        return tuple(found)

    def answer(self) -> str:
        """Say whether steps help, in one sentence."""
        best = min(
            ((name, k) for name, k in self.stepped if name != ROOF), key=lambda key: self.stepped[key][PRIMARY][0]
        )
        gap = self._difference(best[0], ONE_PASS, self.stepped[best], self.one_pass)
        reached = [format_number(own[PRIMARY][0]) for own in (self.stepped[best], self.one_pass)]
        text = (
            f"Best of all orders and steps: {best[0]} in {best[1]} steps, MSE {reached[0]} against {reached[1]} in one "
            f"pass ({gap.value:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}])"
        )
        if gap.value >= 0:
            return f"Steps do not help here. {text}."
        sure = "" if gap.high < 0 else ", which these cells do not settle"
        return f"{text}{sure}; it was chosen among {len(self.stepped)} on these cells."

    def steps_section(self) -> Section:
        """Return curves over the number of steps, and the table of differences to one pass."""
        curves = {
            name: {
                metric: [
                    (k, own[metric][0], *interval(*own[metric]))
                    for k, own in [(1, self.one_pass), *((k, self.stepped[name, k]) for k in self.study.steps)]
                ]
                for metric in FILLED_METRICS
            }
            for name in self.orders
        }
        levels = {name: {m: own[m][0] for m in FILLED_METRICS} for name, own in self.baselines.items()}
        drawing = step_curves_figure(curves, levels, measures_of(FILLED_METRICS), main=self.main, roof=ROOF)
        gaps = {
            name: [
                (k, gap.value, gap.low, gap.high)
                for k in self.study.steps
                for gap in (self._difference(name, ONE_PASS, self.stepped[name, k], self.one_pass),)
            ]
            for name in self.orders
        }
        rows = [
            (name, *(f"{value:+.2f} [{low:+.2f}, {high:+.2f}]" for _, value, low, high in own))
            for name, own in gaps.items()
        ]
        table = Table(
            columns=("order", *(f"K = {k}" for k in self.study.steps)),
            rows=tuple(rows),
            note=f"MSE less that of one pass ({format_number(self.one_pass[PRIMARY][0])}), paired over cells; "
            "below 0 = steps help",
        )
        return Section(
            heading="Steps and orders",
            note="A gene that joins takes its predicted value along, rounded, and is not predicted again, so "
            "that its error stays. Where even the oracle, which knows the errors, gains nothing, no choice of genes "
            "will.",
            pictures=(
                Picture(
                    name="gaps",
                    alt="MSE less that of one pass over the number of steps, with intervals, a line for each order.",
                    svg=gaps_figure(gaps, unit="MSE less one pass", main=self.main, roof=ROOF),
                ),
                Picture(
                    name="steps",
                    alt="Scores over the number of steps, a line for each order; baselines as lines across.",
                    svg=drawing,
                ),
            ),
            tables={"MSE against one pass": table},
        )

    def certainty_sections(self) -> tuple[Section, ...]:
        """Return how well the model knows its errors; nothing where it does not say."""
        deciles = error_deciles(self.answers)
        if not deciles:
            return ()
        correlation = certainty_correlation(self.answers)
        return (
            Section(
                heading="Does the model know its errors",
                note="Errors of the one pass, against what the trained head expected of them.",
                pictures=(
                    Picture(
                        name="certainty",
                        alt="Expected against true error of tenths of the unknown genes, and the error of the surest.",
                        svg=certainty_figure(deciles),
                    ),
                ),
                facts={
                    "rank correlation of expected and true absolute error": round(correlation, 3),
                    "MSE of the surest tenth": round(deciles[0][2], 2),
                    "MSE of all": round(deciles[-1][2], 2),
                },
            ),
        )
