"""A cell model that is fine-tuned to turn control cells into perturbed ones, gene by gene.

Each perturbed cell is paired with a control of its context and sequencing batch; the network sees the control's log
values with a flag at what is perturbed, and answers every gene's value after it (masked MSE over all genes fed). A
prediction is the mean over control cells.

Source: scGPT's perturbation model (Cui et al., Nature Methods 2024; published tutorial and ``generation_model.py``).
What differs is told in `cellwright.tasks.perturb_tokens` and here: genes are predicted in random parts of bounded size
(published: all at once, which ends in memory at 20,000), what is not fed stays as it is (published: 0), nothing is
sampled, and when to stop is chosen by the error of effects of validation profiles (published: Pearson of profiles).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from scipy import sparse
from torch import Tensor

from cellwright.baselines.perturbation import Asked, Profiles
from cellwright.config import Config
from cellwright.data.pairs import pair_controls
from cellwright.nn.lora import LoraConfig
from cellwright.objectives.value import MaskedValue, ZeroGate
from cellwright.tasks.inference import choose_device, in_use
from cellwright.tasks.lessons import Lesson
from cellwright.tasks.perturb import Predicted
from cellwright.tasks.perturb_tokens import Feed, Parts
from cellwright.tasks.perturb_weights import keep_norms, opened_weights
from cellwright.types import ModelOutput, Targets

ANSWERS = frozenset({"value_nt", "expressed_nt"})
ADAPTED = {"value_head": "affine", "num_conditions": 3, "condition_pad": 0}
"""What the architecture of a pre-trained network must become; 0 = untouched, whose row is zero, 1 and 2 = perturbed."""
_KEPT_VALUES = 25_000_000
"""Most values of predicted cells that are kept: 100 MB. Where that is fewer than 20 cells each, none are."""
_FEWEST_CELLS = 20


class CellPerturbConfig(Config):
    """How a network is fine-tuned to predict perturbed cells, and run."""

    mode: Literal["full", "lora", "probe", "blocks", "scratch"] = "full"
    """full: all weights. lora: low-rank changes, folded in at the end, and what is new. probe: what is new alone: the
    affine head, the condition flags, words of perturbations. blocks: that, and some transformer blocks. scratch: all
    weights, newly drawn."""
    lora: LoraConfig = LoraConfig()
    """Used by mode lora."""
    blocks: tuple[int, ...] = (-2,)
    """Blocks that mode blocks trains beside what is new, counted from 0, or back from -1."""
    max_genes: int = Field(1536, ge=1)
    """Most panel genes fed at once, drawn at random, those perturbed always among them (published: 1,536 in training,
    all in prediction)."""
    value_scale: float = Field(1.0, gt=0)
    """What log values are multiplied by where they are fed (published: 1; bins of pre-training reach 50)."""
    flag: Literal[1, 2] = 1
    """Condition of perturbed genes: 1 as published; 2 for a screen of the other direction (activation)."""
    control_pairs: bool = True
    """Also train on controls that stay as they are, as a condition among the others (as GEARS data do)."""
    batch_size: int = Field(64, ge=1)
    """Pairs a step."""
    cells_per_profile: int | None = Field(None, ge=1)
    """Most cells of a profile in a pass, drawn anew in each; unset = all."""
    lr: float = Field(1e-4, gt=0)
    """Learning rate (published: 1e-4); small networks want a higher one."""
    decay_per_epoch: float = Field(0.9, gt=0, le=1)
    """Factor of the learning rate a pass."""
    max_epochs: int = Field(15, ge=1)
    """Passes over the pairs."""
    patience: int = Field(10, ge=1)
    """Passes without a better validation error after which training stops."""
    pool: int = Field(300, ge=1)
    """Control cells that a prediction is the mean over (published: 300)."""
    valid_pool: int = Field(64, ge=1)
    """The same in validation."""
    cells_kept: int = Field(100, ge=0)
    """Most predicted cells that are kept of each profile, for comparison with real ones; fewer where genes are many."""
    max_tokens: int = Field(32768, ge=1)
    """Most tokens at once in prediction; bounds memory, changes nothing."""
    device: str = "auto"
    """Where to train and predict: auto | cpu | cuda | mps."""
    seed: int | None = Field(None, ge=0)
    """Of training; unset = that of the screen, which decides what is held out and how it is scored too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellPerturb:
    """The fine-tuned cell model (a `PerturbModel`)."""

    model: Any
    """A `cellwright.models.Model` with value answers and condition flags; it is not changed."""
    name: str = "cells"
    what: str = "cell model fine-tuned to turn controls into perturbed cells"
    config: CellPerturbConfig = CellPerturbConfig()
    new_rows: Mapping[str, int] = field(default_factory=dict)
    """Tensors of the network with numbers that no training has seen -> the first row that has them: trained in modes
    probe and lora too, beside `cellwright.tasks.perturb_weights.NEW_PARTS`."""
    history: dict[int, list[dict[str, float]]] = field(default_factory=dict)
    """Lesson number -> errors after each pass, filled in by `fit`; for looking at."""

    def fit(self, lesson: Lesson) -> FittedCells:
        """Learn a lesson. The same lesson and seed give the same model on one machine."""
        lesson = lesson.trained_by(self.config.seed)
        tuned = self.model.fresh(lesson.seed) if self.config.mode == "scratch" else self.model.copy()
        if self.config.mode == "scratch":
            begin_unchanged(tuned.network)
        feed = Feed(tuned, lesson.genes, self.config.flag)
        if not any(feed.is_known(parts) for parts in lesson.train.asked.parts):
            raise ValueError(
                f"{tuned.report.source} knows none of what is perturbed in training "
                f"({', '.join(sorted({p for parts in lesson.train.asked.parts for p in parts})[:3])}, ...); "
                "extend its vocabulary by these names"
            )
        fitted = FittedCells(feed=feed, config=self.config, seed=lesson.seed, **_pools(lesson, self.config.pool))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(lesson.seed)
            how = {"lora": self.config.lora, "blocks": self.config.blocks, "seed": lesson.seed}
            with opened_weights(tuned.network, self.config.mode, self.new_rows, **how) as num_trained:
                fitted.num_trained = num_trained
                self.history[len(self.history)] = _train(fitted, lesson)
        return fitted


def begin_unchanged(network: Any) -> None:
    """Let a newly drawn affine head answer each value as it is, so that training begins at no change."""
    head = getattr(network, "value_head", None)
    if hasattr(head, "begin_unchanged"):
        head.begin_unchanged()


@dataclass(slots=True, kw_only=True, eq=False)
class FittedCells:
    """A network that has learnt a lesson (a `FittedPerturb`), and the controls that it starts from."""

    feed: Feed
    config: CellPerturbConfig
    seed: int
    control_cg: sparse.csr_matrix
    """Log expression of the controls of every context, at most ``pool`` each."""
    context_c: np.ndarray
    """int64: context of each of them."""
    num_trained: int = 0
    """Parameters that were trained."""

    def predict(self, asked: Asked) -> Predicted:
        """Predict effects and cells, a few tokens at a time; the same every time.

        A gene that the network does not know is left as it is; so is everything where nothing of what is perturbed is
        known to it. A context without controls starts from the mean that was asked with.
        """
        effect_ug = np.zeros(asked.control_ug.shape)
        num_kept = min(self.config.cells_kept, _KEPT_VALUES // max(effect_ug.size, 1))
        cells: dict[int, np.ndarray] = {}
        with in_use([self.feed.model.network], choose_device(self.config.device)):
            for u, parts in enumerate(asked.parts):
                if not self.feed.is_known(parts):
                    continue
                start_ng = self._starts(asked, u, self.config.pool)
                made_ng = self.predict_cells(start_ng, parts)
                fed = self.feed.fed_k
                effect_ug[u, fed] = made_ng[:, fed].mean(0, dtype=np.float64) - asked.control_ug[u, fed]
                if num_kept >= _FEWEST_CELLS:
                    cells[u] = np.maximum(made_ng[:num_kept], 0)
        return Predicted(effect_ug, cells)

    def effects(self, asked: Asked, pool: int) -> np.ndarray:
        """Return effects alone, over fewer cells, ``[u, g]``; for choosing."""
        few = copy.copy(self)
        few.config = self.config.model_copy(update={"pool": pool, "cells_kept": 0})
        return few.predict(asked).effect_ug

    def _starts(self, asked: Asked, u: int, pool: int) -> np.ndarray:
        rows = np.flatnonzero(self.context_c == asked.context_u[u])[:pool]
        return self.control_cg[rows].toarray() if len(rows) else asked.control_ug[[u]].astype(np.float32)

    def predict_cells(self, start_ng: np.ndarray, parts: Parts) -> np.ndarray:
        """Return what these cells (log expression of the panel) would be like, float32 ``[n, g]``.

        Genes go through the network in random parts of ``max_genes``, the same ones every time, what is perturbed in
        each. The network must be in evaluation mode; see `cellwright.tasks.inference.in_use`.
        """
        made_ng = np.array(start_ng, np.float32)
        device = next(self.feed.model.network.parameters()).device
        for columns_k, is_native_k in self._chunks(parts):
            step = max(1, self.config.max_tokens // (len(columns_k) + len(parts)))
            for first in range(0, len(start_ng), step):
                some = slice(first, first + step)
                value_nk = np.asarray(start_ng[some][:, columns_k], np.float32) * self.config.value_scale
                out = self.run(value_nk, columns_k, [parts] * len(value_nk), device)
                said_nk = _expected(out)[:, : len(columns_k)].float().cpu().numpy()
                made_ng[some, columns_k[is_native_k]] = said_nk[:, is_native_k] / self.config.value_scale
        return made_ng

    def run(self, value_nk: np.ndarray, columns_k: np.ndarray, parts_n: Sequence[Parts], device: Any) -> ModelOutput:
        """Run the network; answers are padded, the first ``len(columns_k)`` tokens of each cell those columns."""
        network = self.feed.model.network
        tokens = self.feed.tokens(value_nk, columns_k, parts_n).to(device)
        return network(tokens, ANSWERS & network.produces)

    def _chunks(self, parts: Parts) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (columns to feed, bool: the column is answered here) until every gene is answered once."""
        perturbed = np.array(self.feed.columns(parts), np.int64)
        order_k = np.random.default_rng(self.seed).permutation(self.feed.fed_k)
        room = max(1, self.config.max_genes - len(perturbed)) if len(order_k) > self.config.max_genes else len(order_k)
        num = -(-len(order_k) // room)
        for chunk in np.array_split(order_k, num):
            columns_k = np.union1d(chunk, perturbed)
            yield columns_k, np.isin(columns_k, chunk)


def _pools(lesson: Lesson, pool: int) -> dict[str, Any]:
    """Return the controls that predictions start from: at most so many of each context, drawn by seed."""
    rng = np.random.default_rng(lesson.seed)
    controls = np.flatnonzero(lesson.profile_n < 0)
    rows = [
        rng.permutation(controls[lesson.context_n[controls] == context])[:pool]
        for context in np.unique(lesson.context_n[controls])
    ]
    rows = np.concatenate(rows) if rows else controls
    return {"control_cg": lesson.log_ng[rows], "context_c": lesson.context_n[rows]}


def _expected(out: ModelOutput) -> Tensor:
    """Return the expected value: that of the head, times the chance of being expressed where there is a gate."""
    return out.value_nt if out.expressed_nt is None else out.value_nt * out.expressed_nt


def _train(fitted: FittedCells, lesson: Lesson) -> list[dict[str, float]]:
    """Train in place and keep the weights of the lowest validation error."""
    config, network = fitted.config, fitted.feed.model.network
    device = choose_device(config.device)
    network.to(device)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=config.lr)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, 1, config.decay_per_epoch)
    rng = np.random.default_rng(lesson.seed)
    best, best_error, best_epoch, history = None, np.inf, 0, []
    for epoch in range(1, config.max_epochs + 1):
        network.train()
        keep_norms(network, config.mode)
        losses = []
        for control_n, row_n in _minibatches(lesson, config, rng):
            loss = _loss(fitted, lesson, (control_n, row_n), rng)
            if not torch.isfinite(loss):
                raise FloatingPointError(f"the loss of {fitted.feed.model.report.source} is not finite; lower lr")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            losses.append(float(loss.detach()))
        schedule.step()
        history.append({"epoch": epoch, "train_loss": float(np.mean(losses))})
        if not len(lesson.valid):
            continue
        error = _valid_error(fitted, lesson.valid)
        history[-1]["valid_mse"] = error
        if error < best_error:
            best, best_error, best_epoch = copy.deepcopy(network.state_dict()), error, epoch
        elif epoch - best_epoch >= config.patience:
            break
    if best is not None:
        network.load_state_dict(best)
    network.to("cpu").eval()
    return history


def _valid_error(fitted: FittedCells, valid: Profiles) -> float:
    return float(((fitted.effects(valid.asked, fitted.config.valid_pool) - valid.effect_ug) ** 2).mean())


def _minibatches(
    lesson: Lesson, config: CellPerturbConfig, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (controls, the cells that they are to become) of one pass, in random order."""
    controls = np.flatnonzero(lesson.profile_n < 0)
    rows = [np.flatnonzero(lesson.profile_n == u) for u in np.flatnonzero(~lesson.is_valid_u)]
    most = config.cells_per_profile
    rows = np.concatenate([row if most is None else rng.permutation(row)[:most] for row in rows])
    pairs = pair_controls(
        rows, controls, context_n=lesson.context_n, tech_batch_n=lesson.tech_batch_n, seed=int(rng.integers(2**31))
    )
    control_n, row_n = pairs.control_n, pairs.row_n
    if config.control_pairs:
        same = rng.permutation(controls)[:most]
        control_n, row_n = np.concatenate([control_n, same]), np.concatenate([row_n, same])
    order = rng.permutation(len(row_n))
    for first in range(0, len(order), config.batch_size):
        some = order[first : first + config.batch_size]
        yield control_n[some], row_n[some]


def _loss(
    fitted: FittedCells, lesson: Lesson, pairs: tuple[np.ndarray, np.ndarray], rng: np.random.Generator
) -> Tensor:
    """Return the loss of a minibatch over a random part of the genes, what is perturbed among them."""
    config, feed = fitted.config, fitted.feed
    all_parts = lesson.profiles.asked.parts
    parts_n = [all_parts[u] if u >= 0 else () for u in lesson.profile_n[pairs[1]].tolist()]
    perturbed = np.unique([column for parts in set(parts_n) for column in feed.columns(parts)]).astype(np.int64)
    columns_k = feed.fed_k
    if len(columns_k) > config.max_genes:
        others = np.setdiff1d(columns_k, perturbed)
        drawn = rng.choice(others, min(len(others), max(0, config.max_genes - len(perturbed))), replace=False)
        columns_k = np.union1d(drawn, perturbed)
    before_nk, after_nk = (
        lesson.log_ng[rows][:, columns_k].toarray().astype(np.float32) * config.value_scale for rows in pairs
    )
    device = next(feed.model.network.parameters()).device
    out = fitted.run(before_nk, columns_k, parts_n, device)
    target_nt = torch.zeros(out.value_nt.shape)
    target_nt[:, : len(columns_k)] = torch.from_numpy(after_nk)
    is_scored_nt = torch.zeros(out.value_nt.shape, dtype=torch.bool)
    is_scored_nt[:, : len(columns_k)] = True
    targets = Targets(value_nt=target_nt.to(device), is_scored_nt=is_scored_nt.to(device))
    loss = MaskedValue()(out, targets)
    return loss if out.expressed_nt is None else loss + ZeroGate()(out, targets)
