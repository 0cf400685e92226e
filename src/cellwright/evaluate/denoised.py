"""Cells thinned to several depths, and the scores of what a model and simple ways to denoise answer for them.

Resamples are the same for all methods and depths, so that differences are paired and means over depths have intervals.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cellwright.data.cells import Cells
from cellwright.data.depths import listed_totals
from cellwright.data.joined import JoinedCells
from cellwright.data.splits import label_codes
from cellwright.evaluate.denoising import NUM_RESAMPLES, Drawn, draw_scores
from cellwright.evaluate.depth_cases import ROOF, DepthCase, ThinnedCells, baseline_answer, drawn_again, recounted
from cellwright.tasks.denoise import answered_ids, denoise_cells
from cellwright.tasks.inference import InferenceOptions
from cellwright.tokens import DepthTarget
from cellwright.types import CellBatch

LEAST_CELLS = 10
LEAST_GENES = 10
LEAST_GROUPS = 5
"""Donors below which cells are resampled."""
_TRAIN_CELLS = 5000
"""Most training cells that baselines learn from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DenoisingStudy:
    """Which cells are thinned, how far, and what the model stands beside."""

    model: Any
    source: Cells
    """Deep query cells, raw counts."""
    train: Cells | JoinedCells | None = None
    """Deep cells that baselines learn from; without them baselines know the thinned query cells alone. A report
    (`evaluate_denoising`) is made beside cells of one file."""
    label: str | None = None
    """Column of obs with cell types, for clusters; ``None`` = clusters of the deep cells take their place."""
    group: str | None = None
    """Column of obs with donors or studies, for intervals."""
    shares: Sequence[float] = (0.01, 0.05, 0.1, 0.2)
    """Parts of the molecules that are kept."""
    further: Sequence[str] = ()
    """Baselines that need a package, to be run too."""
    num_cells: int = 400
    """Most query cells, drawn at random."""
    num_resamples: int = NUM_RESAMPLES
    seed: int = 0
    hashes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Denoised:
    """Scores of all methods at all depths, and what they cost."""

    model_name: str
    cases: tuple[DepthCase, ...]
    drawn: tuple[dict[str, dict[str, Drawn]], ...]
    """For each case: method -> metric -> score."""
    seconds: dict[str, float]
    """Method -> wall time of all its answers."""
    num_empty: tuple[int, ...]
    """For each case: cells without any molecule left, for which the model has no answer."""


def query_cells(study: DenoisingStudy) -> Cells:
    """Return the cells that are thinned: some that hold molecules of the model's genes."""
    if study.source.state != "raw":
        raise ValueError(f"read depth is thinned in raw counts, but the cells are {study.source.state}")
    rows = np.flatnonzero(listed_totals(study.source) > 0)
    if len(rows) < LEAST_CELLS:
        raise ValueError(
            f"{len(rows)} of {len(study.source)} cells hold molecules of the model's genes; at least {LEAST_CELLS} are "
            "needed"
        )
    rows = np.random.default_rng(study.seed).permutation(rows)[: study.num_cells]
    return study.source.select(np.sort(rows))


def _training(study: DenoisingStudy) -> CellBatch | None:
    if study.train is None:
        return None
    rows = np.random.default_rng([study.seed, 1]).permutation(len(study.train))[:_TRAIN_CELLS]
    return recounted(study.train.read(np.sort(rows)), study.model.tokenizer())


def answer_depths(study: DenoisingStudy, query: Cells, names: Sequence[str], run: InferenceOptions) -> Denoised:
    """Let every method answer at every depth; answers are scored and let go, depth by depth."""
    model, train = study.model, _training(study)
    name, tokenize = model.family.title, model.tokenizer()
    gene_ids = _scored_genes(study)
    deep = recounted(query.read(np.arange(len(query))), tokenize)
    label_n = None if study.label is None else label_codes(query.obs, study.label)[0]
    cases, drawn, empty, seconds = [], [], [], dict.fromkeys((name, *names), 0.0)
    for share in study.shares:
        thinned = ThinnedCells(query, share, seed=study.seed)
        shallow = recounted(thinned.read(np.arange(len(thinned))), tokenize)
        if (num := int((shallow.total_n > 0).sum())) < LEAST_CELLS:
            raise ValueError(
                f"with {100 * share:g} % of their molecules {num} of {len(query)} cells have any left, at least "
                f"{LEAST_CELLS} are needed; keep a larger part"
            )
        case = DepthCase(
            share=share, deep=deep, shallow=shallow, gene_ids=gene_ids, label_n=label_n,
            groups_n=groups_of(study, query),
        )  # fmt: skip
        start = time.perf_counter()
        value_ng = denoise_cells(
            model, thinned, DepthTarget("fold", 1 / share), gene_ids=gene_ids, options=run
        ).value_ng
        seconds[name] += time.perf_counter() - start
        empty.append(int(np.isnan(value_ng).any(axis=1).sum()))
        answers = {name: np.nan_to_num(value_ng, nan=0.0)}
        for other in names:
            start = time.perf_counter()
            answers[other] = baseline_answer(other, train, case, seed=study.seed)
            seconds[other] += time.perf_counter() - start
        answers[ROOF] = drawn_again(deep, gene_ids, seed=study.seed)
        known = shallow if train is None else train
        background_g = np.bincount(known.gene_z, weights=known.value_z, minlength=len(model.vocab))[gene_ids]
        drawn.append(draw_scores(answers, case, background_g, seed=study.seed, num_resamples=study.num_resamples))
        cases.append(case)
    return Denoised(model_name=name, cases=tuple(cases), drawn=tuple(drawn), seconds=seconds, num_empty=tuple(empty))


def _scored_genes(study: DenoisingStudy) -> np.ndarray:
    """Return the genes that the model answers for and the cells were measured for."""
    trained = study.train.parts if isinstance(study.train, JoinedCells) else (study.train,)
    sources = [cells for cells in (study.source, *trained) if cells is not None]
    gene_ids = answered_ids(study.model)
    for cells in sources:
        gene_ids = np.intersect1d(gene_ids, cells.contract.genes.matched_ids)
    if len(gene_ids) < LEAST_GENES:
        raise ValueError(
            f"{len(gene_ids)} genes are the model's and in all cells, at least {LEAST_GENES} are needed; were genes "
            "named otherwise?"
        )
    return gene_ids


def groups_of(study: DenoisingStudy, query: Cells) -> np.ndarray | None:
    """Return the donors whose cells are resampled together; ``None`` = too few, cells are resampled."""
    if study.group is None:
        return None
    code_n = label_codes(query.obs, study.group)[0]
    return code_n if len(np.unique(code_n)) >= LEAST_GROUPS else None
