"""Sensitivity of single cells learnt from bulk: domain-adversarial transfer, without a label of any cell.

Source: SCAD (Zheng et al., Advanced Science 2023) as scFoundation uses it. An extractor reads bulk samples and cells; a
predictor learns the bulk samples' binary response; a discriminator tells bulk from cells, and its gradient is reversed
in the extractor, which so loses what sets cells apart from bulk (Ganin & Lempitsky 2015). One network a fold of the
bulk samples; a cell's score is the mean of the folds' logits.

Sizes, loss and sampling are the published ones (bulk samples drawn with inverse class weights and with replacement,
extractor called for bulk and cells apart, last epoch kept). Departures: Adam in place of Adagrad; the weight of the
adversary can rise from 0 over the run; cells take no part in drawing folds, since their labels are not known (the
published folds are balanced over the cells' labels); features are standardised within each domain by default, which is
half of the transfer and is one flag (``scale``).

What it cannot do: align what is not shared. Where the shares of responders differ between bulk and cells, hiding the
domain may move cells over the border between classes; ``transfer`` says nothing of this by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn

from cellwright.config import Config
from cellwright.data.drugs import LineFeatures
from cellwright.nn.heads import reverse_gradient
from cellwright.train.config import TrainConfig
from cellwright.train.optim import OptimConfig
from cellwright.types import Draw, LossReport


class TransferConfig(Config):
    """How a response is carried from bulk samples to cells."""

    hidden: int = Field(512, ge=1)
    """Width of the shared representation (published: 512 or 1024 a drug)."""
    width: int = Field(128, ge=1)
    """Width of the predictor (published: 128 .. 512)."""
    dropout: float = Field(0.5, ge=0, lt=1)
    adversary: NonNegativeFloat = 1.0
    """Weight of the discriminator's loss; 0 = none (published: 0 .. 5 a drug, chosen by no rule that is known)."""
    warmup: float = Field(0.0, ge=0, le=1)
    """Part of the run over which that weight rises from 0 (published: 0)."""
    scale: Literal["each", "joint", "none"] = "each"
    """Standardise features within bulk and within cells, over both together (published for genes), or not at all
    (published for embeddings)."""
    num_folds: int = Field(5, ge=2)
    """Networks, each trained without one fold of the bulk samples and of the cells."""
    batch_size: int = Field(16, ge=5)
    """Bulk samples and cells a step (published: 8 or 16)."""
    optim: OptimConfig = OptimConfig(lr=1e-3)
    """Optimiser (published: Adagrad, 1e-3)."""
    train: TrainConfig = TrainConfig(max_epochs=20, log_every=50, checkpoint_every=100_000)
    """Length; an epoch sees every training cell once (published: 10 .. 100 epochs)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Transferred:
    """Scores of cells, higher = more likely of class 1."""

    logit_nk: np.ndarray
    """float64 ``[cells, folds]``: the answer of each fold's network."""
    fold_n: np.ndarray
    """int64: the fold whose network did not adapt to the cell."""
    source_logit_n: np.ndarray
    """float64: of each bulk sample, by the network that did not train on it; not comparable over folds."""
    source_fold_n: np.ndarray
    """int64: the fold of each bulk sample."""
    source_auroc: float | None
    """Mean over folds of the AUROC on held-out bulk samples; None where a fold lacks a class."""

    @property
    def score_n(self) -> np.ndarray:
        """float64: mean of all networks' logits."""
        return self.logit_nk.mean(1)

    @property
    def held_out_n(self) -> np.ndarray:
        """float64: logit of the one network that did not adapt to the cell, as published; not comparable over folds."""
        return self.logit_nk[np.arange(len(self.fold_n)), self.fold_n]


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """Bulk samples with responses, and cells without."""

    source_nf: np.ndarray
    label_n: np.ndarray
    target_nf: np.ndarray

    def __len__(self) -> int:
        return len(self.label_n)


class StepLoader:
    """Minibatches of cells, each visited once an epoch, beside bulk samples drawn with equal chance for both classes.

    Order and draws are a function of (seed, epoch). A last minibatch of fewer than 5 cells is left out, as published,
    where there is another.
    """

    def __init__(self, source_nf: np.ndarray, label_n: np.ndarray, target_nf: np.ndarray, size: int, *, seed: int):
        self.source_nf, self.label_n, self.target_nf = source_nf, label_n, target_nf
        self.size, self.seed = size, seed
        self._epoch, self._start, self._next = 0, 0, 0

    def __len__(self) -> int:
        whole, rest = divmod(len(self.target_nf), self.size)
        return whole + (rest >= 5 or not whole)

    def __iter__(self) -> Iterator[_Step]:
        generator = np.random.default_rng([self.seed, self._epoch])
        order = generator.permutation(len(self.target_nf))
        count_k = np.bincount(self.label_n, minlength=2)
        weight_n = 1 / (2 * count_k[self.label_n])
        drawn = generator.choice(len(self.label_n), (len(self), self.size), p=weight_n / weight_n.sum())
        first, self._start, self._next = self._start, 0, self._start
        for step in range(first, len(self)):
            self._next = step + 1
            at_n = order[step * self.size : (step + 1) * self.size]
            yield _Step(self.source_nf[drawn[step]], self.label_n[drawn[step]], self.target_nf[at_n])

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        if epoch != self._epoch:
            self._epoch, self._start, self._next = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        """Return where the iteration stands."""
        return {"epoch": self._epoch, "next": self._next}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue from there."""
        self._epoch, self._start = int(state["epoch"]), int(state["next"])
        self._next = self._start


class TransferNet(nn.Module):
    """Extractor and predictor; the discriminator belongs to the objective."""

    def __init__(self, num_features: int, config: TransferConfig):
        super().__init__()
        hidden, width, dropout = config.hidden, config.width, config.dropout
        self.extractor = nn.Sequential(
            nn.Linear(num_features, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(dropout)
        )
        parts: list[nn.Module] = [nn.Linear(hidden, width), nn.BatchNorm1d(width), nn.Dropout(dropout), nn.ReLU()]
        for _ in range(3):
            parts += [nn.Linear(width, width), nn.Dropout(dropout), nn.LeakyReLU()]
        self.predictor = nn.Sequential(*parts, nn.Linear(width, 1))

    def forward(self, feature_nf: Tensor) -> Tensor:
        """Return the logit of class 1, ``[n]``."""
        return self.predictor(self.extractor(feature_nf))[:, 0]


class Adversarial(nn.Module):
    """Cross entropy of the bulk responses plus the reversed discriminator's (an objective, as `TrainPlan` takes it)."""

    def __init__(self, config: TransferConfig, *, num_epochs: int):
        super().__init__()
        parts: list[nn.Module] = []
        for _ in range(3):
            parts += [nn.Linear(config.hidden, config.hidden), nn.Dropout(config.dropout), nn.LeakyReLU()]
        self.discriminator = nn.Sequential(*parts, nn.Linear(config.hidden, 1), nn.Dropout(config.dropout))
        self.weight, self.rise = config.adversary, config.warmup * num_epochs
        self.terms: Mapping[str, Any] = {"response": None, "domain": None}

    def check(self, model: nn.Module) -> None:
        """Accept a `TransferNet`."""

    def step(self, model: TransferNet, cells: _Step, *, tokenize: Any, draw: Draw) -> LossReport:
        """Return the loss of one minibatch.

        Raises
        ------
        FloatingPointError
            If it is not finite.
        """
        place = next(model.parameters())
        source_nf, target_nf = (torch.from_numpy(part).to(place) for part in (cells.source_nf, cells.target_nf))
        label_n = torch.from_numpy(cells.label_n).to(place)
        # apart, so that each domain has batch norm statistics of its own while training
        source_nd, target_nd = model.extractor(source_nf), model.extractor(target_nf)
        cross_entropy = nn.functional.binary_cross_entropy_with_logits
        response = cross_entropy(model.predictor(source_nd)[:, 0], label_n)
        domain_nd = reverse_gradient(torch.cat([source_nd, target_nd]))
        is_target_n = torch.cat([torch.zeros(len(source_nd)), torch.ones(len(target_nd))]).to(place)
        domain = cross_entropy(self.discriminator(domain_nd)[:, 0], is_target_n)
        weight = self.weight * (min(1.0, draw.epoch / self.rise) if self.rise else 1.0)
        loss = response + weight * domain
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} at epoch {draw.epoch}; lower the learning rate")
        return LossReport(loss=loss, parts={"response": response.detach(), "domain": domain.detach()})


def transfer(
    source: LineFeatures,
    label_l: Sequence[int] | np.ndarray,
    target: LineFeatures,
    *,
    config: TransferConfig,
    folder: str | Path,
    resume: bool = False,
    is_progress_shown: bool = False,
) -> Transferred:
    """Score cells by a binary response that is known of bulk samples.

    Parameters
    ----------
    source
        Features of bulk samples.
    label_l
        Response of each, 1 = sensitive, 0 = not.
    target
        Features of the cells, of the same kind; features that only one side has are left out.
    folder
        Of the run: one folder a fold.
    resume
        Go on with an interrupted run: folds that are trained are read, others are trained on.

    Raises
    ------
    ValueError
        No shared feature, labels that are not 0 and 1, or fewer samples of a class (or cells) than folds need.
    """
    from cellwright.train.plan import TrainPlan
    from cellwright.train.run import fit

    label_n = checked_labels(label_l, len(source.lines), config.num_folds)
    if len(target.lines) < 5 * config.num_folds:
        raise ValueError(f"{len(target.lines)} cells are too few for {config.num_folds} folds of at least 5")
    source_nf, target_nf = scaled(*shared_features(source, target), config.scale)
    seed = config.train.seed
    source_fold_n = balanced_folds(label_n, config.num_folds, seed=seed)
    fold_n = np.random.default_rng([seed, 1]).permutation(len(target_nf)) % config.num_folds
    logit_nk, source_logit_n = np.empty((len(target_nf), config.num_folds)), np.empty(len(label_n))
    for fold in range(config.num_folds):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed * 1000 + fold)
            network = TransferNet(source_nf.shape[1], config)
            objective = Adversarial(config, num_epochs=config.train.max_epochs or 1)
        is_train_n = source_fold_n != fold
        loader = StepLoader(
            source_nf[is_train_n],
            label_n[is_train_n],
            target_nf[fold_n != fold],
            config.batch_size,
            seed=seed * 1000 + fold,
        )
        plan = TrainPlan(network, objective, _unchanged, optim=config.optim, seed=seed)
        place = Path(folder) / f"fold_{fold}"
        fit(plan, loader, config=config.train, folder=place, resume=resume, is_progress_shown=is_progress_shown)
        network.to("cpu").eval()
        with torch.inference_mode():
            logit_nk[:, fold] = network(torch.from_numpy(target_nf)).double().numpy()
            source_logit_n[~is_train_n] = network(torch.from_numpy(source_nf[~is_train_n])).double().numpy()
    return Transferred(
        logit_nk=logit_nk,
        fold_n=fold_n,
        source_logit_n=source_logit_n,
        source_fold_n=source_fold_n,
        source_auroc=_mean_auroc(label_n, source_logit_n, source_fold_n),
    )


def _unchanged(cells: Any, draw: Draw) -> Any:
    return cells


def _mean_auroc(label_n: np.ndarray, logit_n: np.ndarray, fold_n: np.ndarray) -> float | None:
    from cellwright.metrics.drugs import fold_auroc

    if any(len(np.unique(label_n[fold_n == fold])) < 2 for fold in np.unique(fold_n)):
        return None
    return fold_auroc(label_n, logit_n, fold_n)


def checked_labels(label_l: Any, num: int, num_folds: int) -> np.ndarray:
    """Return int64 labels, or say what is wrong with them."""
    label_n = np.asarray(label_l)
    if label_n.shape != (num,):
        raise ValueError(f"labels are {label_n.shape} for {num} bulk samples; one each is needed")
    found = set(np.unique(label_n).tolist())
    if found != {0, 1}:
        raise ValueError(f"labels hold {sorted(found)[:5]}; 0 and 1 are needed, both present")
    label_n = label_n.astype(np.int64)
    if (few := int(np.bincount(label_n).min())) < num_folds:
        raise ValueError(f"the rarer class has {few} bulk samples, too few for {num_folds} folds")
    return label_n


def balanced_folds(label_n: np.ndarray, num_folds: int, *, seed: int) -> np.ndarray:
    """Return int64 folds in which both classes have their share."""
    generator, fold_n = np.random.default_rng([seed, 0]), np.empty(len(label_n), np.int64)
    start = 0
    for label in np.unique(label_n):
        at_n = generator.permutation(np.flatnonzero(label_n == label))
        fold_n[at_n] = (start + np.arange(len(at_n))) % num_folds
        start += len(at_n)
    return fold_n


def shared_features(source: LineFeatures, target: LineFeatures) -> tuple[np.ndarray, np.ndarray]:
    """Return both matrices with the features that both have, in the order of the source."""
    known = set(target.names)
    names = [name for name in source.names if name in known]
    if not names:
        raise ValueError(
            f"bulk samples and cells share no feature ({source.names[0]!r}, ... and {target.names[0]!r}, ...); use the "
            "same kind of gene names, or embeddings by the same model"
        )
    return source.ordered(names), target.ordered(names)


def scaled(source_nf: np.ndarray, target_nf: np.ndarray, how: str) -> tuple[np.ndarray, np.ndarray]:
    """Standardise features as `TransferConfig.scale` says; a constant feature becomes 0."""
    if how == "none":
        return source_nf.astype(np.float32), target_nf.astype(np.float32)
    sides = [source_nf.astype(np.float64), target_nf.astype(np.float64)]
    both = np.concatenate(sides)
    out = []
    for side_nf in sides:
        over = side_nf if how == "each" else both
        mean_f, sd_f = over.mean(0), over.std(0)
        out.append(np.where(sd_f > 1e-8, (side_nf - mean_f) / np.maximum(sd_f, 1e-8), 0.0).astype(np.float32))
    return out[0], out[1]
