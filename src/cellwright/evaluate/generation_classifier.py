"""The classifier of the two-sample test: can made cells be told from real ones?

Source: Lopez-Paz and Oquab 2017 (ICLR); here a logistic regression on principal components of both sides together, so
that made cells that leave the space of real ones are found out. Components, scaling and weights are learnt without the
cells that are then scored.
"""

from __future__ import annotations

import numpy as np

NUM_COMPONENTS = 20
NUM_FOLDS = 5


def told_apart(made_ng: np.ndarray, real_mg: np.ndarray, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return how much a classifier that has not seen a cell takes it for a made one.

    Parameters
    ----------
    made_ng, real_mg
        Cells of one type, in the same unit; at least 2 of each.
    seed
        Of the folds. Equal cells are in one fold, so that no cell is recognised by its twin; where that would leave a
        fold without made or real cells to learn from (a model that makes one cell only), folds do not look at twins.

    Returns
    -------
    Log-odds ``[n]`` of made and ``[m]`` of real cells, for `cellwright.metrics.made.c2st_auroc`.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    cell_ng = np.concatenate([made_ng, real_mg])
    is_made_n = np.arange(len(cell_ng)) < len(made_ng)
    odds_n = np.empty(len(cell_ng))
    for train_n, test_n in _folds(cell_ng, is_made_n, seed):
        num = max(1, min(NUM_COMPONENTS, min(cell_ng[train_n].shape) - 1))
        model = make_pipeline(
            PCA(num, svd_solver="full"), StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000)
        )
        odds_n[test_n] = model.fit(cell_ng[train_n], is_made_n[train_n]).decision_function(cell_ng[test_n])
    return odds_n[is_made_n], odds_n[~is_made_n]


def _folds(cell_ng: np.ndarray, is_made_n: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    names: dict[bytes, int] = {}
    twin_n = np.array([names.setdefault(row.tobytes(), len(names)) for row in np.ascontiguousarray(cell_ng)])
    num = min(NUM_FOLDS, int(is_made_n.sum()), int((~is_made_n).sum()))
    if num < 2:
        raise ValueError(f"{is_made_n.sum()} made and {(~is_made_n).sum()} real cells; at least 2 of each are needed")
    if len(names) >= num:
        by_twins = StratifiedGroupKFold(num, shuffle=True, random_state=seed)
        folds = list(by_twins.split(cell_ng, is_made_n, twin_n))
        if all(0 < is_made_n[train_n].mean() < 1 and len(test_n) for train_n, test_n in folds):
            return folds
    return list(StratifiedKFold(num, shuffle=True, random_state=seed).split(cell_ng, is_made_n))
