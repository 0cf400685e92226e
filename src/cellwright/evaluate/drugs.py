"""Score predicted drug responses beside simple predictors, and draw them: rows and figures.

Intervals are percentile bootstraps over what is new in the split: cell lines, or drugs. They do not speak of other
training seeds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cellwright.baselines.drugs import RESPONSE_BASELINES
from cellwright.data.drugs import LineFeatures, Responses
from cellwright.data.splits import Split
from cellwright.evaluate.measures import finite_or_none
from cellwright.files import atomic_path
from cellwright.metrics.drugs import DRUG_METRICS, response_interval, share_better

NUM_RESAMPLES = 1000
SCORES = "drug_scores.jsonl"
SHARE = "share_of_drugs_better"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseRow:
    """One score of one method."""

    split: str
    method: str
    metric: str
    """A name of `cellwright.metrics.drugs.DRUG_METRICS`, or ``share_of_drugs_better``."""
    value: float | None
    """None where no drug has enough pairs."""
    low: float | None
    high: float | None
    best: float
    num_pairs: int
    num_lines: int
    num_drugs: int
    resampled: str
    """What the interval draws again: line or drug; empty without an interval."""
    rival: str = ""
    """For ``share_of_drugs_better``: than whom."""

    def record(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


def baseline_answers(
    pairs: Responses, lines: LineFeatures, split: Split, *, drug_uf: np.ndarray | None = None, seed: int = 0
) -> dict[str, np.ndarray]:
    """Let every baseline learn from the training and validation pairs and answer the test pairs.

    Parameters
    ----------
    pairs
        Codes count in ``lines``.
    drug_uf
        Features of each drug; without them the baseline that reads them is left out.
    """
    train, test = pairs.take(np.concatenate([split.train, split.valid])), pairs.take(split.test)
    features = {"nothing": None, "lines": lines.value_lf, "drugs": drug_uf}
    return {
        name: baseline.fit_predict(train, test, features[baseline.needs], seed=seed)
        for name, baseline in RESPONSE_BASELINES.items()
        if baseline.needs == "nothing" or features[baseline.needs] is not None
    }


def score_responses(
    answers: Mapping[str, np.ndarray],
    pairs: Responses,
    *,
    split: str,
    resample: Literal["line", "drug"] = "line",
    fold_p: np.ndarray | None = None,
    rivals: Sequence[str] = (),
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> list[ResponseRow]:
    """Score each method's answers for the same test pairs.

    Parameters
    ----------
    answers
        Method -> predicted ln IC50 of each pair.
    pairs
        The test pairs with their measured values.
    split
        Name of the way of holding out, for the rows.
    fold_p
        Fold of each pair, when answers are those of several folds: correlations within a drug are then taken within a
        fold. Pooled, a drug's training mean, which is low where its test values are high, gives even the drug mean a
        correlation (-0.09 on GDSC).
    rivals
        Methods that each other one is compared with, drug by drug.

    Returns
    -------
    A row a method and metric, and a row a method and rival.
    """
    for name in (name for name in rivals if name not in answers):
        raise ValueError(f"there are no answers of the rival {name!r}; methods: {', '.join(answers)}")
    drug_p = pairs.drug_p if fold_p is None else pairs.drug_p * (int(fold_p.max()) + 1) + fold_p
    unit_p = {"line": pairs.line_p, "drug": pairs.drug_p}[resample]
    sizes = {
        "num_pairs": len(pairs),
        "num_lines": len(np.unique(pairs.line_p)),
        "num_drugs": len(np.unique(pairs.drug_p)),
        "split": split,
    }
    has_interval = len(np.unique(unit_p)) > 1
    rows = []
    for method, pred_p in answers.items():
        for name, metric in DRUG_METRICS.items():
            value = metric.function(pairs.value_p, pred_p, drug_p)
            interval = (float("nan"), float("nan"))
            if has_interval and np.isfinite(value):
                interval = response_interval(
                    name, pairs.value_p, pred_p, drug_p, unit_p=unit_p, num_resamples=num_resamples, seed=seed
                )
            low, high = map(finite_or_none, interval)
            resampled = resample if low is not None else ""
            rows.append(
                ResponseRow(
                    **sizes, method=method, metric=name, value=finite_or_none(value), low=low, high=high,
                    best=metric.best, resampled=resampled,
                )
            )  # fmt: skip
        for rival in (rival for rival in rivals if rival != method):
            share = finite_or_none(share_better(pairs.value_p, (pred_p, answers[rival]), drug_p))
            rows.append(
                ResponseRow(
                    **sizes, method=method, metric=SHARE, value=share, low=None, high=None, best=1.0, resampled="",
                    rival=rival,
                )
            )  # fmt: skip
    return rows


def write_rows(rows: Sequence[ResponseRow], folder: str | Path) -> Path:
    """Write rows as ``drug_scores.jsonl`` into a folder; return the file."""
    path = Path(folder) / SCORES
    with atomic_path(path) as draft:
        draft.write_text("".join(json.dumps(row.record()) + "\n" for row in rows), encoding="utf-8")
    return path


def table_of_rows(rows: Sequence[ResponseRow]) -> str:
    """Return the scores as text, a line a method, best within-drug correlation first."""
    names = [name for name in DRUG_METRICS if name != "mse"]
    found = {(row.method, row.metric): row for row in rows if not row.rival}
    methods = sorted(dict.fromkeys(row.method for row in rows), key=lambda m: -_value(found[m, names[0]]))
    width = max(len(method) for method in methods)
    lines = ["  ".join(["method".ljust(width), *(name.rjust(26) for name in names)])]
    for method in methods:
        lines.append("  ".join([method.ljust(width), *(_cell(found[method, name]).rjust(26) for name in names)]))
    return "\n".join(lines)


def _value(row: ResponseRow) -> float:
    return -2.0 if row.value is None else row.value


def _cell(row: ResponseRow) -> str:
    if row.value is None:
        return "not defined"
    return f"{row.value:.3f}" + ("" if row.low is None else f" [{row.low:.3f}, {row.high:.3f}]")


def response_figure(rows: Sequence[ResponseRow], *, models: Sequence[str]) -> bytes:
    """Draw within-drug and overall correlation of every method with its interval; ``models`` are blue, others grey."""
    from matplotlib.figure import Figure

    from cellwright.evaluate.style import BASELINE, MODEL, WIDTH, house_style, place_axes, shorten, svg

    titles = {"within_drug_pearson": "Within a drug, over lines", "pearson": "Over all pairs (mostly drug means)"}
    found = {(row.method, row.metric): row for row in rows if not row.rival}
    methods = sorted(dict.fromkeys(row.method for row in rows), key=lambda m: -_value(found[m, "within_drug_pearson"]))
    height, left = 0.34 * len(methods), 3.6
    column = (WIDTH - left) / 2
    with house_style():
        figure = Figure(figsize=(WIDTH, height + 1.0))
        for place, (metric, title) in enumerate(titles.items()):
            axes = place_axes(figure, (left + place * column, 0.45, column - 0.75, height))
            for y, method in enumerate(methods):
                row = found[method, metric]
                if row.value is None:
                    continue
                colour = MODEL if method in models else BASELINE
                if row.low is not None:
                    axes.plot([row.low, row.high], [y, y], color=colour, linewidth=2.4)
                axes.plot(row.value, y, "o", color=colour, markersize=6.5, markeredgecolor="white")
                axes.annotate(
                    f"{row.value:.3f}", (1, y), (8, 0), xycoords=("axes fraction", "data"),
                    textcoords="offset points", va="center", fontsize=9,
                )  # fmt: skip
            axes.set_yticks(range(len(methods)), [shorten(m, 44) for m in methods] if place == 0 else [])
            axes.set(ylim=(len(methods) - 0.5, -0.5), title=title, xlabel="Pearson correlation")
            axes.grid(axis="x", color="#E6E8EC", linewidth=0.8)
        return svg(figure)


def drug_figure(first: Mapping[int, float], second: Mapping[int, float], *, names: tuple[str, str]) -> bytes:
    """Draw each drug's correlation over lines by two methods, one an axis; above the line the second is better."""
    from matplotlib.figure import Figure

    from cellwright.evaluate.style import MODEL, WIDTH, house_style, place_axes, svg

    codes = list(first)
    with house_style():
        figure = Figure(figsize=(WIDTH, 4.6))
        axes = place_axes(figure, (0.75, 0.7, 3.5, 3.5))
        axes.plot([-1, 1], [-1, 1], color="#8A8F98", linewidth=0.8)
        axes.plot([first[c] for c in codes], [second[c] for c in codes], "o", color=MODEL, markersize=4, alpha=0.7)
        low = min([0.0, *first.values(), *second.values()]) - 0.05
        axes.set(xlim=(low, 1), ylim=(low, 1), xlabel=names[0], ylabel=names[1])
        axes.set_title(f"Correlation within each of {len(codes)} drugs")
        axes.text(low + 0.04, 0.96, f"above the line: {names[1]} is better", fontsize=9, color="#5A6270", va="top")
        axes = place_axes(figure, (5.6, 0.7, 5.0, 3.5))
        gain_u = sorted(second[c] - first[c] for c in codes)
        axes.plot(gain_u, [(i + 1) / len(codes) for i in range(len(codes))], color=MODEL, linewidth=2)
        axes.axvline(0, color="#8A8F98", linewidth=0.8)
        axes.set(ylim=(0, 1.02), xlabel=f"{names[1]} minus {names[0]}", ylabel="share of drugs at or below")
        axes.set_title("Difference within each drug")
        return svg(figure)
