"""Simple cell-type classifiers: what a model must beat before its size is worth anything.

Every baseline has the shape of `FitPredict`: labelled cells and query cells in, a probability of each class for each
query cell out. Expression is log1p of counts per 10,000 (all genes of the cell in the sum), the same genes in the same
order for both. Nothing is learned from the query cells.

Settings are the plain ones and are not tuned. That matters: linear classifiers matched the first pre-trained models
(Boiarsky et al. 2024, Nature Machine Intelligence), and so did neighbours in principal components (Kedzierska et al.
2025, Genome Biology 26:101). Cell-type hierarchies and batch correction are not used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import sparse

NUM_COMPONENTS = 50
NUM_NEIGHBORS = 15
MAX_GENES = 5000
MAX_ITERATIONS = 5000
"""Of the logistic solver; a few hundred are the rule. Should it stop early, scikit-learn's warning reaches the user."""


class FitPredict(Protocol):
    """Learns from labelled cells and answers for query cells."""

    def __call__(
        self,
        train_ng: sparse.csr_matrix | sparse.csr_array,
        train_label_n: np.ndarray,
        query_ng: sparse.csr_matrix | sparse.csr_array,
        *,
        num_classes: int,
        seed: int,
    ) -> np.ndarray:
        """Return float64 ``[query cells, num_classes]``; rows sum to 1, classes without training cells get 0."""
        ...


@dataclass(frozen=True, slots=True)
class AnnotationBaseline:
    """One entry of the table: how to run it and how to describe it in a report."""

    fit_predict: FitPredict
    what: str


def majority(train_ng, train_label_n, query_ng, *, num_classes: int, seed: int) -> np.ndarray:
    """Give every cell the shares of the classes among the training cells; expression is not looked at."""
    train_ng, label_n, query_ng = _checked(train_ng, train_label_n, query_ng, num_classes)
    share_k = np.bincount(label_n, minlength=num_classes) / len(label_n)
    return np.tile(share_k, (query_ng.shape[0], 1))


def pca_logistic(train_ng, train_label_n, query_ng, *, num_classes: int, seed: int) -> np.ndarray:
    """Multinomial logistic regression (L2, C = 1) on 50 principal components of the training cells."""
    train_ng, label_n, query_ng = _checked(train_ng, train_label_n, query_ng, num_classes)
    train_nd, query_nd = principal_components(train_ng, query_ng, seed)
    return _logistic(train_nd, label_n, query_nd, num_classes)


def pca_knn(train_ng, train_label_n, query_ng, *, num_classes: int, seed: int) -> np.ndarray:
    """Count the classes of the 15 nearest training cells (Euclidean, 50 principal components, equal votes).

    Equal counts are settled by the smaller class code when the largest probability is taken.
    """
    from sklearn.neighbors import KNeighborsClassifier

    train_ng, label_n, query_ng = _checked(train_ng, train_label_n, query_ng, num_classes)
    train_nd, query_nd = principal_components(train_ng, query_ng, seed)
    neighbors = min(NUM_NEIGHBORS, len(label_n))
    model = KNeighborsClassifier(neighbors, algorithm="brute").fit(train_nd, label_n)
    return _spread(model.predict_proba(query_nd), model.classes_, num_classes)


def gene_logistic(train_ng, train_label_n, query_ng, *, num_classes: int, seed: int) -> np.ndarray:
    """Multinomial logistic regression (L2, C = 1) on the genes themselves.

    The 5,000 genes of largest variance among the training cells are used, which bounds time and memory; on the blood
    data this was set up with (13,670 genes) all genes gave no better scores.
    """
    train_ng, label_n, query_ng = _checked(train_ng, train_label_n, query_ng, num_classes)
    mean_g = np.asarray(train_ng.mean(axis=0)).ravel()
    variance_g = np.asarray(train_ng.multiply(train_ng).mean(axis=0)).ravel() - mean_g**2
    kept_g = np.sort(np.argsort(-variance_g, kind="stable")[:MAX_GENES])
    return _logistic(train_ng[:, kept_g], label_n, query_ng[:, kept_g], num_classes)


ANNOTATION_BASELINES: Mapping[str, AnnotationBaseline] = {
    "majority": AnnotationBaseline(majority, "class shares of the training cells, the same answer for every cell"),
    "pca_knn": AnnotationBaseline(pca_knn, "vote of the 15 nearest training cells in 50 principal components"),
    "pca_logistic": AnnotationBaseline(pca_logistic, "logistic regression on 50 principal components"),
    "gene_logistic": AnnotationBaseline(gene_logistic, "logistic regression on the 5,000 most variable genes"),
}
"""Name -> baseline, weakest idea first."""


def _checked(train_ng, train_label_n, query_ng, num_classes: int):
    """Return CSR matrices in float64 and int64 labels, or say what is wrong."""
    label_n = np.asarray(train_label_n)
    if train_ng.shape[1] != query_ng.shape[1]:
        raise ValueError(
            f"training cells have {train_ng.shape[1]} genes, query cells {query_ng.shape[1]}; use the shared genes"
        )
    if label_n.shape != (train_ng.shape[0],) or label_n.dtype.kind not in "iu":
        raise ValueError(
            f"labels are {label_n.dtype} {label_n.shape} for {train_ng.shape[0]} training cells; "
            "one integer code a cell is needed"
        )
    seen = np.unique(label_n)
    if len(seen) and (seen[0] < 0 or seen[-1] >= num_classes):
        raise ValueError(f"label codes run from {seen[0]} to {seen[-1]}, not within 0 .. {num_classes - 1}")
    if len(seen) < 2:
        raise ValueError(f"the training cells have {len(seen)} classes; a classifier needs at least 2")
    matrices = [sparse.csr_array(matrix_ng).astype(np.float64) for matrix_ng in (train_ng, query_ng)]
    for name, matrix_ng in zip(("training", "query"), matrices, strict=True):
        if not np.isfinite(matrix_ng.data).all():
            raise ValueError(f"the {name} expression has values that are not finite; clean the matrix first")
    return matrices[0], label_n.astype(np.int64), matrices[1]


def principal_components(train_ng, query_ng, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return training and query cells in the first 50 principal components of the training cells."""
    from sklearn.decomposition import PCA

    num = min(NUM_COMPONENTS, min(train_ng.shape) - 1)
    if num < 1:
        raise ValueError(f"principal components need 2 cells and 2 genes; the matrix is {train_ng.shape}")
    # ARPACK converges, so the seed hardly matters; the randomised solver moved the accuracy by 0.01 between seeds
    model = PCA(num, svd_solver="arpack", random_state=seed).fit(train_ng)
    return model.transform(train_ng), model.transform(query_ng)


def _logistic(train_nd, label_n: np.ndarray, query_nd, num_classes: int) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1.0, max_iter=MAX_ITERATIONS).fit(train_nd, label_n)
    return _spread(model.predict_proba(query_nd), model.classes_, num_classes)


def _spread(probability_nk: np.ndarray, class_k: np.ndarray, num_classes: int) -> np.ndarray:
    """Put the columns of the classes that were seen in training at their codes."""
    out_nk = np.zeros((len(probability_nk), num_classes))
    out_nk[:, class_k] = probability_nk
    return out_nk
