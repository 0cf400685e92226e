"""From made cells to a record that a report is written from: one study of a generative model, put together.

What is compared: the model's cells, those of simple ways to make cells (with floor and roof), and held-out real cells,
all as levels over the genes that both real data sets have, type by type. See `cellwright.evaluate.generation`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from cellwright.baselines.generation import GENERATION_BASELINES
from cellwright.config import versions
from cellwright.data.cells import Cells
from cellwright.evaluate.evaluation import Evaluation
from cellwright.evaluate.generation import (
    ALL_TYPES,
    NUM_RESAMPLES,
    GenerationScores,
    LevelCells,
    read_levels,
    score_methods,
)
from cellwright.evaluate.made_sections import made_sections
from cellwright.evaluate.measures import measures_of
from cellwright.evaluate.parts import Cost, Difference, Method, Provenance, Score, Section
from cellwright.evaluate.scored_types import TypeCount, left_out_lines, types_table
from cellwright.evaluate.study import cells_sha256, machine, peak_memory_gb
from cellwright.metrics import GENERATION_METRICS

PRIMARY = "e_distance"
"""It sees all genes and the spread of cells, needs no training, and its zero is exact."""
LEAST_GENES = 10
_TRAIN_CELLS = 2000
"""Most training cells of a type that baselines learn from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationStudy:
    """What was made, from which cells the methods learnt, and what they are compared with."""

    title: str
    dataset: str
    model: Any
    made: LevelCells
    """The model's cells; columns are the genes of its vocabulary, codes those of ``classes``."""
    what: str
    """One line about them."""
    train: Cells
    """Raw counts."""
    train_levels: LevelCells
    """The same, with the code of each cell's type."""
    held_out: Cells
    held_code_n: np.ndarray
    classes: tuple[str, ...]
    types: Sequence[TypeCount]
    num_real: int = 500
    """Most held-out cells of a type that are compared with, drawn at random."""
    num_resamples: int = NUM_RESAMPLES
    seed: int = 0
    split_sha256: str | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)
    """Further provenance: what it is of -> hash."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Stage -> wall time; that of "making cells" is the model's."""
    notes: Sequence[str] = ()
    limitations: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Compared:
    """All cells of a study as levels over the same genes."""

    methods: dict[str, LevelCells]
    """The model first."""
    train: LevelCells
    held_out: LevelCells
    seconds: dict[str, float | None]
    num_genes: int


def evaluate_made(study: GenerationStudy) -> Evaluation:
    """Let the baselines make cells, score all methods, draw, and put everything a report shows into one record."""
    start = time.perf_counter()
    compared = _compare(study)
    seconds = {**study.seconds, "baselines and reading levels": time.perf_counter() - start}
    start = time.perf_counter()
    scores = score_methods(
        compared.methods, compared.train, compared.held_out,
        classes=study.classes, seed=study.seed, num_resamples=study.num_resamples,
    )  # fmt: skip
    seconds["scoring"] = time.perf_counter() - start
    methods = [_method(name, study, compared, scores) for name in compared.methods]
    model = methods[0]
    start = time.perf_counter()
    sections = (
        Section(heading="Types", lines=tuple(left_out_lines(study.types)), tables={"": _types(study, compared)}),
        *made_sections(methods, compared, study.classes, study.seed),
    )
    seconds["drawing"] = time.perf_counter() - start
    num_types, num_real = len(np.unique(compared.held_out.code_n)), len(compared.held_out.code_n)
    return Evaluation(
        title=study.title,
        task="generate",
        dataset=study.dataset,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        headline=(
            f"{len(study.made.code_n):,} cells of {num_types} type{'s' * (num_types > 1)} made by {model.name}, held "
            f"against {num_real:,} real cells that no method has learnt from, beside {len(methods) - 1} simple ways to "
            "make cells."
        ),
        summary=(
            f"Compared as levels (0 .. 1 of each cell's highest) over {compared.num_genes:,} genes; depth is not.",
            *study.notes,
            *left_out_lines(study.types),
        ),
        measures=measures_of(GENERATION_METRICS),
        primary_metric=PRIMARY,
        drawn=("e_distance", "mmd", "c2st_auroc", "marker_recall", "detected_ratio", "nearest_ratio"),
        methods=tuple(methods),
        differences=_differences(methods, scores),
        interval_note=_interval_note(study.num_resamples),
        contracts=tuple(
            Section(heading=heading, lines=tuple(cells.contract.lines()))
            for heading, cells in (("Training", study.train), ("Held out", study.held_out))
        ),
        sections=sections,
        provenance=_provenance(study),
        cost=Cost(seconds=seconds, machine=machine(), peak_memory_gb=peak_memory_gb()),
        citations=(study.model.family.citation, *_CITATIONS),
        licences=(study.model.family.weights_terms,),
        limitations=(*study.limitations, *_infinite(scores), *_LIMITATIONS),
    )


_CITATIONS = (
    "E-distance: Peidli et al. scPerturb. Nature Methods 21, 531 (2024).",
    "MMD: Gretton et al. A kernel two-sample test. JMLR 13, 723 (2012).",
    "C2ST: Lopez-Paz, Oquab. Revisiting classifier two-sample tests. ICLR (2017).",
)
_LIMITATIONS = (
    "One model, one seed of making, one pair of data sets: another training run may score otherwise.",
    "Levels are compared, not counts: what a method makes of depth is not seen.",
    "floor and roof are copies of training cells: their scores of copying say what copies score, not what is good.",
    "A classifier that cannot tell cells apart does not prove them alike: it looks at 20 components and at few cells.",
)


def _compare(study: GenerationStudy) -> Compared:
    """Draw held-out cells, let baselines make as many cells as the model, and keep the genes that all have."""
    model, generator = study.model, np.random.default_rng(study.seed)
    scored = [count.code for count in study.types if not count.reason]
    rows = np.sort(np.concatenate([_some_of(study.held_code_n == code, study.num_real, generator) for code in scored]))
    held_out = read_levels(model, study.held_out.read(rows), study.held_code_n[rows])
    made_rows = np.flatnonzero(np.isin(study.made.code_n, scored))
    made = LevelCells(study.made.level_ng[made_rows], study.made.code_n[made_rows])
    code_n = study.train_levels.code_n
    rows = np.sort(np.concatenate([_some_of(code_n == code, _TRAIN_CELLS, generator) for code in np.unique(code_n)]))
    batch = study.train.read(rows)
    methods, seconds = {model.family.title: made}, {model.family.title: study.seconds.get("making cells")}
    for name, baseline in GENERATION_BASELINES.items():
        start = time.perf_counter()
        cells = baseline.make(batch, code_n[rows], made.code_n, seed=study.seed)
        seconds[name] = time.perf_counter() - start
        methods[name] = read_levels(model, cells, made.code_n)
    column_k = _shared_columns(study)

    def over_shared(cells: LevelCells) -> LevelCells:
        return LevelCells(cells.level_ng[:, column_k], cells.code_n)

    return Compared(
        methods={name: over_shared(cells) for name, cells in methods.items()},
        train=over_shared(study.train_levels),
        held_out=over_shared(held_out),
        seconds=seconds,
        num_genes=len(column_k),
    )


def _some_of(is_in_n: np.ndarray, most: int, generator: np.random.Generator) -> np.ndarray:
    return generator.permutation(np.flatnonzero(is_in_n))[:most]


def _shared_columns(study: GenerationStudy) -> np.ndarray:
    """Return the columns of genes that both data sets hold: one that a data set lacks would look silent there."""
    ids = [cells.contract.genes.matched_ids for cells in (study.train, study.held_out)]
    column_k = np.flatnonzero(np.isin(study.model.vocab.ids(study.model.vocab.genes), np.intersect1d(*ids)))
    if len(column_k) < LEAST_GENES:
        raise ValueError(
            f"training and held-out cells share {len(column_k)} genes of the model's vocabulary, at least "
            f"{LEAST_GENES} are needed; were their genes named otherwise?"
        )
    return column_k


def _method(name: str, study: GenerationStudy, compared: Compared, scores: GenerationScores) -> Method:
    baseline = GENERATION_BASELINES.get(name)
    parts: dict[str, dict[str, Score]] = {}
    for row in scores.rows:
        if row.method != name or not math.isfinite(row.value):
            continue
        is_bounded = math.isfinite(row.low) and math.isfinite(row.high)
        parts.setdefault(row.cell_type, {})[row.metric] = Score(
            value=row.value,
            low=row.low if is_bounded else None,
            high=row.high if is_bounded else None,
            cells={"made": row.num_made, "real": row.num_real},
        )
    return Method(
        name=name,
        what=study.what if baseline is None else baseline.what,
        is_baseline=baseline is not None,
        scores=parts.pop(ALL_TYPES),
        parts=parts,
        bound=None if baseline is None or baseline.role == "baseline" else baseline.role,
        seconds=compared.seconds[name],
    )


def _infinite(scores: GenerationScores) -> list[str]:
    """Say which scores are not finite, and so not shown."""
    rows = [row for row in scores.rows if not math.isfinite(row.value)]
    what = "is not finite (a ratio to 0) and is left out."
    return [f"{row.metric} of {row.method} for {row.cell_type} {what}" for row in rows]


def _differences(methods: Sequence[Method], scores: GenerationScores) -> tuple[Difference, ...]:
    """Return the model's score minus that of every baseline that competes."""
    found = []
    for other in methods[1:]:
        if other.bound != "roof":
            value, low, high = scores.difference(methods[0].name, other.name, PRIMARY)
            pair = {"method": methods[0].name, "other": other.name, "metric": PRIMARY}
            found.append(Difference(**pair, value=value, low=low, high=high))
    return tuple(found)


def _interval_note(num_resamples: int) -> str:
    return (
        f"Each figure is the mean over types. 95 % intervals: percentile bootstrap over made and over held-out cells, "
        f"{num_resamples} resamples; the classifier is not trained again, so its interval is somewhat too narrow. They "
        "speak of other cells from the same model and the same source, not of another training or other donors."
    )


def _types(study: GenerationStudy, compared: Compared) -> Any:
    made = compared.methods[study.model.family.title]
    numbers = [
        {study.classes[code]: int((cells.code_n == code).sum()) for code in np.unique(cells.code_n)}
        for cells in (made, compared.held_out)
    ]
    return types_table(study.types, *numbers)


def _provenance(study: GenerationStudy) -> Provenance:
    return Provenance(
        versions=versions(),
        seed=study.seed,
        model_sha256=study.model.sha256(),
        split_sha256=study.split_sha256,
        data_sha256=cells_sha256(study.held_out),
        others={"training cells (SHA-256)": cells_sha256(study.train), **study.hashes},
    )
