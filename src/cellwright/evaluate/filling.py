"""Score unknown genes that were filled in step by step, by several orders, beside simple ways to fill them in.

All methods are given the same known genes of the same held-out cells and answer for the same unknown ones. The one pass
(K = 1) is the model as it is; every order of K > 1 steps is held against it, since steps cost K times as much. The
floor is the mean of the training cells. The roof orders genes by their true error, which no method knows: what choosing
well could gain. It is no strict bound, for it looks one step ahead, and it can lie above one pass: a predicted value is
made from the prompt and adds nothing to it but its error.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from cellwright.baselines.filling import FILLING_BASELINES, FillingCase
from cellwright.data.cells import Cells
from cellwright.metrics import FILLED_METRICS, percentiles
from cellwright.tasks.inference import InferenceOptions
from cellwright.tasks.known_genes import Question, ask, cell_prompts, draw_known, fed_ids, is_fed_zeros
from cellwright.tasks.unmask import FilledCells, UnmaskConfig, unmask_cells
from cellwright.tasks.unmask_orders import ORDERS, Order, by_gene, by_truth, order_of

PRIMARY = "filled_mse"
ONE_PASS, ROOF, BY_MEAN = "one pass", "oracle", "by mean"
Start = Literal["genes", "embedding", "type"]
STARTS: Mapping[Start, str] = {
    "genes": "a random part of each cell's genes",
    "embedding": "the embedding of the whole cell, as the model makes it, and no gene",
    "type": "the mean embedding of the training cells of the cell's type, and no gene",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FillingStudy:
    """A model, cells, and how unknown genes are filled in."""

    model: Any
    train: Cells
    held_out: Cells
    train_label_m: np.ndarray | None = None
    """Type codes of the training cells, -1 = not known."""
    label_n: np.ndarray | None = None
    """Types of the held-out cells, by the same codes."""
    groups_n: np.ndarray | None = None
    """Donor or study codes of the held-out cells, for intervals; ``None`` = cells are drawn."""
    start: Start = "genes"
    known_fraction: float = 0.5
    """Part of the genes that is known, of the start from genes."""
    steps: tuple[int, ...] = (2, 3, 4, 8)
    shown: int = 3
    """Steps of the comparison; the others are in the tables and the figure."""
    orders: tuple[str, ...] = ()
    """Names of `cellwright.tasks.unmask_orders.ORDERS`; empty = all that the model can give."""
    num_resamples: int = 1000
    seed: int = 0
    run: InferenceOptions = field(default_factory=InferenceOptions)

    def __post_init__(self):
        if self.shown not in self.steps or min(self.steps) < 2 or len(set(self.steps)) < len(self.steps):
            raise ValueError(
                f"steps = {', '.join(map(str, self.steps))}: numbers above 1, each once, with {self.shown} (shown)"
            )
        if self.start == "type" and (self.label_n is None or self.train_label_m is None):
            raise ValueError("a start from the type needs the types of both sets of cells; name their column (label)")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FilledAnswers:
    """What all methods filled in, and what is true."""

    question: Question
    truth_ng: np.ndarray
    is_scored_ng: np.ndarray
    one_pass: FilledCells
    stepped: Mapping[tuple[str, int], FilledCells]
    """(order, steps) -> what it came to."""
    baselines: Mapping[str, np.ndarray]
    order_words: Mapping[str, str]
    seconds: Mapping[str, float]

    def value_of(self, name: str, steps: int) -> np.ndarray:
        """Return an order's values within the bounds of values, float ``[n, g]``; one step is the one pass."""
        filled = self.one_pass if steps == 1 else self.stepped[name, steps]
        return np.clip(filled.value_ng, 0, filled.top)


def fill_all(study: FillingStudy) -> FilledAnswers:
    """Let the model by every order and every baseline fill in the unknown genes of the held-out cells."""
    model, run, gene_ids = study.model, study.run, fed_ids(study.model)
    everything_ng = np.ones((len(study.held_out), len(gene_ids)), bool)
    truth_ng = ask(model, study.held_out, everything_ng, gene_ids=gene_ids, options=run).value_ng
    train = ask(model, study.train, np.ones((len(study.train), len(gene_ids)), bool), gene_ids=gene_ids, options=run)
    question = _question(study, gene_ids, truth_ng)
    seconds: dict[str, float] = {}
    one_pass = _timed(seconds, ONE_PASS, lambda: unmask_cells(model, question, options=run))
    case = FillingCase(
        train_mg=train.value_ng.astype(np.float64),
        value_ng=question.value_ng.astype(np.float64),
        is_known_ng=question.is_known_ng,
        train_label_m=study.train_label_m,
        label_n=study.label_n,
        has_zeros=is_fed_zeros(model),
        seed=study.seed,
    )
    orders = _orders(study, truth_ng, case.mean_g)
    stepped = {}
    for name, order in orders.items():
        for steps in study.steps:
            config = UnmaskConfig(steps=steps, seed=study.seed)
            key = f"{name}, {steps} steps"
            stepped[name, steps] = _timed(
                seconds, key, lambda o=order, c=config: unmask_cells(model, question, c, order=o, options=run)
            )
    baselines = {
        name: _timed(seconds, name, lambda b=baseline: b.fill(case))
        for name, baseline in FILLING_BASELINES.items()
        if baseline.can_run(case)
    }
    return FilledAnswers(
        question=question,
        truth_ng=truth_ng,
        is_scored_ng=question.is_asked_ng,
        one_pass=one_pass,
        stepped=stepped,
        baselines=baselines,
        order_words={name: order.what for name, order in orders.items()},
        seconds=seconds,
    )


def _timed(seconds: dict[str, float], name: str, work: Any) -> Any:
    begin = time.perf_counter()
    found = work()
    seconds[name] = time.perf_counter() - begin
    return found


def _question(study: FillingStudy, gene_ids: np.ndarray, truth_ng: np.ndarray) -> Question:
    """Ask for the unknown genes; those that a cell expresses, of a model that knows no others."""
    model, held_out, shape = study.model, study.held_out, truth_ng.shape
    is_there_ng = np.ones(shape, bool) if is_fed_zeros(model) else truth_ng > 0
    fraction = study.known_fraction if study.start == "genes" else 0.0
    is_known_ng = draw_known(*shape, fraction, seed=study.seed)
    cell_nd = None
    if study.start == "embedding":
        cell_nd = cell_prompts(model, held_out, study.run)
    elif study.start == "type":
        cell_nd = _type_prompts(study)
    return ask(
        model,
        held_out,
        is_known_ng,
        gene_ids=gene_ids,
        is_asked_ng=~is_known_ng & is_there_ng,
        cell_nd=cell_nd,
        options=study.run,
    )


def _type_prompts(study: FillingStudy) -> np.ndarray:
    """Return the mean embedding of each held-out cell's type over the training cells."""
    train_md = cell_prompts(study.model, study.train, study.run)
    prompt_nd = np.repeat(train_md.mean(0, keepdims=True), len(study.held_out), axis=0)
    for code in np.unique(study.label_n[study.label_n >= 0]):
        is_own_m = study.train_label_m == code
        if is_own_m.any():
            prompt_nd[study.label_n == code] = train_md[is_own_m].mean(0)
    return prompt_nd


def _orders(study: FillingStudy, truth_ng: np.ndarray, mean_g: np.ndarray) -> dict[str, Order]:
    """Return the orders that are compared; without names, those that the model can give."""
    found = {}
    for name in study.orders or ORDERS:
        try:
            found[name] = order_of(name, study.model, seed=study.seed)
        except ValueError:
            if study.orders:
                raise
    found[BY_MEAN] = by_gene(mean_g, "genes of the highest mean in training cells first")
    return found | {ROOF: by_truth(truth_ng)}


class Scores:
    """Scores of values with intervals over the same resamples of cells, so that differences are paired."""

    def __init__(self, answers: FilledAnswers, study: FillingStudy):
        self.truth_ng, self.is_scored_ng = answers.truth_ng, answers.is_scored_ng
        self.num_cells, self.num_values = len(answers.truth_ng), int(answers.is_scored_ng.sum())
        generator = np.random.default_rng(study.seed)
        unit_n = np.arange(self.num_cells)
        if study.groups_n is not None:
            unit_n = np.unique(study.groups_n, return_inverse=True)[1]
        num = int(unit_n.max()) + 1
        self.count_rn = generator.multinomial(num, np.full(num, 1 / num), study.num_resamples)[:, unit_n].astype(float)

    def of(self, value_ng: np.ndarray) -> dict[str, tuple[float, np.ndarray]]:
        """Return metric -> score and its resamples ``[r]``."""
        found = {}
        for name, metric in FILLED_METRICS.items():
            parts = metric.function.prepare(value_ng, self.truth_ng, self.is_scored_ng)
            whole = metric.function.finish(parts, np.ones((1, self.num_cells)))[0]
            found[name] = float(whole), metric.function.finish(parts, self.count_rn)
        return found


def interval(value: float, value_r: np.ndarray) -> tuple[float, float]:
    """Return the middle 95 % of resamples, widened to hold the value itself."""
    low, high = percentiles(value_r)
    return min(low, value), max(high, value)


def error_deciles(answers: FilledAnswers, num: int = 10) -> list[tuple[float, float, float]]:
    """Return for tenths of the one pass's unknown genes, surest first: expected error, true error, MSE up to there.

    Errors are roots of mean squares. Empty where the model does not say what to expect.
    """
    filled, at = answers.one_pass, answers.is_scored_ng
    if filled.error_ng is None:
        return []
    expected_u = filled.error_ng[at].astype(np.float64)
    squared_u = (answers.value_of(ONE_PASS, 1)[at] - answers.truth_ng[at]) ** 2
    order_u = np.argsort(expected_u, kind="stable")
    found, seen = [], 0
    for part_u in np.array_split(order_u, num):
        if len(part_u):
            seen += len(part_u)
            expected = float(np.sqrt(np.mean(expected_u[part_u] ** 2)))
            true = float(np.sqrt(squared_u[part_u].mean()))
            found.append((expected, true, float(squared_u[order_u[:seen]].mean())))
    return found


def certainty_correlation(answers: FilledAnswers) -> float | None:
    """Return the rank correlation of expected and true absolute errors of the one pass; ``None`` = no head."""
    from scipy.stats import spearmanr

    filled, at = answers.one_pass, answers.is_scored_ng
    if filled.error_ng is None:
        return None
    error_u = np.abs(answers.value_of(ONE_PASS, 1)[at] - answers.truth_ng[at])
    return float(spearmanr(filled.error_ng[at], error_u).statistic)


def method_names(answers: FilledAnswers) -> Sequence[str]:
    """Return the orders in the order of the report."""
    return tuple(answers.order_words)
