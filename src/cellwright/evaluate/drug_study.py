"""From predicted drug responses to a record that a report is written from: one study, put together.

The unit of resampling is what is new: cell lines, or drugs. Where several folds were held out or several seeds trained,
every score is the mean over seeds of all folds' pairs together, and a table tells how folds and seeds differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np

from cellwright.baselines.drugs import RESPONSE_BASELINES
from cellwright.config import versions
from cellwright.data.drugs import Responses
from cellwright.evaluate.drug_sections import response_sections
from cellwright.evaluate.drugs import NUM_RESAMPLES
from cellwright.evaluate.evaluation import Evaluation
from cellwright.evaluate.measures import measure_of
from cellwright.evaluate.parts import Cost, Curve, CurvePoint, Difference, Method, Provenance, Score, Section
from cellwright.evaluate.study import machine, peak_memory_gb
from cellwright.metrics import percentiles
from cellwright.metrics.drugs import DRUG_METRICS, MIN_PAIRS, resampled_responses

PRIMARY = ("within_drug_pearson", "rmse")
"""The first that is defined: no drug may have enough pairs for a correlation of its own."""
FLOOR = "drug_mean"


@dataclass(frozen=True, slots=True, kw_only=True)
class DrugStudy:
    """Measured pairs that no method learnt from, and what every method answered for them."""

    title: str
    dataset: str
    held_out: str
    """What is new about the pairs, in words, for the headline."""
    pairs: Responses
    answers: Mapping[str, Sequence[np.ndarray]]
    """Method -> predicted ln IC50 of each pair, once for each seed it was trained with; the first is the network."""
    what: Mapping[str, str]
    """Line about each method that is no baseline of the table."""
    resample: Literal["line", "drug"] = "line"
    fold_p: np.ndarray | None = None
    """Fold of each pair: correlations within a drug are taken within a fold."""
    fits: Mapping[str, Any] = field(default_factory=dict)
    """Run name -> `cellwright.train.run.FitResult`."""
    contracts: tuple[Section, ...] = ()
    notes: tuple[str, ...] = ()
    limitations: tuple[str, ...] = ()
    citations: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Stage or method -> wall time."""
    hashes: Mapping[str, str] = field(default_factory=dict)
    split_sha256: str | None = None
    num_resamples: int = NUM_RESAMPLES
    seed: int = 0

    @property
    def main(self) -> str:
        """Name of the network."""
        return next(iter(self.answers))

    @property
    def unit_p(self) -> np.ndarray:
        """Code of what is drawn again."""
        return {"line": self.pairs.line_p, "drug": self.pairs.drug_p}[self.resample]

    @property
    def drug_p(self) -> np.ndarray:
        """Code of each pair's drug; the same drug in another fold is another code."""
        if self.fold_p is None:
            return self.pairs.drug_p
        return self.pairs.drug_p * (int(self.fold_p.max()) + 1) + self.fold_p


def evaluate_drugs(study: DrugStudy) -> Evaluation:
    """Score every method's answers, draw, and put everything a report shows into one record.

    Raises
    ------
    ValueError
        An answer is not finite, or no score is defined.
    """
    draws = {name: _draws(study, name) for name in study.answers}
    primary = next(name for name in PRIMARY if all(name in own for own in draws.values()))
    methods = tuple(_method(study, name, draws[name]) for name in study.answers)
    num_lines, num_drugs = (len(np.unique(code_p)) for code_p in (study.pairs.line_p, study.pairs.drug_p))
    return Evaluation(
        title=study.title,
        task="drug_response",
        dataset=study.dataset,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        headline=(
            f"ln IC50 of {len(study.pairs):,} pairs of {num_lines:,} lines and {num_drugs:,} drugs, {study.held_out}, "
            f"predicted by {study.main} and by {len(methods) - 1} simple way{'s' * (len(methods) != 2)}."
        ),
        summary=(*study.notes, *_defined(study, primary)),
        measures={name: measure_of(metric) for name, metric in DRUG_METRICS.items()},
        primary_metric=primary,
        drawn=tuple(name for name in ("within_drug_pearson", "pearson", "rmse") if name in draws[study.main]),
        methods=methods,
        differences=_differences(study, draws, primary),
        interval_note=_interval_note(study),
        contracts=study.contracts,
        curves=tuple(_curve(name, fit) for name, fit in study.fits.items()),
        sections=response_sections(study),
        provenance=Provenance(
            versions=versions(), seed=study.seed, split_sha256=study.split_sha256, others=dict(study.hashes)
        ),
        cost=Cost(seconds=dict(study.seconds), machine=machine(), peak_memory_gb=peak_memory_gb()),
        citations=(*study.citations, *_CITATIONS),
        licences=study.licences,
        limitations=(*study.limitations, *_LIMITATIONS),
    )


_CITATIONS = (
    "Network: Liu, Hu, Peng et al. DeepCDR: a hybrid graph convolutional network for predicting cancer drug response. "
    "Bioinformatics 36, i911 (2020).",
)
_LIMITATIONS = (
    "The correlation over all pairs is mostly the difference between drugs, which their means know without any cell.",
    "ln IC50 of two laboratories agree with a correlation within drugs of about .5; nothing agrees better with both.",
    "Settings of baselines are plain ones and were not tuned.",
)


def _draws(study: DrugStudy, method: str) -> dict[str, tuple[float, np.ndarray]]:
    """Return metric -> score and its resamples, the mean over seeds; metrics that are not defined are left out."""
    truth_p, drug_p, has_units = study.pairs.value_p, study.drug_p, len(np.unique(study.unit_p)) > 1
    found = {}
    for name, metric in DRUG_METRICS.items():
        values, drawn = [], []
        for pred_p in study.answers[method]:
            values.append(metric.function(truth_p, pred_p, drug_p))
            if has_units and np.isfinite(values[-1]):
                drawn.append(
                    resampled_responses(
                        name, truth_p, pred_p, drug_p, unit_p=study.unit_p, num_resamples=study.num_resamples,
                        seed=study.seed,
                    )
                )  # fmt: skip
        if np.isfinite(values).all():
            found[name] = (float(np.mean(values)), np.mean(drawn, axis=0) if drawn else np.zeros(0))
    return found


def _interval(value: float, value_r: np.ndarray) -> dict[str, float]:
    known_r = value_r[np.isfinite(value_r)]
    if not len(known_r):
        return {}
    low, high = percentiles(known_r)
    return {"low": min(low, value), "high": max(high, value)}


def _method(study: DrugStudy, name: str, draws: Mapping[str, tuple[float, np.ndarray]]) -> Method:
    baseline = RESPONSE_BASELINES.get(name)
    counts = {"pairs": len(study.pairs)}
    fits = list(study.fits.values()) if name == study.main else []
    return Method(
        name=name,
        what=study.what[name] if baseline is None else baseline.what,
        is_baseline=baseline is not None,
        bound="floor" if name == FLOOR else None,
        scores={
            metric: Score(value=value, **_interval(value, value_r), cells=counts)
            for metric, (value, value_r) in draws.items()
        },
        seconds=study.seconds.get(name),
        trained_parameters=fits[0].num_trained if fits else None,
    )


def _differences(
    study: DrugStudy, draws: Mapping[str, Mapping[str, tuple[float, np.ndarray]]], primary: str
) -> tuple[Difference, ...]:
    out = []
    value, value_r = draws[study.main][primary]
    for other in study.answers:
        theirs, theirs_r = draws[other][primary]
        if other != study.main and len(value_r):
            ends = _interval(value - theirs, value_r - theirs_r)
            pair = {"method": study.main, "other": other, "metric": primary, "value": value - theirs}
            out.extend([Difference(**pair, **ends)] if ends else [])
    return tuple(out)


def _interval_note(study: DrugStudy) -> str:
    if len(np.unique(study.unit_p)) < 2:
        return f"There is one {study.resample} only, so that no interval can be given."
    seeds = len(study.answers[study.main])
    means = f" Scores of {study.main} are means over {seeds} seeds." if seeds > 1 else ""
    return (
        f"95 % intervals: percentile bootstrap over {study.resample}s, {study.num_resamples:,} resamples; they do not "
        f"speak of other training seeds.{means}"
    )


def _defined(study: DrugStudy, primary: str) -> list[str]:
    if primary == PRIMARY[0]:
        return []
    return [
        f"No drug has {MIN_PAIRS} of these pairs, so there is no correlation within drugs; read the error instead, and "
        f"not the correlation over all pairs, which {FLOOR} reaches without a look at the lines."
    ]


def _curve(name: str, fit: Any) -> Curve:
    points = [
        CurvePoint(step=int(row["step"]), train_loss=row.get("train/loss"), valid_loss=row.get("valid/loss"))
        for row in fit.history
    ]
    return Curve(name=name, stage="mean square error of the standardised response", points=tuple(points))
