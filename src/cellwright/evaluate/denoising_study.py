"""From a model that denoises to a record that a report is written from: one study of read depth, put together.

Deep cells are thinned to several depths; the model and simple ways to denoise answer for the deep cells from what is
left. Every figure is the mean over the depths, with each depth beside it; the unit of resampling is the cell, or the
donor where there are enough. Resamples are the same for all methods and depths, so that differences are paired.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from cellwright.baselines.denoising import DENOISING_BASELINES
from cellwright.config import versions
from cellwright.data.cells import Cells
from cellwright.evaluate.apart import check_apart, seen_in_training
from cellwright.evaluate.denoised import LEAST_GROUPS, Denoised, DenoisingStudy, answer_depths, query_cells
from cellwright.evaluate.denoised_sections import depth_name, depth_sections
from cellwright.evaluate.denoising import CLUSTER_METRICS, NUM_CLUSTERS, Drawn, role_of
from cellwright.evaluate.depth_cases import ROOF, check_baselines, runnable_baselines
from cellwright.evaluate.evaluation import Evaluation
from cellwright.evaluate.measures import measures_of
from cellwright.evaluate.parts import Cost, Difference, Method, Provenance, Score, Section
from cellwright.evaluate.study import cells_sha256, machine, peak_memory_gb
from cellwright.metrics import DENOISING_METRICS
from cellwright.tasks.denoise import check_denoises
from cellwright.tasks.inference import InferenceOptions
from cellwright.tokens import DepthTarget

PRIMARY = "held_out_deviance"
"""It asks for molecules that no method has seen, of all genes, and answering too high anywhere costs."""
DRAWN = (PRIMARY, "expressed_mae", "silent_mae", "gene_pearson", "cell_pearson", "nmi")
ROOF_WHAT = "the deep cells, sequenced once more to the same depth"


def evaluate_denoising(study: DenoisingStudy, run: InferenceOptions | None = None) -> Evaluation:
    """Thin the cells, let the model and the baselines answer, score all, and return the record of a report.

    Raises
    ------
    ValueError
        The model knows no read depth, the cells are no raw counts or too few, training cells are query cells, a
        baseline cannot be run.
    """
    model, run = study.model, run or InferenceOptions()
    check_denoises(model, DepthTarget("fold", 2.0))
    names = (*runnable_baselines(study.train is not None), *study.further)
    check_baselines(names, has_train=study.train is not None)
    apart = None if study.train is None else check_apart(study.train, study.source, study.group)
    start = time.perf_counter()
    query = query_cells(study)
    found = answer_depths(study, query, names, run)
    methods = [_method(name, study, found) for name in found.drawn[0]]
    return Evaluation(
        title=f"Denoised cells of {study.source.contract.title}",
        task="denoise",
        dataset=study.source.contract.title,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        headline=(
            f"{len(query):,} cells with {_listed(study.shares)} of their molecules, denoised by {found.model_name} and "
            f"by {len(names)} simple ways, held against all of their molecules."
        ),
        summary=(*_notes(study, found), *(apart.notes if apart else ())),
        measures=measures_of({*DENOISING_METRICS, *CLUSTER_METRICS}),
        primary_metric=PRIMARY,
        drawn=DRAWN,
        methods=tuple(methods),
        differences=_differences(found),
        interval_note=_interval_note(found, study),
        contracts=tuple(
            Section(heading=heading, lines=tuple(cells.contract.lines()))
            for heading, cells in (("Query", study.source), ("Training", study.train))
            if cells is not None
        ),
        sections=depth_sections(found, methods, DRAWN),
        provenance=_provenance(study, query, None if apart is None else apart.sha256),
        cost=_cost(found, time.perf_counter() - start),
        citations=(model.family.citation, *_CITATIONS),
        licences=(model.family.weights_terms,),
        limitations=(*seen_in_training(model, study.source), *_LIMITATIONS),
    )


def _provenance(study: DenoisingStudy, query: Cells, split_sha256: str | None) -> Provenance:
    training = {} if study.train is None else {"training cells (SHA-256)": cells_sha256(study.train)}
    return Provenance(
        versions=versions(),
        seed=study.seed,
        model_sha256=study.model.sha256(),
        split_sha256=split_sha256,
        data_sha256=cells_sha256(query),
        others={**training, **study.hashes},
    )


def _cost(found: Denoised, total: float) -> Cost:
    spent = {f"{name}, answers": value for name, value in found.seconds.items()}
    return Cost(
        seconds=spent | {"scoring": max(total - sum(spent.values()), 0.0)},
        machine=machine(),
        peak_memory_gb=peak_memory_gb(),
    )


_CITATIONS = (
    "Held-out molecules: Batson, Royer, Webber. Molecular cross-validation for single-cell RNA-seq. bioRxiv (2019).",
)
_LIMITATIONS = (
    "The deep cells are a larger sample, no truth; their own noise is in most scores.",
    "Thinned cells are not shallow cells: a cell sequenced to fewer molecules has other faults too.",
    "Denoised values are predictions. Tests for differential expression on them find what the method put there.",
    "NMI and ARI of a resample lean upwards: a cell that is drawn twice agrees with itself. Pearson within genes leans "
    "downwards: a resample loses some of the few cells that express a rare gene.",
    "Settings of baselines are plain ones and were not tuned. One seed of thinning.",
)


def mean_over_depths(drawn: Sequence[Drawn]) -> Drawn:
    """Return the mean of a score over the depths, resample by resample: the same cells are drawn at each."""
    return Drawn(float(np.mean([one.value for one in drawn])), np.mean([one.value_r for one in drawn], axis=0))


def _method(name: str, study: DenoisingStudy, found: Denoised) -> Method:
    role = role_of(name, [found.model_name])
    model = study.model
    whats = {
        found.model_name: f"{found.model_name} of {model.num_parameters:,} parameters, asked for the cells' own depth",
        ROOF: ROOF_WHAT,
    }
    counts = {"cells": len(found.cases[0].deep)}
    return Method(
        name=name,
        what=whats.get(name) or DENOISING_BASELINES[name].what,
        is_baseline=role != "model",
        bound=role if role in ("floor", "roof") else None,
        scores={
            metric: _score(mean_over_depths([scores[name][metric] for scores in found.drawn]), counts)
            for metric in found.drawn[0][name]
        },
        parts={
            depth_name(case.share): {metric: _score(one, counts) for metric, one in scores[name].items()}
            for case, scores in zip(found.cases, found.drawn, strict=True)
        },
        seconds=found.seconds.get(name),
    )


def _score(drawn: Drawn, counts: dict[str, int]) -> Score:
    low, high = drawn.interval
    return Score(value=drawn.value, low=low, high=high, cells=counts)


def _differences(found: Denoised) -> tuple[Difference, ...]:
    """Return the model's score minus that of every method that competes, the mean over depths."""
    out = []
    main = mean_over_depths([scores[found.model_name][PRIMARY] for scores in found.drawn])
    for other in found.drawn[0]:
        if other in (found.model_name, ROOF):
            continue
        theirs = mean_over_depths([scores[other][PRIMARY] for scores in found.drawn])
        gap = Drawn(main.value - theirs.value, main.value_r - theirs.value_r)
        low, high = gap.interval
        out.append(
            Difference(method=found.model_name, other=other, metric=PRIMARY, value=gap.value, low=low, high=high)
        )
    return tuple(out)


def _interval_note(found: Denoised, study: DenoisingStudy) -> str:
    what = "cells" if found.cases[0].groups_n is None else f"whole groups of {study.group!r}"
    depths = "" if len(study.shares) == 1 else "Each figure is the mean over depths. "
    return (
        f"{depths}95 % intervals: percentile bootstrap over {what}, {study.num_resamples:,} resamples; they speak of "
        "other cells from the same source, not of other laboratories or training seeds."
    )


def _notes(study: DenoisingStudy, found: Denoised) -> list[str]:
    case = found.cases[0]
    labels = f"the labels of {study.label!r}" if study.label else f"{NUM_CLUSTERS} clusters of the deep cells"
    notes = [
        f"{len(case.gene_ids):,} genes that the model answers for and the cells were measured for.",
        f"NMI and ARI: clusters of each method's values against {labels}.",
    ]
    if study.train is None:
        notes.append(
            "No training cells were given: baselines know the thinned query cells alone, and the floor is their mean."
        )
    if study.group is not None and case.groups_n is None:
        notes.append(f"Fewer than {LEAST_GROUPS} groups of {study.group!r}: intervals are over cells.")
    if any(found.num_empty):
        words = ", ".join(
            f"{num} at {depth_name(one.share)}" for num, one in zip(found.num_empty, found.cases, strict=True) if num
        )
        notes.append(f"Cells without any molecule left, for which the model has no answer (counted as 0): {words}.")
    return notes


def _listed(shares: Sequence[float]) -> str:
    words = [f"{100 * share:g}" for share in shares]
    return f"{', '.join(words[:-1])} and {words[-1]} %" if len(words) > 1 else f"{words[0]} %"
