"""Score rankings of perturbations by a wanted state, and put them into one record for the report.

Intervals draw perturbations with replacement, each with the two halves of its cells. The floor is a random order, whose
scores are exact; the roof is the other half of the real cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from cellwright.config import versions
from cellwright.data.perturbations import JOIN
from cellwright.evaluate.evaluation import Evaluation
from cellwright.evaluate.measures import measure_of
from cellwright.evaluate.parts import Cost, Difference, Entry, Method, Picture, Provenance, Score, Section, Table
from cellwright.evaluate.perturbation_report import screen_sha256
from cellwright.evaluate.study import machine, peak_memory_gb
from cellwright.metrics import percentiles
from cellwright.metrics.reverse import hit_at, reverse_metrics
from cellwright.tasks.lessons import Screen
from cellwright.tasks.reverse import place_of
from cellwright.tasks.reverse_folds import CHANCE, REPLICATE, Reversed

NUM_RESAMPLES = 1000
_MOST_ROWS = 60
_WAYS = {
    "effect": "cosine of the wanted and the predicted change",
    "distance": "distance of mean profiles",
    "votes": "votes of the nearest predicted cells",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReverseStudy:
    """Rankings of a screen's held-out states by all methods."""

    title: str
    dataset: str
    screen: Screen
    found: Reversed
    main: str
    """Method whose rankings are listed."""
    model: Any = None
    split_sha256: str | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


def evaluate_reverse(study: ReverseStudy) -> Evaluation:
    """Put scores, the curve of hits and lists of first candidates into one record."""
    found, ranking = study.found, study.found.ranking
    metrics, primary = reverse_metrics(ranking.sizes), f"hit_at_{max(ranking.sizes)}"
    draws_rq = _draws(study)
    methods = tuple(_method(name, study, draws_rq) for name in found.what)
    num = len({study.screen.profiles.parts[u] for u in found.at_q.tolist()})
    return Evaluation(
        title=study.title,
        task="reverse_perturb",
        dataset=study.dataset,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        headline=(
            f"{num} held-out perturbations, each to be found among {len(ranking.candidates)} candidates by the cells "
            f"that it leaves ({_WAYS[ranking.ways[0]]})."
        ),
        summary=tuple(study.notes),
        measures={name: measure_of(metric) for name, metric in metrics.items()},
        primary_metric=primary,
        drawn=tuple(f"{kind}_at_{size}" for kind in ("hit", "relevant") for size in ranking.sizes[-3:]),
        methods=methods,
        differences=_differences(study, primary, draws_rq),
        interval_note=f"95 % percentile bootstrap over perturbations, {NUM_RESAMPLES:,} resamples",
        contracts=(Section(heading="Screen", lines=tuple(study.screen.contract.lines())),),
        sections=(*_ways(study), _curve(study), _lists(study)),
        provenance=Provenance(
            versions=versions(),
            seed=study.screen.seed,
            model_sha256=None if study.model is None else study.model.sha256(),
            split_sha256=study.split_sha256,
            data_sha256=screen_sha256(study.screen),
            others=dict(study.hashes),
        ),
        cost=Cost(
            seconds={f"{name}, all folds": found.seconds[name] for name, is_b in found.is_baseline.items() if not is_b},
            machine=machine(),
            peak_memory_gb=peak_memory_gb(),
        ),
        citations=(() if study.model is None else (study.model.family.citation,))
        + ("Reverse perturbation: Cui et al. scGPT. Nature Methods 21, 1470 (2024).",),
        licences=() if study.model is None else (study.model.family.weights_terms,),
        limitations=(
            "Wanted states are states that a perturbation of the screen did reach; others may be out of reach.",
            "Half of a profile's cells are asked with, so that the other half can be the roof; all of them tell more.",
            "One training seed; intervals speak of other perturbations, not of other trainings.",
        ),
    )


def _draws(study: ReverseStudy) -> np.ndarray:
    """Return how often each state counts in each resample, ``[r, q]``; the halves of a profile stay together."""
    parts = [study.screen.profiles.parts[u] for u in study.found.at_q.tolist()]
    keys = {those: code for code, those in enumerate(dict.fromkeys(parts))}
    rng = np.random.default_rng(study.screen.seed)
    count_rk = rng.multinomial(len(keys), np.full(len(keys), 1 / len(keys)), NUM_RESAMPLES)
    return count_rk[:, [keys[those] for those in parts]].astype(np.float64)


def _score(value_q: np.ndarray, draws_rq: np.ndarray) -> Score:
    value = float(value_q.mean())
    low, high = percentiles(draws_rq @ value_q / draws_rq.sum(1))
    return Score(value=value, low=min(low, value), high=max(high, value), cells={"states": len(value_q)})


def _method(name: str, study: ReverseStudy, draws_rq: np.ndarray) -> Method:
    found = study.found
    values = found.value[name][found.ranking.ways[0]]
    groups = list(dict.fromkeys(found.group_q))
    parts: dict[str, dict[str, Score]] = {}
    for group in groups if len(groups) > 1 else ():
        at_q = np.array(found.group_q) == group
        parts[group] = {metric: Score(value=float(value_q[at_q].mean())) for metric, value_q in values.items()}
    return Method(
        name=name,
        what=found.what[name],
        is_baseline=found.is_baseline[name],
        bound={CHANCE: "floor", REPLICATE: "roof"}.get(name),
        scores={metric: _score(value_q, draws_rq) for metric, value_q in values.items()},
        parts=parts,
        seconds=found.seconds[name],
    )


def _differences(study: ReverseStudy, primary: str, draws_rq: np.ndarray) -> tuple[Difference, ...]:
    """Return every model minus every baseline that competes."""
    found, way = study.found, study.found.ranking.ways[0]
    models = [name for name, is_baseline in found.is_baseline.items() if not is_baseline]
    others = [name for name in found.what if name not in (*models, REPLICATE)]
    differences = []
    for model in models:
        for other in others:
            gap = _score(found.value[model][way][primary] - found.value[other][way][primary], draws_rq)
            pair = {"method": model, "other": other, "metric": primary}
            differences.append(Difference(**pair, value=gap.value, low=gap.low, high=gap.high))
    return tuple(differences)


def _ways(study: ReverseStudy) -> tuple[Section, ...]:
    """Return the scores by group and by every way of ranking."""
    found = study.found
    metrics = list(next(iter(found.value.values()))[found.ranking.ways[0]])
    columns = ("method", *(metric.replace("_", " ") for metric in metrics))
    tables = {}
    for way in found.ranking.ways:
        rows = [(name, *(float(by[way][metric].mean()) for metric in metrics)) for name, by in found.value.items()]
        tables[_WAYS[way]] = Table(columns=columns, rows=tuple(rows))
    sections = [Section(heading="Ways of ranking", tables=tables)]
    groups = list(dict.fromkeys(found.group_q))
    if len(groups) > 1:
        tables = {}
        for group in groups:
            at_q = np.array(found.group_q) == group
            by_way = {name: by[found.ranking.ways[0]] for name, by in found.value.items()}
            rows = [(name, *(float(by[metric][at_q].mean()) for metric in metrics)) for name, by in by_way.items()]
            tables[f"{group} ({int(at_q.sum()) // 2} profiles)"] = Table(columns=columns, rows=tuple(rows))
        sections.append(Section(heading="By distance from training", tables=tables))
    return tuple(sections)


def _curve(study: ReverseStudy) -> Section:
    from cellwright.evaluate.reverse_figure import hits_figure

    return Section(
        heading="How far down the right one stands",
        note="Share of states whose perturbation is among the first K candidates. The straightest way to read it: at "
        "the K that you can afford to test, how often is the right one among them?",
        pictures=(
            Picture(
                name="hits",
                alt="Share of states whose perturbation is among the first K candidates, for every method",
                svg=hits_figure(hit_curves(study), study.found.is_baseline, floor=CHANCE, roof=REPLICATE),
            ),
        ),
    )


def hit_curves(study: ReverseStudy) -> dict[str, np.ndarray]:
    """Return method -> share of states whose perturbation is among the first K, for K = 1 .. number of candidates."""
    found = study.found
    parts = [study.screen.profiles.parts[u] for u in found.at_q.tolist()]
    truths = [place_of(found.ranking.candidates, those) for those in parts]
    sizes = range(1, len(found.ranking.candidates) + 1)
    return {
        name: np.array(
            [np.mean([hit_at(score_k, at, num) for score_k, at in zip(score_qk, truths, strict=True)]) for num in sizes]
        )
        for name, score_qk in found.score_qk.items()
    }


def _lists(study: ReverseStudy) -> Section:
    found, screen = study.found, study.screen
    names = [JOIN.join(parts) for parts in found.ranking.candidates]
    rows: list[tuple[Entry, ...]] = []
    for q in np.flatnonzero(found.half_q == 0)[:_MOST_ROWS].tolist():
        u = int(found.at_q[q])
        score_k = found.score_qk[study.main][q]
        first = np.argsort(-score_k, kind="stable")[:5]
        truth = place_of(found.ranking.candidates, screen.profiles.parts[u])
        better = int((score_k > score_k[truth]).sum())
        tied = int((score_k == score_k[truth]).sum())
        place = f"{better + 1}" if tied == 1 else f"{better + 1} to {better + tied}"
        rows.append((screen.profiles.title(u), found.group_q[q], place, ", ".join(names[k] for k in first)))
    return Section(
        heading="State by state",
        note=f"What {study.main} would try first, by the first half of each profile's cells.",
        tables={
            "": Table(
                columns=("what was done", "group", "its place", "first five candidates"),
                rows=tuple(rows),
                note=f"first {_MOST_ROWS} of {len(found.at_q) // 2}" if len(found.at_q) // 2 > _MOST_ROWS else "",
            )
        },
    )
