"""Simple rankings of targets that stand beside those of a model: co-expression, means, and chance.

Source of the choice: benchmarks of gene networks (Pratapa et al. 2020, Nature Methods 17:147) find co-expression hard
to beat; expression level alone explains part of any agreement with tables of targets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse


@dataclass(frozen=True)
class NetworkBaseline:
    """A ranking that knows the expression only."""

    rank: Callable[..., np.ndarray]
    """``(logcp10k_ng, regulators, seed=) -> score_rg``: regulators are columns; a higher score is a likelier target."""
    what: str


def pearson(logcp10k_ng: sparse.csr_matrix, regulators: Sequence[int], *, seed: int = 0) -> np.ndarray:
    """Return absolute Pearson correlations with each gene; 0 for genes that never change."""
    return np.abs(_correlation(np.asarray(logcp10k_ng.todense(), np.float64), regulators))


def spearman(logcp10k_ng: sparse.csr_matrix, regulators: Sequence[int], *, seed: int = 0) -> np.ndarray:
    """Return absolute rank correlations with each gene."""
    from scipy.stats import rankdata

    return np.abs(_correlation(rankdata(np.asarray(logcp10k_ng.todense()), axis=0), regulators))


def mean_expression(logcp10k_ng: sparse.csr_matrix, regulators: Sequence[int], *, seed: int = 0) -> np.ndarray:
    """Return each gene's mean, the same for every regulator: what is expressed is found in tables of targets."""
    mean_g = np.asarray(logcp10k_ng.mean(axis=0)).ravel()
    return np.repeat(mean_g[None], len(regulators), axis=0)


def random_order(logcp10k_ng: sparse.csr_matrix, regulators: Sequence[int], *, seed: int = 0) -> np.ndarray:
    """Return uniform random scores: every regulator has as many targets as it has, in a random order."""
    return np.random.default_rng(seed).random((len(regulators), logcp10k_ng.shape[1]))


NETWORK_BASELINES: Mapping[str, NetworkBaseline] = {
    "random": NetworkBaseline(random_order, "a random order of the genes, the number of targets kept"),
    "mean_expression": NetworkBaseline(mean_expression, "most expressed genes first, for every regulator alike"),
    "pearson": NetworkBaseline(pearson, "absolute Pearson correlation of log1p counts per 10,000"),
    "spearman": NetworkBaseline(spearman, "absolute rank correlation of the same"),
}
"""Name -> baseline, weakest idea first."""


def _correlation(value_ng: np.ndarray, regulators: Sequence[int]) -> np.ndarray:
    centred_ng = value_ng - value_ng.mean(axis=0)
    length_g = np.linalg.norm(centred_ng, axis=0)
    unit_ng = centred_ng / np.where(length_g > 0, length_g, 1)
    return unit_ng[:, list(regulators)].T @ unit_ng
