"""Simple predictors of drug response: what a network must beat before its size is worth anything.

Each takes measured pairs, pairs that are asked for, and features of the cell lines ``[l, f]`` (or of the drugs), and
returns a value for each asked pair. Settings are plain and not tuned. Means, and the sum of a drug's and a line's
effect, look at no feature at all; where they match a representation of cells, the split cannot rank representations.

Axes: ``p`` a pair, ``l`` a cell line, ``u`` a drug, ``f`` a feature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import lsqr

RIDGE = 1.0
NUM_FACTORS = 10
FACTOR_RIDGE = 5.0
NUM_ROUNDS = 20


class Pairs(Protocol):
    """Pairs of a line and a drug with their values (NaN where asked for)."""

    line_p: np.ndarray
    drug_p: np.ndarray
    value_p: np.ndarray


@dataclass(frozen=True, slots=True)
class ResponseBaseline:
    """One entry of the table."""

    fit_predict: Callable[..., np.ndarray]
    """``(train, query, feature_lf, *, seed) -> float64 [p]``."""
    what: str
    needs: Literal["nothing", "lines", "drugs"]
    """Whose features it reads."""


def drug_mean(train: Pairs, query: Pairs, feature_lf: np.ndarray | None = None, *, seed: int = 0) -> np.ndarray:
    """Give each drug its mean over training lines; an unseen drug gets the mean of all pairs."""
    return _means(train.drug_p, train.value_p, query.drug_p)


def line_mean(train: Pairs, query: Pairs, feature_lf: np.ndarray | None = None, *, seed: int = 0) -> np.ndarray:
    """Give each line its mean over training drugs; an unseen line gets the mean of all pairs."""
    return _means(train.line_p, train.value_p, query.line_p)


def effects(train: Pairs, query: Pairs, feature_lf: np.ndarray | None = None, *, seed: int = 0) -> np.ndarray:
    """Add a drug's and a line's effect, both by least squares; an unseen drug or line has the mean effect."""
    line_l, drug_u = _effects(train, query)
    return line_l[query.line_p] + drug_u[query.drug_p]


def kernel_ridge(train: Pairs, query: Pairs, feature_lf: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Fit one ridge regression a drug on the lines' features (linear kernel, features / sqrt(number), penalty 1).

    Features are centred, and scaled by one number for all, over the training lines. A drug's mean is not penalised; an
    unseen drug gets the mean of all pairs.
    """
    unit_lf = _scaled(feature_lf, np.unique(train.line_p)) / np.sqrt(feature_lf.shape[1])
    kernel_ll = unit_lf @ unit_lf.T
    pred_p = _means(train.drug_p, train.value_p, query.drug_p)
    for drug in np.unique(query.drug_p):
        is_train_p, is_asked_p = train.drug_p == drug, query.drug_p == drug
        if not is_train_p.any():
            continue
        line_t, line_q = train.line_p[is_train_p], query.line_p[is_asked_p]
        rest_t = train.value_p[is_train_p] - train.value_p[is_train_p].mean()
        weight_t = np.linalg.solve(kernel_ll[np.ix_(line_t, line_t)] + RIDGE * np.eye(len(line_t)), rest_t)
        pred_p[is_asked_p] += kernel_ll[np.ix_(line_q, line_t)] @ weight_t
    return pred_p


def line_factors(train: Pairs, query: Pairs, feature_lf: np.ndarray | None = None, *, seed: int = 0) -> np.ndarray:
    """Complete the matrix: effects, and 10 factors of lines times factors of drugs (alternating ridge regressions).

    It knows lines by name only. For a line or drug that training lacks it is `effects`.
    """
    line_l, drug_u = _effects(train, query)
    rest_p = train.value_p - line_l[train.line_p] - drug_u[train.drug_p]
    shape = (len(line_l), len(drug_u))
    rest = sparse.csr_array((rest_p, (train.line_p, train.drug_p)), shape=shape)
    count = sparse.csr_array((np.ones(len(rest_p)), (train.line_p, train.drug_p)), shape=shape)
    factor_uk = np.random.default_rng(seed).standard_normal((shape[1], NUM_FACTORS)) * 0.1
    for _ in range(NUM_ROUNDS):
        factor_lk = _ridge_rows(rest, count, factor_uk)
        factor_uk = _ridge_rows(rest.T.tocsr(), count.T.tocsr(), factor_lk)
    found_p = (factor_lk[query.line_p] * factor_uk[query.drug_p]).sum(1)
    return line_l[query.line_p] + drug_u[query.drug_p] + found_p


def composition_ridge(train: Pairs, query: Pairs, feature_uf: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Add the line's effect and a ridge regression (penalty 1) of the drugs' effects on features of the drugs.

    With the mean of its atoms' features as a drug's features, it is what a graph network must beat on new drugs.
    """
    line_l, drug_u = _effects(train, query)
    seen = np.unique(train.drug_p)
    unit_uf = _scaled(feature_uf, seen) / np.sqrt(feature_uf.shape[1])
    mean = drug_u[seen].mean()
    kernel_uu = unit_uf @ unit_uf[seen].T
    weight_u = np.linalg.solve(kernel_uu[seen] + RIDGE * np.eye(len(seen)), drug_u[seen] - mean)
    return line_l[query.line_p] + (mean + kernel_uu @ weight_u)[query.drug_p]


RESPONSE_BASELINES: Mapping[str, ResponseBaseline] = {
    "drug_mean": ResponseBaseline(drug_mean, "the drug's mean over training lines", "nothing"),
    "line_mean": ResponseBaseline(line_mean, "the line's mean over training drugs", "nothing"),
    "effects": ResponseBaseline(effects, "drug effect + line effect, least squares", "nothing"),
    "line_factors": ResponseBaseline(line_factors, "effects + 10 factors of lines known by name only", "nothing"),
    "kernel_ridge": ResponseBaseline(kernel_ridge, "ridge on the lines' features, one a drug", "lines"),
    "composition_ridge": ResponseBaseline(composition_ridge, "line effect + ridge on the drugs' features", "drugs"),
}
"""Name -> baseline, weakest idea first."""


def logistic(source_nf: np.ndarray, label_n: np.ndarray, target_nf: np.ndarray) -> np.ndarray:
    """Score by logistic regression on bulk samples, classes weighted to balance (C = 0.01, not tuned)."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=0.01, max_iter=2000, class_weight="balanced").fit(source_nf, label_n)
    return model.decision_function(target_nf)


def centroids(source_nf: np.ndarray, label_n: np.ndarray, target_nf: np.ndarray) -> np.ndarray:
    """Score by the place along the line from the mean of the insensitive bulk samples to that of the sensitive."""
    return target_nf.astype(np.float64) @ (source_nf[label_n == 1].mean(0) - source_nf[label_n == 0].mean(0))


def constant(source_nf: np.ndarray, label_n: np.ndarray, target_nf: np.ndarray) -> np.ndarray:
    """Give all the same score."""
    return np.zeros(len(target_nf))


@dataclass(frozen=True, slots=True)
class TransferBaseline:
    """One entry of the table of ways to score cells from labelled bulk samples."""

    score: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    """``(bulk features, their 0 / 1, features of cells) -> float64 [n]``, higher = more likely 1."""
    what: str
    is_floor: bool = False


TRANSFER_BASELINES: Mapping[str, TransferBaseline] = {
    "constant": TransferBaseline(constant, "the same score for all", is_floor=True),
    "centroids": TransferBaseline(centroids, "place between the means of both classes of bulk samples"),
    "logistic": TransferBaseline(logistic, "logistic regression on bulk samples"),
}
"""Name -> baseline, weakest idea first. None of them looks at other cells."""


def _means(code_t: np.ndarray, value_t: np.ndarray, code_q: np.ndarray) -> np.ndarray:
    if not len(value_t):
        raise ValueError("there are no training pairs")
    num = int(max(code_t.max(), code_q.max(initial=0))) + 1
    count, total = np.bincount(code_t, minlength=num), np.bincount(code_t, value_t, minlength=num)
    return np.divide(total, count, out=np.full(num, value_t.mean()), where=count > 0)[code_q]


def _effects(train: Pairs, query: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Return the effect of every line and, with the overall mean in it, of every drug."""
    if not len(train.value_p):
        raise ValueError("there are no training pairs")
    num_lines = int(max(train.line_p.max(), query.line_p.max(initial=0))) + 1
    num_drugs = int(max(train.drug_p.max(), query.drug_p.max(initial=0))) + 1
    num, mean = len(train.value_p), train.value_p.mean()
    place = (np.tile(np.arange(num), 2), np.concatenate([train.line_p, num_lines + train.drug_p]))
    design = sparse.csr_array((np.ones(2 * num), place), shape=(num, num_lines + num_drugs))
    effect = lsqr(design, train.value_p - mean, atol=1e-10, btol=1e-10)[0]
    line_l, drug_u = effect[:num_lines], effect[num_lines:]
    for part, code_p in ((line_l, train.line_p), (drug_u, train.drug_p)):
        seen = np.unique(code_p)
        is_unseen = np.ones(len(part), bool)
        is_unseen[seen] = False
        part[is_unseen] = part[seen].mean()
    return line_l, drug_u + mean


def _scaled(feature_lf: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Centre features and divide all by one number, so that they have mean square 1 over these rows."""
    feature_lf = np.asarray(feature_lf, np.float64)
    feature_lf = feature_lf - feature_lf[rows].mean(0)
    return feature_lf / max(np.sqrt((feature_lf[rows] ** 2).mean()), 1e-12)


def _ridge_rows(rest: sparse.csr_array, count: sparse.csr_array, factor_uk: np.ndarray) -> np.ndarray:
    """Solve each row's ridge regression on the factors of its columns; a row without entries is 0."""
    outer = np.einsum("ui,uj->uij", factor_uk, factor_uk).reshape(len(factor_uk), -1)
    width = factor_uk.shape[1]
    left = (count @ outer).reshape(-1, width, width) + FACTOR_RIDGE * np.eye(width)
    return np.linalg.solve(left, (rest @ factor_uk)[..., None])[..., 0]
