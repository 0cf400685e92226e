"""Genes filled in step by step: in each of K steps the surest 1/K of the unknown genes join the known ones.

Source of the idea: scGPT (Cui et al., Nature Methods 21:1470, Methods "generation"), whose published code has no such
thing; the design is ours, see decision 0017. Known genes are the *prompt*, unknown ones ask (generative attention: an
unknown gene sees the prompt and itself). A gene that joins the prompt takes its predicted value along, rounded and
clamped to the bins there are; what is returned is the value as it was predicted then, neither rounded nor clamped, and
it is not predicted again. K = 1 is the plain pass.

Silent genes: a network that was trained with them (``inputs.genes = panel``) is given them as known, with value 0,
and a gene predicted to be 0 joins as such. One that was trained on expressed genes alone has never seen a 0: silent
genes stay out of its prompt, and what it fills in is at least 1, "if it is expressed".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from cellwright.config import Config
from cellwright.tasks.inference import InferenceOptions, by_length, choose_device, in_precision, in_use
from cellwright.tasks.known_genes import Question, first_tokens, is_fed_zeros
from cellwright.tasks.unmask_orders import Guess, Order, log_errors, order_of
from cellwright.types import Layout, TokenBatch


class UnmaskConfig(Config):
    """How unknown genes are filled in."""

    steps: int = Field(1, ge=1)
    """Steps K: in each, 1/K of the unknown genes join the known ones. 1 = all at once."""
    order: str = "confident"
    """Which join first: confident (smallest error expected by a trained head) | agreement | gate | random | fixed."""
    seed: int = Field(0, ge=0)
    """Of the random order."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FilledCells:
    """Cells with their unknown genes filled in; columns as in the question."""

    value_ng: np.ndarray
    """float32: known values as given, predicted ones as the network said them; NaN where a gene plays no part."""
    step_ng: np.ndarray
    """int16: the step in which a gene joined, 1 .. K; 0 = known before; -1 = plays no part."""
    error_ng: np.ndarray | None
    """float32: root of the squared error that the model expects of a predicted value, in its units; NaN elsewhere.
    ``None`` = it has no head for that."""
    least: float
    """Least value that a gene can take in the prompt: 0, or 1 where silent genes are none of the model's."""
    top: float | None
    """Largest such value; ``None`` = no bound."""

    def rounded(self) -> np.ndarray:
        """Return known values as given and predicted ones as they joined the prompt: float32 ``[n, g]``."""
        return np.where(self.step_ng > 0, joining(self.value_ng, self.least, self.top), self.value_ng)


def joining(value: np.ndarray, least: float, top: float | None) -> np.ndarray:
    """Return predicted values as they join the prompt: within bounds, and whole numbers where there are bins."""
    return np.maximum(value, least) if top is None else np.clip(np.rint(value), least, top)


def check_unmasks(model: Any, *, has_cell_prompt: bool = False) -> None:
    """Refuse a model that cannot fill in genes, or, as far as its own record says, was not trained to."""
    if model.family.decoding != "unmask":
        raise ValueError(f"{model.family.title} does not fill in unknown genes; use a family that does, such as scGPT")
    if "value_nt" not in model.network.produces:
        raise ValueError(f"{model.report.source} predicts no values, so it cannot fill in genes")
    objective = model.origin.get("pretraining", {}).get("recipe", {}).get("objective")
    if objective is None:
        return
    if objective["view"] != "generative_split":
        raise ValueError(
            f"{model.report.source} was trained with the view {objective['view']!r} and never on unknown genes; "
            "pre-train with generative_split"
        )
    if has_cell_prompt and not objective["terms"].get("prompted_value"):
        raise ValueError(
            f"{model.report.source} was never given a cell embedding in training; pre-train with the term "
            "prompted_value, or prompt with known genes"
        )


def unmask_cells(
    model: Any,
    question: Question,
    config: UnmaskConfig | None = None,
    *,
    order: Order | None = None,
    options: InferenceOptions | None = None,
) -> FilledCells:
    """Fill in the genes that are asked for.

    Parameters
    ----------
    model
        A `cellwright.models.Model` of a family that unmasks.
    question
        What is known and what is asked, see `cellwright.tasks.known_genes.ask`.
    config
        Steps and order. With one step nothing is ordered.
    order
        An order of your own, in the place of the one that ``config`` names.
    options
        Device, precision, minibatch size, and the most tokens a cell (``max_length``).

    Raises
    ------
    ValueError
        When the model cannot do it, has no head for the order, a cell has more tokens than the model takes, or a
        prediction is not finite.
    """
    config, options = config or UnmaskConfig(), options or InferenceOptions()
    check_unmasks(model, has_cell_prompt=question.cell_nd is not None)
    if order is None and config.steps > 1:
        order = order_of(config.order, model, seed=config.seed)
    first = first_tokens(model)
    num_tokens_n = len(first[0]) + _prompt(model, question).sum(1) + question.is_asked_ng.sum(1)
    _check_length(model, num_tokens_n, options)
    filling = _Filling(model, question, config.steps, order, first, options)
    head = log_errors(model)
    with in_use([model.network, *([head] if head is not None else [])], choose_device(options.device)):
        device = next(model.network.parameters()).device
        with tqdm(total=len(question), desc="unmask", unit="cell", disable=not options.progress, leave=False) as bar:
            for at_n in by_length(num_tokens_n, options, device):
                filling.fill(at_n, device)
                bar.update(len(at_n))
    return filling.result()


def _prompt(model: Any, question: Question) -> np.ndarray:
    """Return which genes are fed as known, bool ``[n, g]``: silent ones only to a model that was made for them."""
    return question.is_known_ng & ((question.value_ng > 0) | is_fed_zeros(model))


def _check_length(model: Any, num_tokens_n: np.ndarray, options: InferenceOptions) -> None:
    most = options.max_length or model.inputs.max_length or model.config.max_length
    if len(num_tokens_n) and num_tokens_n.max() > most:
        raise ValueError(
            f"cell {int(num_tokens_n.argmax())} has {int(num_tokens_n.max()):,} tokens, known and asked, and the model "
            f"takes {most:,}; ask for fewer genes (only), or raise max_length where it runs"
        )


class _Filling:
    """The state of all cells while their genes are filled in."""

    def __init__(
        self,
        model: Any,
        question: Question,
        steps: int,
        order: Order | None,
        first: tuple[np.ndarray, np.ndarray],
        options: InferenceOptions,
    ):
        self.model, self.question, self.steps, self.order, self.first = model, question, steps, order, first
        self.options, self.head = options, log_errors(model)
        num_bins = getattr(model.config, "num_bins", None)
        self.least, self.top = (0.0 if is_fed_zeros(model) else 1.0), (None if num_bins is None else num_bins - 1.0)
        self.is_prompt_ng = _prompt(model, question)
        self.value_ng = np.where(question.is_known_ng, question.value_ng, np.float32(np.nan))
        self.step_ng = np.where(question.is_known_ng, 0, -1).astype(np.int16)
        self.error_ng = None if self.head is None else np.full(self.value_ng.shape, np.nan, np.float32)
        self.outputs = {"value_nt"} | (set() if order is None else set(order.outputs))

    def fill(self, at_n: np.ndarray, device: torch.device) -> None:
        """Fill in the genes of these cells."""
        asked = self.question
        # indexing by positions copies, so that what was asked stays as it is
        is_open_ng, is_prompt_ng, fed_ng = asked.is_asked_ng[at_n], self.is_prompt_ng[at_n], asked.value_ng[at_n]
        num_asked_n = is_open_ng.sum(1)
        for step in range(1, self.steps + 1):
            if not is_open_ng.any():
                return
            guess = self._guess(at_n, fed_ng, is_prompt_ng, is_open_ng, device)
            # so many of each cell are known after this step
            num_joining_n = np.ceil(num_asked_n * step / self.steps).astype(int) - (num_asked_n - is_open_ng.sum(1))
            joins_u = self._first(guess, at_n, num_joining_n, is_last=step == self.steps)
            value_u = guess.value_u.cpu().numpy()[joins_u]
            cell_u, column_u = guess.cell_u[joins_u], guess.column_u[joins_u]
            self.value_ng[cell_u, column_u], self.step_ng[cell_u, column_u] = value_u, step
            if self.error_ng is not None:
                self.error_ng[cell_u, column_u] = torch.exp(guess.log_error_u / 2).cpu().numpy()[joins_u]
            place_n = np.empty(len(asked), np.int64)
            place_n[at_n] = np.arange(len(at_n))
            own = place_n[cell_u], column_u
            fed_ng[own] = joining(value_u, self.least, self.top)
            is_open_ng[own], is_prompt_ng[own] = False, True

    def _first(self, guess: Guess, at_n: np.ndarray, num_joining_n: np.ndarray, *, is_last: bool) -> np.ndarray:
        """Return which unknown genes join, bool ``[u]``: the first so many of each cell in the order."""
        if is_last:
            return np.ones(len(guess.cell_u), bool)
        rank_u = self.order.rank(guess)
        rank_u = np.asarray(rank_u.cpu().numpy() if isinstance(rank_u, Tensor) else rank_u, np.float64)
        quota_n = np.zeros(len(self.question), np.int64)
        quota_n[at_n] = num_joining_n
        begin_n = np.zeros(len(self.question), np.int64)  # unknown genes are sorted by cell
        cell_k, first_k = np.unique(guess.cell_u, return_index=True)
        begin_n[cell_k] = first_k
        # unknown genes of equal rank stay in the order of their ids
        order_u = np.lexsort((np.arange(len(rank_u)), -rank_u, _dense(guess.cell_u)))
        place_u = np.empty(len(rank_u), np.int64)
        place_u[order_u] = np.arange(len(rank_u))
        return place_u - begin_n[guess.cell_u] < quota_n[guess.cell_u]

    def _guess(
        self,
        at_n: np.ndarray,
        fed_ng: np.ndarray,
        is_prompt_ng: np.ndarray,
        is_open_ng: np.ndarray,
        device: torch.device,
    ) -> Guess:
        tokens, (cell_u, column_u) = self._tokens(at_n, fed_ng, is_prompt_ng, is_open_ng)
        tokens = tokens.to(device)
        with in_precision(self.options, device):
            out = self.model.network(tokens, self.outputs)
        is_unknown_nt = ~tokens.layout.is_prompt_nt(device) & ~tokens.layout.is_pad_nt(device)

        def at_unknown(x_nt: Tensor | None) -> Tensor | None:
            return None if x_nt is None else x_nt[is_unknown_nt].float()

        value_u = at_unknown(out.value_nt)
        if not torch.isfinite(value_u).all():
            raise ValueError("a predicted value is not finite; the checkpoint is damaged or precision too low")
        return Guess(
            cell_u=at_n[cell_u],
            column_u=column_u,
            row_u=self.question.row_n[at_n[cell_u]],
            value_u=value_u,
            cell_value_u=at_unknown(out.cell_value_nt),
            expressed_u=at_unknown(out.expressed_nt),
            log_error_u=None if self.head is None else self.head(at_unknown(out.hidden_ntd)),
        )

    def _tokens(
        self, at_n: np.ndarray, fed_ng: np.ndarray, is_prompt_ng: np.ndarray, is_open_ng: np.ndarray
    ) -> tuple[TokenBatch, tuple[np.ndarray, np.ndarray]]:
        """Lay out first tokens, prompt and unknown genes of each cell; genes by id within both."""
        first_id, first_value = self.first
        num_first, gene_ids = len(first_id), self.question.gene_ids
        (prompt_cell, prompt_column), unknown = np.nonzero(is_prompt_ng), np.nonzero(is_open_ng)
        prompt_n = num_first + is_prompt_ng.sum(1)
        length_n = prompt_n + is_open_ng.sum(1)
        start_n = np.cumsum(length_n) - length_n
        gene_t, value_t = np.empty(length_n.sum(), np.int64), np.zeros(length_n.sum(), np.float32)
        for i in range(num_first):
            gene_t[start_n + i], value_t[start_n + i] = first_id[i], first_value[i]
        at_prompt = start_n[prompt_cell] + num_first + _within(is_prompt_ng)
        gene_t[at_prompt], value_t[at_prompt] = gene_ids[prompt_column], fed_ng[prompt_cell, prompt_column]
        at_unknown = (start_n + prompt_n)[unknown[0]] + _within(is_open_ng)
        gene_t[at_unknown] = gene_ids[unknown[1]]
        is_hidden_t = np.zeros(len(gene_t), bool)
        is_hidden_t[at_unknown] = True
        cell_nd = self.question.cell_nd
        tokens = TokenBatch(
            gene_nt=torch.from_numpy(gene_t)[None],
            value_nt=torch.from_numpy(value_t)[None],
            is_hidden_nt=torch.from_numpy(is_hidden_t)[None],
            layout=Layout(tuple(length_n.tolist()), None, tuple(prompt_n.tolist())),
            cell_nd=None if cell_nd is None else torch.from_numpy(np.ascontiguousarray(cell_nd[at_n], np.float32)),
        )
        if self.model.network.needs_padding:
            tokens = tokens.padded(self.model.vocab.special_id("pad"))
        return tokens, unknown

    def result(self) -> FilledCells:
        """Return what was filled in."""
        return FilledCells(
            value_ng=self.value_ng, step_ng=self.step_ng, error_ng=self.error_ng, least=self.least, top=self.top
        )


def _within(is_there_ng: np.ndarray) -> np.ndarray:
    """Return for each True, row by row, its place among those of its row."""
    return (np.cumsum(is_there_ng, axis=1) - 1)[is_there_ng]


def _dense(cell_u: np.ndarray) -> np.ndarray:
    """Return codes that ascend in the order in which cells stand."""
    return np.cumsum(np.diff(cell_u, prepend=cell_u[:1]) != 0)
