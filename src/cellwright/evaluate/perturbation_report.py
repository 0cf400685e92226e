"""From scored predictions of perturbations to the record that a report is written from.

The comparison is over all test profiles; groups of them (how far they are from training) are parts of each method and
tables of their own. Intervals draw perturbations with replacement.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from cellwright.config import versions
from cellwright.evaluate.evaluation import Evaluation
from cellwright.evaluate.measures import Measure, finite_or_none, measure_of
from cellwright.evaluate.parts import Cost, Difference, Entry, Method, Picture, Provenance, Score, Section, Table
from cellwright.evaluate.perturbation import NUM_RESAMPLES, described
from cellwright.evaluate.perturbation_figures import effects_figure, middle_entry, top_genes_figure
from cellwright.evaluate.perturbation_interactions import interaction_section
from cellwright.evaluate.perturbation_tables import (
    ALL,
    FLOOR,
    MEAN,
    ROOF,
    SHOWN,
    PerturbationScores,
    badness,
    calibration_rows,
)
from cellwright.evaluate.study import machine, peak_memory_gb
from cellwright.metrics.perturbed import PERTURBATION_METRICS, Tallies
from cellwright.tasks.lessons import Screen
from cellwright.tasks.perturb import Predictions

PRIMARY = "pearson_delta"
COMPARED = (
    "pearson_delta", "pearson_delta_mean", "nmse", "pds_cosine", "de_overlap_nsig", "interaction_auprc",
    "e_distance", "collapse_index",
)  # fmt: skip
"""Metrics of the comparison; tables of groups have more."""
_MOST_ROWS = 60
_SPLITS = {
    "single": "single genes",
    "double": "combinations",
    "gears": "genes and combinations (simulation split of GEARS)",
    "cells": "contexts",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PerturbationStudy:
    """A screen, what every method said of its test profiles, and their scores."""

    title: str
    dataset: str
    screen: Screen
    predictions: Predictions
    scores: PerturbationScores
    split: str
    main: str
    """Method that is drawn."""
    model: Any = None
    """A `cellwright.models.Model` that a method leans on, where there is one."""
    split_sha256: str | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()


def evaluate_perturbations(study: PerturbationStudy) -> Evaluation:
    """Put scores, figures and tables of predicted perturbations into one record."""
    made, scores = study.predictions, study.scores
    whole = [row for row in scores.rows if row.group == ALL]
    num_profiles, num_perturbations = whole[0].num_profiles, whole[0].num_perturbations
    models = [name for name, is_baseline in made.is_baseline.items() if not is_baseline]
    measures = measures_shown(scores, COMPARED)
    seconds = {name: spent for name, spent in made.seconds.items() if name in models}
    return Evaluation(
        title=study.title,
        task="perturb",
        dataset=study.dataset,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        headline=(
            f"{num_profiles} profiles of {num_perturbations} perturbations that no method has learnt from "
            f"({_SPLITS.get(study.split, study.split)} held out), predicted by {' and '.join(models) or 'no model'} "
            f"and {len(made.is_baseline) - len(models)} simple ways."
        ),
        summary=(*scores.warnings, *study.notes),
        measures=measures,
        primary_metric=PRIMARY,
        drawn=tuple(name for name in measures if name != "e_distance"),
        methods=tuple(_method(name, what, study) for name, what in described(made).items()),
        differences=_differences(scores),
        interval_note=(
            f"95 % percentile bootstrap over perturbations, {NUM_RESAMPLES:,} resamples; models are not trained "
            "again, so other training seeds are not in it"
        ),
        draws={name: _draws(tallies, study.screen.seed) for name, tallies in scores.tallies.items()},
        contracts=(Section(heading="Screen", lines=tuple(study.screen.contract.lines())),),
        sections=tuple(_sections(study)),
        provenance=Provenance(
            versions=versions(),
            seed=study.screen.seed,
            model_sha256=None if study.model is None else study.model.sha256(),
            split_sha256=study.split_sha256,
            data_sha256=screen_sha256(study.screen),
            others=dict(study.hashes),
        ),
        cost=Cost(
            seconds={f"{name}, all folds": spent for name, spent in seconds.items()},
            machine=machine(),
            peak_memory_gb=peak_memory_gb(),
        ),
        citations=(() if study.model is None else (study.model.family.citation,)) + _CITATIONS,
        licences=() if study.model is None else (study.model.family.weights_terms,),
        limitations=_LIMITATIONS,
    )


_CITATIONS = (
    "Roohani, Huang, Leskovec. GEARS. Nature Biotechnology 42, 927 (2024).",
    "Ahlmann-Eltze, Huber, Anders. Nature Methods 22, 1657 (2025): baselines.",
    "Vinas Torne et al. Systema. Nature Biotechnology (2025): effects from the mean perturbation.",
    "Miller et al. bioRxiv 2025.10.20.683304: calibrated scores.",
)
_LIMITATIONS = (
    "One training seed: another run of a model may score otherwise; intervals do not speak of it.",
    "Real effects are measured on finite cells; what the replicate does not reach is noise or beyond these cells.",
    "Where a method makes no cells, controls shifted by its effect are compared with real cells.",
    "Perturbations of one screen: nothing here speaks of other cells, doses or times.",
)


def screen_sha256(screen: Screen) -> str:
    """Return a hash of what was read: genes, names of cells, log expression."""
    digest = hashlib.sha256("\t".join([*screen.genes, "", *map(str, screen.obs_names)]).encode())
    for part in (screen.log_ng.indptr.astype(np.int64), screen.log_ng.indices.astype(np.int64), screen.log_ng.data):
        digest.update(part.tobytes())
    return digest.hexdigest()


def measures_shown(scores: PerturbationScores, metrics: Sequence[str]) -> dict[str, Measure]:
    """Return the measures of those of the metrics that any method has a score of."""
    found = {row.metric for row in scores.rows}
    return {name: measure_of(PERTURBATION_METRICS[name]) for name in metrics if name in found}


def _draws(tallies: Tallies, seed: int) -> dict[str, np.ndarray]:
    found = tallies.resampled(NUM_RESAMPLES, seed)
    return {metric: found[metric] for metric in COMPARED if metric in found}


def _method(name: str, what: str, study: PerturbationStudy) -> Method:
    parts: dict[str, dict[str, Score]] = {}
    for row in study.scores.rows:
        if row.method == name and row.metric in COMPARED:
            counts = {"profiles": row.num_profiles, "perturbations": row.num_perturbations}
            score = Score(value=row.value, low=row.low, high=row.high, cells=counts)
            parts.setdefault(row.group, {})[row.metric] = score
    return Method(
        name=name,
        what=what,
        is_baseline=study.predictions.is_baseline.get(name, True),
        bound={FLOOR: "floor", ROOF: "roof"}.get(name),
        scores=parts.pop(ALL),
        parts=parts,
        seconds=study.predictions.seconds.get(name),
        trained_parameters=study.predictions.num_trained.get(name) or None,
    )


def _differences(scores: PerturbationScores) -> tuple[Difference, ...]:
    """Return each model minus the best baseline of every metric."""
    return tuple(
        Difference(method=c.model, other=c.baseline, metric=c.metric, value=c.value, low=c.low, high=c.high)
        for c in scores.contrasts
        if c.group == ALL and c.metric in COMPARED
    )


def _sections(study: PerturbationStudy) -> list[Section]:
    found = [_held_out(study)]
    groups = list(dict.fromkeys(row.group for row in study.scores.rows if row.group != ALL))
    if groups:
        found.append(
            Section(
                heading="By distance from training",
                note="seenK: so many of a combination's genes are perturbed in some training profile.",
                tables={f"{group} ({_size(study.scores, group)})": _table(study.scores, group) for group in groups},
            )
        )
    found += [*_pictures(study), _by_perturbation(study)]
    if (interactions := study.scores.found) is not None:
        tallies = study.scores.tallies
        found.append(interaction_section(study.screen, study.predictions, interactions, tallies, main=study.main))
    return [*found, _calibration(study.scores)]


def _size(scores: PerturbationScores, group: str) -> str:
    row = next(row for row in scores.rows if row.group == group)
    return f"{row.num_profiles} profiles of {row.num_perturbations} perturbations"


def _held_out(study: PerturbationStudy) -> Section:
    screen, made = study.screen, study.predictions
    return Section(
        heading="What was asked",
        lines=(*screen.perturbations.lines(), *(f"warning: {warning}" for warning in study.warnings)),
        facts={
            "held out": _SPLITS.get(study.split, study.split),
            "folds": len(np.unique(made.fold_e)),
            "profiles in all": len(screen.profiles),
            "contexts": ", ".join(screen.contexts),
            "genes": len(screen.genes),
            "perturbed genes that the panel measures": len(screen.panel_at),
            "controls that methods see": int(screen.is_seen_n.sum()),
            "controls that effects are measured from": int(screen.is_scored_n.sum()),
        },
    )


def _table(scores: PerturbationScores, group: str) -> Table:
    metrics = list(measures_shown(scores, SHOWN))
    methods = list(dict.fromkeys(row.method for row in scores.rows if row.group == group))
    rows = [(name, *(finite_or_none(scores.value(name, metric, group)) for metric in metrics)) for name in methods]
    return Table(columns=("method", *(metric.replace("_", " ") for metric in metrics)), rows=tuple(rows))


def _pictures(study: PerturbationStudy) -> list[Section]:
    screen, made, main = study.screen, study.predictions, study.main
    entry = middle_entry(made, screen)
    effects = Picture(
        name="effects",
        alt=f"Effect of every gene as {main} predicts it against the real one, a panel a test profile",
        svg=effects_figure(screen, made, main),
    )
    top = Picture(
        name="top-genes",
        alt="Real effects of the most changed genes of one test profile with 95 % intervals, and what methods say",
        svg=top_genes_figure(screen, made, list(dict.fromkeys([main, MEAN])), entry=entry),
    )
    return [
        Section(
            heading="Predicted and real effects",
            note=f"A point is a gene; on the line {main} and the real cells agree. r is Pearson's over genes. At most "
            "twelve profiles, evenly from the best to the worst.",
            pictures=(effects,),
        ),
        Section(
            heading="Genes that change most",
            note="The test profile whose real effect is of middling size, by its twenty surest genes.",
            pictures=(top,),
        ),
    ]


def _by_perturbation(study: PerturbationStudy) -> Section:
    """Return one row a test profile: its size, and how well the main method, the best baseline and a replicate do."""
    screen, made, tallies = study.screen, study.predictions, study.scores.tallies
    others = [name for name, is_baseline in made.is_baseline.items() if is_baseline]
    best = min(others, key=lambda name: _badness_or_worst(study.scores.value(name, PRIMARY)))
    names = list(dict.fromkeys([study.main, best, ROOF]))
    size_e = np.sqrt((screen.observed_effects(made.at_e) ** 2).mean(1))
    num_cells_u = np.bincount(screen.profile_n[screen.profile_n >= 0], minlength=len(screen.profiles))
    rows: list[tuple[Entry, ...]] = []
    for entry in np.argsort(-size_e, kind="stable")[:_MOST_ROWS].tolist():
        u = int(made.at_e[entry])
        scored = [finite_or_none(tallies[name].value_u[PRIMARY][entry]) for name in names]
        where = (screen.profiles.title(u), made.group_e[entry], int(made.fold_e[entry]))
        rows.append((*where, int(num_cells_u[u]), float(size_e[entry]), *scored))
    note = f"the {_MOST_ROWS} largest of {len(size_e)}" if len(size_e) > _MOST_ROWS else ""
    return Section(
        heading="Perturbation by perturbation",
        note="Largest real effect first (root mean square change of log expression over genes). Scores are "
        f"{PRIMARY.replace('_', ' ')}.",
        tables={
            "": Table(
                columns=("test profile", "group", "fold", "cells", "size of effect", *names),
                rows=tuple(rows),
                note=note,
            )
        },
    )


def _badness_or_worst(value: float) -> float:
    return badness(value, PRIMARY) if math.isfinite(value) else math.inf


def _calibration(scores: PerturbationScores) -> Section:
    rows = calibration_rows(scores)
    columns = ("metric", "floor", "mean_effect", "replicate", "dynamic_range", "ceiling")
    return Section(
        heading="What each metric can show",
        note="dynamic range: the part of the way from the mean training effect to the best value that real cells go; "
        "at 0 or below, the metric cannot rank here. ceiling: what a replicate of twice the cells would reach.",
        tables={
            "": Table(
                columns=tuple(name.replace("_", " ") for name in columns),
                rows=tuple(
                    (row["metric"].replace("_", " "), *(_finite(row[name]) for name in columns[1:])) for row in rows
                ),
            )
        },
    )


def _finite(value: float | None) -> float | None:
    return None if value is None else finite_or_none(value)
