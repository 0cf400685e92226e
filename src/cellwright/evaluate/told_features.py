"""Score features (proteins) that were told from RNA, beside simple ways of telling them, and draw them.

All methods answer for the same cells, of which they saw RNA alone; none has learnt from these cells. The unit of
resampling is the feature. The floor gives every cell the mean; a roof is not known, since no cell is measured twice.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from cellwright.baselines.modalities import FEATURE_BASELINES
from cellwright.config import versions
from cellwright.evaluate.evaluation import Evaluation
from cellwright.evaluate.measures import measures_of
from cellwright.evaluate.parts import Cost, Difference, Method, Picture, Provenance, Score, Section, Table
from cellwright.evaluate.study import machine, peak_memory_gb
from cellwright.metrics import MODALITY_METRICS, percentiles
from cellwright.metrics.modalities import FEATURE_SCORES

PRIMARY = "feature_pearson"
NUM_RESAMPLES = 1000
LEAST_FOR_INTERVAL = 5
"""Features below which no interval is given."""
MAX_DRAWN = 18


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ToldCase:
    """What was told of which cells, what was measured, and what baselines learn from."""

    where: str
    """The cells in a few words, for headings: "held-out cells"."""
    tokens: tuple[str, ...]
    measured_nf: np.ndarray
    told_nf: np.ndarray
    """By the model, on the scale of the measured values."""
    rna_ng: Any
    """log1p of counts per 10,000 of these cells, CSR."""
    train_ng: Any
    train_nf: np.ndarray
    seconds: float | None = None
    """Of the model's telling."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ToldStudy:
    """A case and what a record needs beside it."""

    title: str
    dataset: str
    model: Any
    model_name: str
    what: str
    case: ToldCase
    seed: int = 0
    trained_parameters: int | None = None
    split_sha256: str | None = None
    data_sha256: str | None = None
    notes: Sequence[str] = ()
    limitations: Sequence[str] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    contracts: Sequence[Section] = ()


def evaluate_told(study: ToldStudy) -> tuple[Evaluation, dict[str, np.ndarray]]:
    """Let the baselines answer, score all methods, and return the record and everybody's answers ``[n, f]``."""
    case = study.case
    answers, seconds = {study.model_name: case.told_nf}, {study.model_name: case.seconds}
    for name, baseline in FEATURE_BASELINES.items():
        start = time.perf_counter()
        answers[name] = baseline.fit_predict(case.train_ng, case.train_nf, case.rna_ng, seed=study.seed)
        seconds[name] = time.perf_counter() - start
    scores = {
        name: {m: score(case.measured_nf, a) for m, score in FEATURE_SCORES.items()} for name, a in answers.items()
    }
    num_features = len(case.tokens)
    draws_rf = np.random.default_rng(study.seed).integers(0, num_features, (NUM_RESAMPLES, num_features))
    methods = []
    for name, by_metric in scores.items():
        baseline = FEATURE_BASELINES.get(name)
        methods.append(
            Method(
                name=name,
                what=study.what if baseline is None else baseline.what,
                is_baseline=baseline is not None,
                bound="floor" if name == "mean" else None,
                scores={m: _score(value_f, draws_rf, len(case.measured_nf)) for m, value_f in by_metric.items()},
                parts=_parts(case.tokens, by_metric),
                seconds=seconds[name],
                trained_parameters=study.trained_parameters if baseline is None else None,
            )
        )
    evaluation = Evaluation(
        title=study.title,
        task="multiome",
        dataset=study.dataset,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        headline=(
            f"{num_features} proteins of {len(case.measured_nf):,} {case.where} told from RNA by {study.model_name} "
            f"and by {len(FEATURE_BASELINES)} simple ways."
        ),
        summary=tuple(study.notes),
        measures=measures_of(MODALITY_METRICS),
        primary_metric=PRIMARY,
        methods=tuple(methods),
        differences=_differences(study.model_name, scores, draws_rf),
        interval_note=f"95 % percentile bootstrap over proteins, {NUM_RESAMPLES:,} resamples",
        draws={name: _draws(by_metric, draws_rf) for name, by_metric in scores.items()},
        contracts=tuple(study.contracts),
        sections=(Section(heading="Protein by protein", pictures=told_pictures(case, answers, scores, study)),),
        provenance=Provenance(
            versions=versions(), seed=study.seed, model_sha256=study.model.sha256(), split_sha256=study.split_sha256,
            data_sha256=study.data_sha256,
        ),
        cost=Cost(seconds=dict(study.seconds), machine=machine(), peak_memory_gb=peak_memory_gb()),
        citations=(study.model.family.citation,),
        licences=(study.model.family.weights_terms,),
        limitations=(
            *study.limitations,
            "The interval is over proteins, and says nothing of other donors or another training run.",
            "Centred log ratios keep the background of antibodies: much of what is told for weak proteins is noise.",
        ),
    )  # fmt: skip
    return evaluation, answers


def _score(value_f: np.ndarray, draws_rf: np.ndarray, num_cells: int) -> Score:
    counted = {"cells": num_cells, "proteins": int(np.isfinite(value_f).sum())}
    value = float(np.nanmean(value_f))
    if len(value_f) < LEAST_FOR_INTERVAL:
        return Score(value=value, cells=counted)
    low, high = _interval(value_f, draws_rf)
    return Score(value=value, low=low, high=high, cells=counted)


def _draws(by_metric: Mapping[str, np.ndarray], draws_rf: np.ndarray) -> dict[str, np.ndarray]:
    if draws_rf.shape[1] < LEAST_FOR_INTERVAL:
        return {}
    return {metric: _resampled(value_f, draws_rf) for metric, value_f in by_metric.items()}


def _resampled(value_f: np.ndarray, draws_rf: np.ndarray) -> np.ndarray:
    """Return the mean of each resample; NaN where no feature of it has a score."""
    drawn_rf = value_f[draws_rf]
    is_there_rf = np.isfinite(drawn_rf)
    num_r = is_there_rf.sum(1)
    return np.where(num_r > 0, np.where(is_there_rf, drawn_rf, 0).sum(1) / np.maximum(num_r, 1), np.nan)


def _interval(value_f: np.ndarray, draws_rf: np.ndarray) -> tuple[float, float]:
    mean_r = _resampled(value_f, draws_rf)
    return percentiles(mean_r[np.isfinite(mean_r)])


def _parts(tokens: Sequence[str], by_metric: Mapping[str, np.ndarray]) -> dict[str, dict[str, Score]]:
    return {
        plain(token): {m: Score(value=float(value_f[f])) for m, value_f in by_metric.items() if np.isfinite(value_f[f])}
        for f, token in enumerate(tokens)
    }


def plain(token: str) -> str:
    """Return a feature's name without its modality."""
    return token.partition(":")[2]


def _differences(main: str, scores: Mapping[str, Mapping[str, np.ndarray]], draws_rf: np.ndarray) -> tuple:
    found = []
    for other in scores:
        gap_f = scores[main][PRIMARY] - scores[other][PRIMARY]
        if other not in (main, "mean") and len(gap_f) >= LEAST_FOR_INTERVAL:
            low, high = _interval(gap_f, draws_rf)
            value = float(np.nanmean(gap_f))
            found.append(Difference(method=main, other=other, metric=PRIMARY, value=value, low=low, high=high))
    return tuple(found)


def told_pictures(
    case: ToldCase, answers: Mapping[str, np.ndarray], scores: Mapping[str, Mapping[str, np.ndarray]], study: ToldStudy
) -> tuple[Picture, ...]:
    """Draw measured against told values of each protein, and each protein's score by all methods."""
    from cellwright.evaluate.feature_figures import scores_figure, told_figure

    name = re.sub(r"[^a-z0-9]+", "-", case.where.lower()).strip("-")
    order = np.argsort(-np.nan_to_num(scores[study.model_name][PRIMARY], nan=-2.0), kind="stable")
    names = [plain(token) for token in case.tokens]
    drawn = order[:MAX_DRAWN]
    left_out = f" the best {MAX_DRAWN} of {len(order)}" if len(order) > MAX_DRAWN else ""
    rivals = {method: by_metric[PRIMARY][order] for method, by_metric in scores.items() if method != "mean"}
    return (
        Picture(
            name=f"proteins-{name}",
            alt=f"Pearson's r of each protein in {case.where}, by the model and by baselines",
            svg=scores_figure([names[f] for f in order], rivals, study.model_name),
        ),
        Picture(
            name=f"told-{name}",
            alt=f"Measured against told values of{left_out or ' all'} proteins in {case.where}",
            svg=told_figure(
                [names[f] for f in drawn],
                case.measured_nf[:, drawn],
                answers[study.model_name][:, drawn],
                scores[study.model_name][PRIMARY][drawn],
            ),
        ),
    )


def told_section(evaluation: Evaluation, heading: str) -> Section:
    """Return an evaluation of told features as a section of another report: verdict, comparison, pictures."""
    from cellwright.evaluate.charts import comparison_figure
    from cellwright.evaluate.comparison import (
        drawn_metrics,
        format_interval,
        format_score,
        metric_columns,
        ranked,
        verdict,
    )

    columns = metric_columns(evaluation)
    order = ranked(evaluation.methods, PRIMARY, evaluation.measures[PRIMARY])
    rows = tuple(
        (m.name, m.kind, *(f"{format_score(m.scores[c])} {format_interval(m.scores[c])}".strip() for c in columns))
        for m in order
    )
    labels = (evaluation.measures[name].label for name in columns)
    anchor = re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")
    picture = Picture(
        name=f"comparison-{anchor}",
        alt="Methods side by side; numbers are in the table below",
        svg=comparison_figure(evaluation.methods, drawn_metrics(evaluation)),
    )
    return Section(
        heading=heading,
        pictures=(picture, *(p for section in evaluation.sections for p in section.pictures)),
        lines=(evaluation.headline, verdict(evaluation), *evaluation.summary),
        tables={"": Table(columns=("method", "kind", *labels), rows=rows, note=evaluation.interval_note)},
    )
