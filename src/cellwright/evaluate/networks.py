"""Score rankings of targets beside simple ones, and put networks and modules into one record for the report.

Every method ranks the same genes for the same regulators and is held against the same table of targets. The unit of
resampling is the regulator. The floor is a random order; there is no roof, since no table of targets is complete.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np

from cellwright.baselines.networks import NETWORK_BASELINES, NetworkData
from cellwright.config import versions
from cellwright.data.cells import Cells
from cellwright.evaluate.evaluation import Evaluation
from cellwright.evaluate.measures import measures_of
from cellwright.evaluate.parts import Cost, Difference, Method, Picture, Provenance, Score, Section, Table
from cellwright.evaluate.study import cells_sha256, machine, peak_memory_gb
from cellwright.metrics import NETWORK_METRICS, percentiles
from cellwright.tasks.grn import RankedTargets, score_targets, without_self
from cellwright.tasks.modules import Enrichment

PRIMARY = "auprc_ratio"
NUM_RESAMPLES = 1000
LEAST_FOR_INTERVAL = 5
"""Regulators below which no interval is given."""
_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkStudy:
    """Rankings of a model, what they are held against, and what else is shown."""

    title: str
    dataset: str
    model: Any
    source: Cells
    rankings: Mapping[str, RankedTargets]
    """Name of the method -> ranking; all of the same genes and regulators, the first is the main one."""
    what: Mapping[str, str]
    by: Literal["vectors", "attention"] = "vectors"
    """What rankings are made from; it decides what a reader is warned of."""
    known: Mapping[str, np.ndarray]
    """Regulator -> bool ``[g]``, see `cellwright.tasks.grn.scorable`."""
    listed_rg: np.ndarray | None = None
    """Regulators of ``known``: see `cellwright.tasks.grn.listed_elsewhere`."""
    control: np.ndarray | None = None
    """Rows of control cells, where there are two conditions."""
    perturbed: Sequence[np.ndarray] | None = None
    """Rows of perturbed cells, one array a regulator of ``known``."""
    modules: Sequence[Sequence[str]] = ()
    enrichment: Sequence[Enrichment] = ()
    seed: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


def evaluate_networks(study: NetworkStudy) -> Evaluation:
    """Rank by the baselines too, score everything, and return the record of a report."""
    main = next(iter(study.rankings))
    genes, regulators = study.rankings[main].genes, list(study.known)
    rankings = dict(study.rankings) | _baselines(study, genes, regulators)
    scores = {name: score_targets(ranked, study.known) for name, ranked in rankings.items()}
    draws_rn = np.random.default_rng(study.seed).integers(0, len(regulators), (NUM_RESAMPLES, len(regulators)))
    methods = [_method(name, study, scores[name], regulators, draws_rn) for name in rankings]
    num_pairs = sum(int(is_target_g.sum()) for is_target_g in study.known.values())
    return Evaluation(
        title=study.title,
        task="grn",
        dataset=study.dataset,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        headline=(
            f"Targets of {len(regulators)} regulators among {len(genes):,} genes, ranked by {main} and by "
            f"{len(rankings) - len(study.rankings)} simple ways, against {num_pairs:,} known targets."
        ),
        summary=tuple(study.notes),
        measures=measures_of(NETWORK_METRICS),
        primary_metric=PRIMARY,
        methods=tuple(methods),
        differences=_differences(main, scores, regulators, draws_rn),
        interval_note=f"95 % percentile bootstrap over regulators, {NUM_RESAMPLES:,} resamples",
        contracts=(Section(heading="Data", lines=tuple(study.source.contract.lines())),),
        sections=(
            _regulator_section(methods, study.known),
            _top_section(study.rankings[main], regulators, study.by),
            *_module_sections(study),
        ),
        provenance=Provenance(
            versions=versions(),
            seed=study.seed,
            model_sha256=study.model.sha256(),
            data_sha256=cells_sha256(study.source),
            others=dict(study.hashes),
        ),
        cost=Cost(seconds=dict(study.seconds), machine=machine(), peak_memory_gb=peak_memory_gb()),
        citations=(study.model.family.citation,),
        licences=(study.model.family.weights_terms,),
        limitations=(
            "Tables of targets list what was looked for: a gene that is not in them may be a target all the same.",
            "Known targets come from other cells than these; a network need not be at work here.",
            *_OF_KIND[study.by],
        ),
    )


_OF_KIND = {
    "vectors": ("Nearness has no direction and no sign.",),
    "attention": (
        "Attention says what a network looks at, not what regulates what, and has no sign.",
        "Ranks of scores before the softmax: what the network makes of them is not seen.",
    ),
}


def _baselines(study: NetworkStudy, genes: Sequence[str], regulators: Sequence[str]) -> dict[str, RankedTargets]:
    at = {gene: g for g, gene in enumerate(genes)}
    data = NetworkData(
        logcp10k_ng=study.source.logcp10k(study.source.vocab.ids(genes)),
        regulators=[at[name] for name in regulators],
        listed_rg=study.listed_rg,
        control=study.control,
        perturbed=study.perturbed,
        seed=study.seed,
    )
    return {
        name: without_self(regulators, genes, baseline.rank(data))
        for name, baseline in NETWORK_BASELINES.items()
        if baseline.is_possible(data)
    }


def _method(
    name: str,
    study: NetworkStudy,
    scores: Mapping[str, Mapping[str, float]],
    regulators: list[str],
    draws_rn: np.ndarray,
) -> Method:
    baseline = NETWORK_BASELINES.get(name)
    return Method(
        name=name,
        what=study.what[name] if baseline is None else baseline.what,
        is_baseline=baseline is not None,
        bound="floor" if name == "random" else None,
        scores={metric: _score(list(by.values()), draws_rn) for metric, by in scores.items()},
        parts={
            regulator: {metric: Score(value=by[regulator]) for metric, by in scores.items()} for regulator in regulators
        },
    )


def _score(values: list[float], draws_rn: np.ndarray) -> Score:
    value_n = np.array(values)
    if len(values) < LEAST_FOR_INTERVAL:
        return Score(value=float(value_n.mean()), cells={"regulators": len(values)})
    low, high = percentiles(value_n[draws_rn].mean(1))
    return Score(value=float(value_n.mean()), low=low, high=high, cells={"regulators": len(values)})


def _differences(
    main: str, scores: Mapping[str, Mapping[str, Mapping[str, float]]], regulators: list[str], draws_rn: np.ndarray
) -> tuple[Difference, ...]:
    if len(regulators) < LEAST_FOR_INTERVAL:
        return ()
    found = []
    for other in scores:
        if other in (main, "random"):
            continue
        gap_n = np.array([scores[main][PRIMARY][name] - scores[other][PRIMARY][name] for name in regulators])
        low, high = percentiles(gap_n[draws_rn].mean(1))
        found.append(
            Difference(method=main, other=other, metric=PRIMARY, value=float(gap_n.mean()), low=low, high=high)
        )
    return tuple(found)


def _regulator_section(methods: Sequence[Method], known: Mapping[str, np.ndarray]) -> Section:
    """Draw the primary score of each regulator, for the main ranking and the baselines."""
    from cellwright.evaluate.network_figures import regulators_figure

    order = sorted(known, key=lambda name: -int(known[name].sum()))[:_SHOWN]
    note = f"The {_SHOWN} of {len(known)} regulators with the most known targets. " if len(known) > _SHOWN else ""
    picture = Picture(
        name="regulators",
        alt="Score of each regulator by the main ranking and by simple ways",
        svg=regulators_figure(methods, {name: int(known[name].sum()) for name in order}, PRIMARY),
    )
    note += (
        "Known targets among the genes stand in brackets. The line is at 1; a random order lies above it where targets "
        "are few, see the floor of the comparison."
    )
    return Section(heading="Regulators", note=note, pictures=(picture,))


def _top_section(ranked: RankedTargets, regulators: Sequence[str], by: str) -> Section:
    heading, column = ("Nearest genes", "ten nearest genes") if by == "vectors" else ("First genes", "first ten genes")
    top = ranked.top(10)
    rows = tuple((name, ", ".join(gene for gene, _ in top[name])) for name in regulators[:_SHOWN])
    note = f"first {_SHOWN} of {len(regulators)} regulators" if len(regulators) > _SHOWN else ""
    return Section(heading=heading, tables={"": Table(columns=("regulator", column), rows=rows, note=note)})


def _module_sections(study: NetworkStudy) -> tuple[Section, ...]:
    if not study.modules:
        return ()
    best: dict[int, Enrichment] = {}
    for pair in study.enrichment:
        best.setdefault(pair.module, pair)
    rows = []
    for m, module in enumerate(study.modules[:_SHOWN]):
        pair = best.get(m)
        found = (None, None) if pair is None else (f"{pair.gene_set} ({pair.num_shared})", f"{pair.q_value:.1e}")
        rows.append((m, len(module), ", ".join(module[:8]), *found))
    table = Table(
        columns=("module", "genes", "some of them", "most enriched set (shared genes)", "q"),
        rows=tuple(rows),
        note=f"{len(study.modules)} modules; q: Benjamini-Hochberg over all modules and sets",
    )
    return (Section(heading="Gene modules", tables={"": table}),)
