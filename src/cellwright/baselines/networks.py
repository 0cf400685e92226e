"""Simple rankings of targets that stand beside those of a model: co-expression, means, responses, and chance.

Source of the choice: benchmarks of gene networks (Pratapa et al. 2020, Nature Methods 17:147) find co-expression hard
to beat; expression level alone explains part of any agreement with tables of targets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NetworkData:
    """What simple rankings are made from."""

    logcp10k_ng: sparse.csr_matrix
    regulators: Sequence[int]
    """Columns whose targets are ranked."""
    listed_rg: np.ndarray | None = None
    """int ``[r, g]``: how many *other* regulators of the table have the gene among their targets."""
    control: np.ndarray | None = None
    """Rows of the unperturbed cells."""
    perturbed: Sequence[np.ndarray] | None = None
    """For each regulator, the rows of the cells in which something was perturbed for its sake."""
    seed: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """Regulators, genes."""
        return len(self.regulators), self.logcp10k_ng.shape[1]


@dataclass(frozen=True)
class NetworkBaseline:
    """A ranking that knows no model."""

    rank: Callable[[NetworkData], np.ndarray]
    """Returns ``[r, g]``; a higher score is a likelier target."""
    what: str
    needs: tuple[str, ...] = ()
    """Fields of `NetworkData` that must be there."""

    def is_possible(self, data: NetworkData) -> bool:
        """Return whether the data has all that it needs."""
        return all(getattr(data, name) is not None for name in self.needs)


def pearson(data: NetworkData) -> np.ndarray:
    """Return absolute Pearson correlations with each gene; 0 for genes that never change."""
    return np.abs(_correlation(np.asarray(data.logcp10k_ng.todense(), np.float64), data.regulators))


def spearman(data: NetworkData) -> np.ndarray:
    """Return absolute rank correlations with each gene."""
    from scipy.stats import rankdata

    return np.abs(_correlation(rankdata(np.asarray(data.logcp10k_ng.todense()), axis=0), data.regulators))


def mean_expression(data: NetworkData) -> np.ndarray:
    """Return each gene's mean, the same for every regulator: what is expressed is found in tables of targets."""
    mean_g = np.asarray(data.logcp10k_ng.mean(axis=0)).ravel()
    return np.repeat(mean_g[None], len(data.regulators), axis=0)


def random_order(data: NetworkData) -> np.ndarray:
    """Return uniform random scores: every regulator has as many targets as it has, in a random order."""
    return np.random.default_rng(data.seed).random(data.shape)


def random_degree(data: NetworkData) -> np.ndarray:
    """Draw genes in the order of a lottery in which each has as many tickets as other regulators list it, and one more.

    A regulator's own targets play no part in its own lottery. Draws without replacement by weight (Efraimidis and
    Spirakis 2006): genes by ``log(u) / weight``.
    """
    uniform_rg = 1 - np.random.default_rng([data.seed, 1]).random(data.shape)
    return np.log(uniform_rg) / (data.listed_rg + 1)


def response(data: NetworkData) -> np.ndarray:
    """Return how far each gene's mean moves under the perturbation, in standard errors, whatever the sign."""
    control = _moments(data.logcp10k_ng[data.control])
    rows = []
    for perturbed in data.perturbed:
        mean_g, error_g = _moments(data.logcp10k_ng[perturbed])
        error_g = np.sqrt(error_g + control[1])
        rows.append(np.abs(mean_g - control[0]) / np.where(error_g > 0, error_g, np.inf))
    return np.stack(rows)


def _moments(value_ng: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Return means of genes, and the squares of their standard errors."""
    mean_g = np.asarray(value_ng.mean(axis=0)).ravel()
    square_g = np.asarray(value_ng.multiply(value_ng).mean(axis=0)).ravel()
    return mean_g, np.maximum(square_g - mean_g**2, 0) / max(value_ng.shape[0] - 1, 1)


NETWORK_BASELINES: Mapping[str, NetworkBaseline] = {
    "random": NetworkBaseline(random_order, "a random order of the genes, the number of targets kept"),
    "random_degree": NetworkBaseline(
        random_degree, "a random order in which genes that other regulators have come sooner", ("listed_rg",)
    ),
    "mean_expression": NetworkBaseline(mean_expression, "most expressed genes first, for every regulator alike"),
    "pearson": NetworkBaseline(pearson, "absolute Pearson correlation of log1p counts per 10,000"),
    "spearman": NetworkBaseline(spearman, "absolute rank correlation of the same"),
    "response": NetworkBaseline(
        response, "change of mean expression under the perturbation over its error", ("control", "perturbed")
    ),
}
"""Name -> baseline, weakest idea first."""


def _correlation(value_ng: np.ndarray, regulators: Sequence[int]) -> np.ndarray:
    centred_ng = value_ng - value_ng.mean(axis=0)
    length_g = np.linalg.norm(centred_ng, axis=0)
    unit_ng = centred_ng / np.where(length_g > 0, length_g, 1)
    return unit_ng[:, list(regulators)].T @ unit_ng
