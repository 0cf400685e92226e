"""What a report of drug responses shows beyond the comparison: drug by drug, and how folds and seeds differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import t as student

from cellwright.evaluate.comparison import format_number
from cellwright.evaluate.drugs import drug_figure
from cellwright.evaluate.measures import metric_label
from cellwright.evaluate.parts import Entry, Picture, Section, Table
from cellwright.metrics import percentiles
from cellwright.metrics.drugs import DRUG_METRICS, drug_correlations

if TYPE_CHECKING:
    from cellwright.evaluate.drug_study import DrugStudy

_SHOWN = 10
"""Drugs listed from either end."""
RIVALS = ("kernel_ridge", "composition_ridge", "effects", "line_mean", "drug_mean")
"""Baselines that the network is drawn against, drug by drug: the first that was run and can order lines."""


def response_sections(study: DrugStudy) -> tuple[Section, ...]:
    """Return the sections of a study; those without data are left out."""
    return (*_fold_section(study), *_drug_section(study))


def _fold_section(study: DrugStudy) -> tuple[Section, ...]:
    """Return every method's scores of each fold and seed as a mean with its interval."""
    folds = [0] if study.fold_p is None else np.unique(study.fold_p).tolist()
    if len(folds) * max(map(len, study.answers.values())) < 2:
        return ()
    tables = {}
    for metric in ("within_drug_pearson", "pearson", "rmse"):
        rows = []
        for name, answers in study.answers.items():
            values = [_fold_score(study, metric, pred_p, fold) for pred_p in answers for fold in folds]
            known = np.array([value for value in values if np.isfinite(value)])
            if len(known) == len(values):
                rows.append((name, len(folds), len(answers), mean_interval(known), _range(known)))
        if rows:
            columns = ("method", "folds", "seeds", "mean and 95 % interval", "least and largest")
            tables[metric_label(metric)] = Table(columns=columns, rows=tuple(rows))
    note = (
        "Each fold and seed is scored by itself. Intervals are Student's, over these scores as if they were "
        "independent; folds share most of their training pairs, so intervals are too narrow."
    )
    return (Section(heading="Over folds and seeds", note=note, tables=tables),) if tables else ()


def _fold_score(study: DrugStudy, metric: str, pred_p: np.ndarray, fold: int) -> float:
    at_p = np.arange(len(pred_p)) if study.fold_p is None else np.flatnonzero(study.fold_p == fold)
    pairs = study.pairs.take(at_p)
    return float(DRUG_METRICS[metric].function(pairs.value_p, pred_p[at_p], pairs.drug_p))


def mean_interval(values: Sequence[float] | np.ndarray, level: float = 0.95) -> str:
    """Return mean and Student's interval as text; one value alone has none."""
    value_n = np.asarray(values, np.float64)
    mean = format_number(float(value_n.mean()))
    if len(value_n) < 2:
        return f"{mean} (one value, no interval)"
    half = float(student.ppf((1 + level) / 2, len(value_n) - 1) * value_n.std(ddof=1) / np.sqrt(len(value_n)))
    return f"{mean} [{format_number(value_n.mean() - half)}, {format_number(value_n.mean() + half)}]"


def _range(value_n: np.ndarray) -> str:
    return f"{format_number(float(value_n.min()))} to {format_number(float(value_n.max()))}"


def _drug_section(study: DrugStudy) -> tuple[Section, ...]:
    """Return each drug's correlation over lines by the network and by a rival: a picture, shares, both ends."""
    of = {name: _by_drug(study, answers[0]) for name, answers in study.answers.items()}
    main = of[study.main]
    if not main:
        return ()
    rivals = list(dict.fromkeys(name for name in (*RIVALS, *study.answers) if name in of and name != study.main))
    rival = rivals[0] if rivals else None
    order = sorted(main, key=lambda code: -main[code])
    ends = order if len(order) <= 2 * _SHOWN else [*order[:_SHOWN], *order[-_SHOWN:]]
    count_u = np.bincount(study.pairs.drug_p)
    folds = 1 if study.fold_p is None else len(np.unique(study.fold_p))
    columns = ("drug", "pairs", study.main, *([rival] if rival else []))
    rows = tuple(
        (study.pairs.drugs[code], int(count_u[code]), _with_fisher(main[code], int(count_u[code]), folds),
         *([_with_fisher(of[rival][code], int(count_u[code]), folds)] if rival else []))
        for code in ends
    )  # fmt: skip
    shown = f"the {_SHOWN} best and the {_SHOWN} worst of {len(order)} drugs" if len(ends) < len(order) else "all drugs"
    tables = {
        "Correlation over lines": Table(
            columns=columns,
            rows=rows,
            note=f"{shown} by {study.main}, first seed; 95 % intervals by Fisher's transformation",
        )
    }
    if rivals:
        tables = {"Share of drugs that the network orders better": _share_table(of, study, rivals)} | tables
    pictures = ()
    if rival:
        pictures = (
            Picture(
                name="drug-by-drug",
                alt=f"Each drug's correlation over lines by {rival} and by {study.main}",
                svg=drug_figure(of[rival], main, names=(rival, study.main)),
            ),
        )
    return (Section(heading="Drug by drug", pictures=pictures, tables=tables),)


def _share_table(of: dict[str, dict[int, float]], study: DrugStudy, rivals: Sequence[str]) -> Table:
    """Return the share of drugs on which the network is better, ties half, with an interval over drugs."""
    generator = np.random.default_rng(study.seed)
    main = of[study.main]
    num = len(main)
    draws_ru = generator.integers(0, num, (study.num_resamples, num))
    rows = []
    for rival in rivals:
        gain_u = np.array([main[code] - of[rival][code] for code in main])
        better_u = (gain_u > 0) + 0.5 * (gain_u == 0)
        low, high = percentiles(better_u[draws_ru].mean(1))
        rows.append((rival, f"{format_number(better_u.mean())} [{format_number(low)}, {format_number(high)}]", num))
    note = "ties count half; 95 % bootstrap over drugs"
    return Table(columns=("than", "share of drugs", "drugs"), rows=tuple(rows), note=note)


def _by_drug(study: DrugStudy, pred_p: np.ndarray) -> dict[int, float]:
    """Return drug code -> correlation over lines, the mean over folds: between folds a drug's level differs."""
    num_folds = 1 if study.fold_p is None else int(study.fold_p.max()) + 1
    each: dict[int, list[float]] = {}
    for code, value in drug_correlations(study.pairs.value_p, pred_p, study.drug_p).items():
        each.setdefault(code // num_folds, []).append(value)
    return {code: float(np.mean(values)) for code, values in each.items()}


def _with_fisher(r: float, num: int, folds: int) -> Entry:
    """Return a correlation of so many pairs with its interval; each fold costs its own three degrees of freedom."""
    if abs(r) >= 1 or r == 0 or num <= 3 * folds:
        return format_number(r)
    middle, half = np.arctanh(r), 1.96 / np.sqrt(num - 3 * folds)
    return f"{format_number(r)} [{format_number(np.tanh(middle - half))}, {format_number(np.tanh(middle + half))}]"
