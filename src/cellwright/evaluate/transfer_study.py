"""From scores of single cells, learnt from bulk, to a record that a report is written from.

Without the truth of cells only held-out bulk samples can be scored, and that says nothing of the cells; with it, cells
are. The unit of resampling is the cell, or the cell's line (donor) where there are enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from cellwright.baselines.drugs import TRANSFER_BASELINES
from cellwright.config import versions
from cellwright.data.drugs import LineFeatures
from cellwright.evaluate.comparison import format_number
from cellwright.evaluate.drugs import NUM_RESAMPLES
from cellwright.evaluate.evaluation import Evaluation
from cellwright.evaluate.measures import measure_of
from cellwright.evaluate.parts import Cost, Difference, Method, Picture, Provenance, Score, Section, Table
from cellwright.evaluate.study import machine, peak_memory_gb
from cellwright.metrics import percentiles
from cellwright.metrics.drugs import TRANSFER_METRICS, auroc, fold_auroc, resampled_auroc
from cellwright.tasks.transfer import Transferred, scaled, shared_features

MAIN = "network"
LEAST_GROUPS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferStudy:
    """Bulk samples with labels, cells with scores, and what is known of the cells."""

    title: str
    dataset: str
    found: Transferred
    source: LineFeatures
    label_n: np.ndarray
    """int64: 1 = sensitive bulk sample."""
    target: LineFeatures
    scale: str
    """How features were standardised, see `cellwright.tasks.transfer.TransferConfig`."""
    truth_n: np.ndarray | None = None
    """int64: 1 = sensitive cell, 0 = not, -1 = not known; read for scores alone."""
    group_n: np.ndarray | None = None
    """Name of each cell's line or donor."""
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    num_resamples: int = NUM_RESAMPLES
    seed: int = 0


def evaluate_transfer(study: TransferStudy) -> Evaluation:
    """Let the baselines score the same cells and held-out bulk samples, and return the record of a report.

    Raises
    ------
    ValueError
        Neither cells nor held-out bulk samples of every fold have both classes.
    """
    if not _draws(study, study.found.score_n, study.found.source_logit_n):
        raise ValueError("neither the cells' truth nor the held-out bulk samples of every fold hold both classes")
    answers = _answers(study)
    draws = {name: _draws(study, *own) for name, own in answers.items()}
    primary = next(name for name in TRANSFER_METRICS if name in draws[MAIN])
    methods = tuple(_method(name, own) for name, own in draws.items())
    return Evaluation(
        title=study.title,
        task="transfer_response",
        dataset=study.dataset,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        headline=(
            f"{len(study.target.lines):,} cells scored by the response of {len(study.source.lines):,} bulk samples, by "
            f"a network and by {len(methods) - 1} simple ways."
        ),
        summary=(*study.notes, *_truth_lines(study)),
        measures={name: measure_of(metric) for name, metric in TRANSFER_METRICS.items()},
        primary_metric=primary,
        methods=methods,
        differences=_differences(draws, primary),
        interval_note=_interval_note(study),
        sections=_sections(study, answers),
        provenance=Provenance(versions=versions(), seed=study.seed),
        cost=Cost(seconds=dict(study.seconds), machine=machine(), peak_memory_gb=peak_memory_gb()),
        citations=("Zheng, Chen, Chen et al. SCAD. Advanced Science 10, 2204113 (2023).",),
        limitations=(
            *(() if study.truth_n is not None else ("Nothing is known of the cells, so nothing is said of them.",)),
            "Scores order cells; they are no probabilities.",
            "Where the shares of responders differ between bulk and cells, the adversary may do harm.",
            "The network has seen the cells without labels; the baselines have not.",
        ),
    )


def _answers(study: TransferStudy) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return method -> scores of the cells, and of each bulk sample by what was fitted without its fold."""
    source_nf, target_nf = scaled(*shared_features(study.source, study.target), study.scale)
    found = {MAIN: (study.found.score_n, study.found.source_logit_n)}
    fold_n = study.found.source_fold_n
    for name, baseline in TRANSFER_BASELINES.items():
        held_n = np.empty(len(study.label_n))
        for fold in np.unique(fold_n):
            is_out_n = fold_n == fold
            held_n[is_out_n] = baseline.score(source_nf[~is_out_n], study.label_n[~is_out_n], source_nf[is_out_n])
        found[name] = (baseline.score(source_nf, study.label_n, target_nf), held_n)
    return found


def _known(study: TransferStudy) -> np.ndarray:
    return np.zeros(0, np.int64) if study.truth_n is None else np.flatnonzero(study.truth_n >= 0)


def _units(study: TransferStudy) -> np.ndarray | None:
    """Return the groups of the cells with a truth, where there are enough of them."""
    if study.group_n is None:
        return None
    unit_n = np.asarray(study.group_n)[_known(study)]
    return unit_n if len(np.unique(unit_n)) >= LEAST_GROUPS else None


def _draws(study: TransferStudy, cell_n: np.ndarray, bulk_n: np.ndarray) -> dict[str, tuple[float, np.ndarray]]:
    """Return metric -> score and its resamples, for those that are defined."""
    how = {"num_resamples": study.num_resamples, "seed": study.seed}
    found, at_n, fold_n = {}, _known(study), study.found.source_fold_n
    if len(at_n) and len(np.unique(study.truth_n[at_n])) == 2:
        pair = study.truth_n[at_n], cell_n[at_n]
        found["cell_auroc"] = auroc(*pair), resampled_auroc(*pair, unit_n=_units(study), **how)
    if all(len(np.unique(study.label_n[fold_n == fold])) == 2 for fold in np.unique(fold_n)):
        pair = study.label_n, bulk_n
        found["bulk_auroc"] = fold_auroc(*pair, fold_n), resampled_auroc(*pair, fold_n=fold_n, **how)
    return found


def _method(name: str, draws: Mapping[str, tuple[float, np.ndarray]]) -> Method:
    baseline = TRANSFER_BASELINES.get(name)
    return Method(
        name=name,
        what="mean of the folds' networks, adapted to the cells" if baseline is None else baseline.what,
        is_baseline=baseline is not None,
        bound="floor" if baseline is not None and baseline.is_floor else None,
        scores={
            metric: Score(value=value, **dict(zip(("low", "high"), _ends(value, value_r), strict=True)))
            for metric, (value, value_r) in draws.items()
        },
    )


def _ends(value: float, value_r: np.ndarray) -> tuple[float, float]:
    known_r = value_r[np.isfinite(value_r)]
    low, high = percentiles(known_r) if len(known_r) else (value, value)
    return min(low, value), max(high, value)


def _differences(draws: Mapping[str, Mapping[str, tuple[float, np.ndarray]]], primary: str) -> tuple[Difference, ...]:
    value, value_r = draws[MAIN][primary]
    out = []
    for other, own in draws.items():
        if other != MAIN:
            gap, gap_r = value - own[primary][0], value_r - own[primary][1]
            low, high = _ends(gap, gap_r)
            out.append(Difference(method=MAIN, other=other, metric=primary, value=gap, low=low, high=high))
    return tuple(out)


def _truth_lines(study: TransferStudy) -> list[str]:
    if study.truth_n is None:
        return ["No truth of cells was given: scores are of held-out bulk samples, and say nothing of the cells."]
    at_n = _known(study)
    lines = [
        f"{len(at_n):,} of {len(study.truth_n):,} cells have a truth, {int(study.truth_n[at_n].sum()):,} sensitive."
    ]
    if study.group_n is not None:
        num = len(np.unique(np.asarray(study.group_n)[at_n]))
        if num < LEAST_GROUPS:
            lines.append(
                f"warning: the cells are of {num} groups, too few for intervals over groups; those over cells say "
                "nothing of other lines or donors."
            )
    return lines


def _interval_note(study: TransferStudy) -> str:
    what = "cells" if _units(study) is None else "whole groups of cells"
    return (
        f"95 % intervals: percentile bootstrap over {what} and over bulk samples within their folds' scores, "
        f"{study.num_resamples:,} resamples; networks are not trained again."
    )


def _sections(study: TransferStudy, answers: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> tuple[Section, ...]:
    score_n = answers[MAIN][0]
    pictures = (
        Picture(name="cell-scores", alt="Distribution of the cells' scores", svg=score_figure(score_n, study.truth_n)),
    )
    tables = {}
    if study.group_n is not None:
        tables["By group"] = _group_table(study, score_n)
    return (Section(heading="Scores of the cells", pictures=pictures, tables=tables),)


def _group_table(study: TransferStudy, score_n: np.ndarray) -> Table:
    rows, generator = [], np.random.default_rng(study.seed)
    names = np.asarray(study.group_n).astype(str)
    for name in np.unique(names):
        at_n = np.flatnonzero(names == name)
        own_n = score_n[at_n]
        low, high = percentiles(own_n[generator.integers(0, len(own_n), (study.num_resamples, len(own_n)))].mean(1))
        truth_n = np.zeros(0) if study.truth_n is None else study.truth_n[at_n][study.truth_n[at_n] >= 0]
        share = float(truth_n.mean()) if len(truth_n) else None
        words = f"{format_number(own_n.mean())} [{format_number(low)}, {format_number(high)}]"
        rows.append((name, len(at_n), words, share))
    rows.sort(key=lambda row: -float(row[2].split()[0]))
    columns = ("group", "cells", "mean score", "share sensitive")
    return Table(columns=columns, rows=tuple(rows), note="95 % bootstrap over the cells of each group")


def score_figure(score_n: np.ndarray, truth_n: np.ndarray | None) -> bytes:
    """Draw how many cells have which score, by their truth where it is known."""
    from matplotlib.figure import Figure

    from cellwright.evaluate.style import BASELINE, MODEL, WIDTH, WRONG, house_style, place_axes, svg

    kinds = [("cells", score_n, MODEL)]
    if truth_n is not None:
        words = ((1, "sensitive", MODEL), (0, "not sensitive", WRONG), (-1, "not known", BASELINE))
        kinds = [(name, score_n[truth_n == code], colour) for code, name, colour in words if (truth_n == code).any()]
    edges = np.linspace(score_n.min(), score_n.max() + 1e-9, 41)
    with house_style():
        figure = Figure(figsize=(WIDTH, 3.3))
        axes = place_axes(figure, (0.7, 0.6, 9.8, 2.3))
        for name, own_n, colour in kinds:
            axes.hist(own_n, edges, color=colour, alpha=0.55, label=f"{name} ({len(own_n):,})")
        axes.set(xlabel="score (higher = more likely sensitive)", ylabel="cells", title="Scores of the cells")
        axes.legend(frameon=False)
        return svg(figure)
