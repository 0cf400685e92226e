"""Score made cells beside simple ways to make them, type by type, against real cells held out from training.

A family that writes sentences makes levels: 0 .. 10 relative to the cell's highest value, not counts. So real cells and
baselines are brought to the same levels by the model's own tokeniser (`cellwright.tokens.levels` binning of log1p
counts per 10,000), and nothing is compared on another scale: depth, and what levels cannot tell apart, is not scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from cellwright.baselines.generation import GENERATION_BASELINES
from cellwright.evaluate.generation_classifier import told_apart
from cellwright.metrics import (
    GENERATION_METRICS,
    Markers,
    choose_markers,
    nearest_distances,
    percentiles,
    resampled_scores,
)
from cellwright.tasks.generate import GeneratedCells
from cellwright.types import CellBatch, Draw

NUM_RESAMPLES = 1000
LEAST_CELLS = 10
"""Fewest made, and fewest real, cells of a type that are scored."""
ALL_TYPES = "(mean of types)"


@dataclass(frozen=True, slots=True, eq=False)
class LevelCells:
    """Cells as levels, with their types."""

    level_ng: sp.csr_matrix
    """Level / highest level, 0 .. 1; columns are the genes of the vocabulary."""
    code_n: np.ndarray
    """int64: type of each cell (for made ones the type asked for); -1 = not known, not scored."""

    def __post_init__(self):
        if self.code_n.shape != (self.level_ng.shape[0],) or self.code_n.dtype.kind not in "iu":
            raise ValueError(
                f"{self.level_ng.shape[0]} cells, but codes are {self.code_n.dtype} {self.code_n.shape}; "
                "one integer code a cell is needed"
            )
        value_z = self.level_ng.data
        if len(value_z) and not 0 <= value_z.min() <= value_z.max() <= 1:
            raise ValueError(f"levels run from {value_z.min()} to {value_z.max()}, not within 0 .. 1; see read_levels")

    def of_type(self, code: int) -> sp.csr_matrix:
        """Return the levels of the cells of one type."""
        return self.level_ng[np.flatnonzero(self.code_n == code)]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRow:
    """One score of one method for one type."""

    method: str
    cell_type: str
    """Name of the type, or `ALL_TYPES`."""
    metric: str
    value: float
    low: float
    high: float
    best: float
    num_made: int
    num_real: int
    """Held-out cells compared with."""

    def record(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GenerationScores:
    """All scores of some methods, with what comparisons between them need."""

    rows: list[GenerationRow]
    mean_r: Mapping[tuple[str, str], np.ndarray]
    """(method, metric) -> mean over types of each resample, ``[r]``; the same real cells are drawn for all methods."""

    def row(self, method: str, metric: str, cell_type: str = ALL_TYPES) -> GenerationRow:
        """Return one score."""
        wanted = (method, cell_type, metric)
        return next(row for row in self.rows if (row.method, row.cell_type, row.metric) == wanted)

    def difference(self, method: str, other: str, metric: str) -> tuple[float, float, float]:
        """Return the mean score of ``method`` minus that of ``other``, and its 95 % interval, lower end first."""
        value = self.row(method, metric).value - self.row(other, metric).value
        low, high = percentiles(self.mean_r[method, metric] - self.mean_r[other, metric])
        return value, min(low, value), max(high, value)


def read_levels(model: Any, cells: CellBatch, code_n: np.ndarray) -> LevelCells:
    """Bring cells to the levels that ``model`` reads and writes; no gene is left out for length.

    Raises
    ------
    ValueError
        When the family reads no levels.
    """
    if model.family.decoding != "autoregressive":
        raise ValueError(f"{model.family.title} reads no levels; use a family that writes sentences, such as scMulan")
    vocab = model.vocab
    column_v = np.full(len(vocab), -1)
    column_v[vocab.ids(vocab.genes)] = np.arange(len(vocab.genes))
    tokens = model.tokenizer(max_length=len(vocab.genes) + 1, gene_order="forward")(cells, Draw()).packed()
    column_t = column_v[tokens.gene_nt[0].numpy()]
    row_t = np.repeat(np.arange(len(cells)), tokens.layout.lengths)
    level_t = tokens.value_nt[0].numpy() / np.float32(model.network.num_levels)
    is_gene_t = column_t >= 0
    entries = (level_t[is_gene_t], (row_t[is_gene_t], column_t[is_gene_t]))
    level_ng = sp.csr_matrix(entries, shape=(len(cells), len(vocab.genes)), dtype=np.float32)
    return LevelCells(level_ng, np.asarray(code_n))


def made_levels(made: GeneratedCells, code_p: Sequence[int]) -> LevelCells:
    """Return cells that a model made, with the type code that each of its prompts asked for."""
    if len(code_p) <= made.prompt_n.max(initial=-1):
        raise ValueError(f"{len(code_p)} type codes for {made.prompt_n.max() + 1} prompts: one each is needed")
    return LevelCells(made.level_ng, np.asarray(code_p, np.int64)[made.prompt_n])


def baseline_levels(
    model: Any, train: CellBatch, code_n: np.ndarray, *, wanted_m: np.ndarray, seed: int
) -> dict[str, LevelCells]:
    """Let every baseline make cells of the types ``wanted_m`` from raw counts, and read them as ``model`` does.

    Floor and roof are among them: see `cellwright.baselines.generation.GENERATION_BASELINES`.
    """
    return {
        name: read_levels(model, baseline.make(train, code_n, wanted_m, seed=seed), wanted_m)
        for name, baseline in GENERATION_BASELINES.items()
    }


def score_generated(
    made: Mapping[str, LevelCells],
    train: LevelCells,
    held_out: LevelCells,
    *,
    classes: Sequence[str],
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
) -> list[GenerationRow]:
    """Score every method's cells against held-out real cells of the same type, with bootstrap intervals.

    Parameters
    ----------
    made
        Method -> its cells; as many of a type for each method makes intervals comparable.
    train
        Real cells that the methods learnt from: markers are chosen from them and copies looked for among them.
    held_out
        Real cells that no method has seen; from other donors where there are some, or what donors share is counted as
        quality.
    classes
        Names of the type codes. Types of ``held_out`` are scored; set codes to -1 to leave cells out.

    Returns
    -------
    One row for each method, type and metric of `cellwright.metrics.GENERATION_METRICS`, and one for the mean of types.

    Raises
    ------
    ValueError
        When a type has fewer than 10 held-out or made cells, no training cell, or matrices differ in genes.

    Notes
    -----
    Intervals are 95 %, percentile bootstrap over made and over held-out cells: they speak of other cells from the same
    model and the same source. The classifier is not trained again for each resample, so its interval is somewhat too
    narrow: between two samples of 60 cells of one law the score itself spreads by 0.06 around 0.48.
    """
    return score_methods(made, train, held_out, classes=classes, seed=seed, num_resamples=num_resamples).rows


def score_methods(
    made: Mapping[str, LevelCells],
    train: LevelCells,
    held_out: LevelCells,
    *,
    classes: Sequence[str],
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
) -> GenerationScores:
    """Score as `score_generated` does, and keep the resampled means, so that methods can be compared."""
    codes = _scored_codes(made, train, held_out, classes)
    rows, mean_r = [], {}
    references = {code: _reference(train, held_out, code) for code in codes}
    for method, cells in made.items():
        sizes = {code: (cells.of_type(code).shape[0], references[code].level_mg.shape[0]) for code in codes}
        by_metric: dict[str, list[tuple[float, np.ndarray]]] = {name: [] for name in GENERATION_METRICS}
        for code in codes:
            answers = _answers(cells.of_type(code), references[code], seed)
            for metric, arrays in answers.items():
                value = GENERATION_METRICS[metric].function(*arrays)
                value_r = resampled_scores(metric, *arrays, num_resamples=num_resamples, seed=seed + code)
                by_metric[metric].append((value, value_r))
        for metric, scores in by_metric.items():
            for code, score in zip(codes, scores, strict=True):
                rows.append(_row(method, classes[code], metric, score, sizes[code]))
            mean_r[method, metric] = np.mean([value_r for _, value_r in scores], axis=0)
            mean = (float(np.mean([value for value, _ in scores])), mean_r[method, metric])
            total = (sum(n for n, _ in sizes.values()), sum(m for _, m in sizes.values()))
            rows.append(_row(method, ALL_TYPES, metric, mean, total))
    return GenerationScores(rows=rows, mean_r=mean_r)


@dataclass(frozen=True, slots=True, eq=False)
class _Reference:
    """What the made cells of one type are held against."""

    level_mg: np.ndarray
    markers: Markers
    train_ng: sp.csr_matrix
    nearest_m: np.ndarray


def _reference(train: LevelCells, held_out: LevelCells, code: int) -> _Reference:
    level_mg = held_out.of_type(code).toarray().astype(np.float64)
    markers = choose_markers(train.level_ng, train.code_n, code)
    return _Reference(level_mg, markers, train.level_ng, nearest_distances(level_mg, train.level_ng))


def _answers(made_ng: sp.csr_matrix, real: _Reference, seed: int) -> dict[str, tuple[Any, ...]]:
    """Return what each metric takes."""
    made_ng = made_ng.toarray().astype(np.float64)
    detected = ((made_ng > 0).sum(1), (real.level_mg > 0).sum(1))
    nearest = (nearest_distances(made_ng, real.train_ng), real.nearest_m)
    return {
        "e_distance": (made_ng, real.level_mg),
        "mmd": (made_ng, real.level_mg),
        "c2st_auroc": told_apart(made_ng, real.level_mg, seed=seed),
        "marker_recall": (made_ng, real.markers),
        "detected_ratio": detected,
        "detected_difference": detected,
        "nearest_ratio": nearest,
        "copied_share": nearest,
    }


def _scored_codes(
    made: Mapping[str, LevelCells], train: LevelCells, held_out: LevelCells, classes: Sequence[str]
) -> list[int]:
    if not made:
        raise ValueError("no method's cells were given; there is nothing to score")
    widths = {"training": train.level_ng.shape[1], "held-out": held_out.level_ng.shape[1]}
    widths |= {name: cells.level_ng.shape[1] for name, cells in made.items()}
    if len(set(widths.values())) > 1:
        raise ValueError(f"matrices differ in their numbers of genes: {widths}; all need the model's vocabulary")
    codes = np.unique(held_out.code_n[held_out.code_n >= 0]).tolist()
    if not codes or codes[-1] >= len(classes):
        raise ValueError(f"held-out type codes are {codes}, there are {len(classes)} classes; at least one is needed")
    for code in codes:
        for name, cells in {"held-out": held_out, **made}.items():
            if (num := int((cells.code_n == code).sum())) < LEAST_CELLS:
                raise ValueError(
                    f"{classes[code]!r} has {num} {name} cells, at least {LEAST_CELLS} are needed; "
                    "make more, or leave the type out (held-out code -1)"
                )
        if not (train.code_n == code).any():
            raise ValueError(f"no training cell is {classes[code]!r}; leave the type out (held-out code -1)")
    return codes


def _row(
    method: str, cell_type: str, metric: str, score: tuple[float, np.ndarray], sizes: tuple[int, int]
) -> GenerationRow:
    value, (low, high) = score[0], percentiles(score[1])
    return GenerationRow(
        method=method,
        cell_type=cell_type,
        metric=metric,
        value=value,
        low=min(low, value),
        high=max(high, value),
        best=GENERATION_METRICS[metric].best,
        num_made=sizes[0],
        num_real=sizes[1],
    )
