"""Denoising by other people's packages, where they are installed: MAGIC and scVI, with their own settings.

Both know the query cells alone. What their runs change in the process (random states, log levels, environment) is put
back. Seeds decide the answers; scVI trains on a GPU where there is one.
"""

from __future__ import annotations

import logging
import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np

from cellwright.baselines.counts import counts_of, per_ten_thousand, scale_of
from cellwright.types import CellBatch

SCVI_EPOCHS: int | None = None
"""Epochs of scVI's training; ``None`` = its own rule, 400 for up to 20,000 cells."""
SCVI_SAMPLES = 10
"""Draws of each cell's place that scVI's rates are the mean of; one, its default, adds noise to every answer."""
_LEAST_CELLS = 10
_LOGGERS = ("lightning.pytorch", "lightning.fabric", "scvi", "jax._src.xla_bridge")


def magic(
    train: CellBatch, query: CellBatch, gene_ids: np.ndarray, *, target_total_n: np.ndarray, seed: int
) -> np.ndarray:
    """Diffuse the query cells' counts per 10,000 over MAGIC's graph (van Dijk et al. 2018, ``magic-impute``).

    The graph is MAGIC's own, of square roots. What is diffused are the counts, not the roots: the square of a mean of
    roots lies far below the mean where most counts are 0 (mean error 1.52 against 0.60 on PBMC 3k at a twentieth of
    its molecules), and the answer that is wanted is a mean.
    """
    linear_ng = per_ten_thousand(query, gene_ids).toarray()
    at_n = _known_cells(linear_ng, "MAGIC")
    with _undisturbed("magic", seed) as package:
        operator = package.MAGIC(random_state=seed, verbose=0, n_jobs=1)
        operator.fit(np.sqrt(linear_ng[at_n]))
        own_ng = linear_ng[at_n]
        for _ in range(operator.t):
            own_ng = np.asarray(operator.diff_op.dot(own_ng))
    return _spread(np.log1p(np.maximum(own_ng, 0)), at_n, len(query))


def scvi(
    train: CellBatch, query: CellBatch, gene_ids: np.ndarray, *, target_total_n: np.ndarray, seed: int
) -> np.ndarray:
    """Train scVI (Lopez et al. 2018, ``scvi-tools``) on the query cells, and take its rates.

    Rates are parts of the genes answered for; they are brought to the share that these have of all molecules.
    """
    import anndata

    counts_ng = counts_of(query, gene_ids)
    own_n = np.asarray(counts_ng.sum(axis=1)).ravel()
    at_n = _known_cells(counts_ng, "scVI")
    with _undisturbed("scvi", seed) as package:
        package.settings.seed = seed
        package.settings.verbosity = logging.WARNING
        adata = anndata.AnnData(counts_ng[at_n].astype(np.float32))
        package.model.SCVI.setup_anndata(adata)
        model = package.model.SCVI(adata)
        model.train(max_epochs=SCVI_EPOCHS, enable_progress_bar=False)
        rate_ng = np.asarray(
            model.get_normalized_expression(library_size=1, n_samples=SCVI_SAMPLES, return_numpy=True), np.float64
        )
    share_n = (own_n * scale_of(query.total_n))[at_n]
    return _spread(np.log1p(rate_ng * share_n[:, None]), at_n, len(query))


def _known_cells(value_ng: np.ndarray, name: str) -> np.ndarray:
    """Return the cells that have molecules; neither package can place others, and their answer is 0."""
    at_n = np.flatnonzero(np.asarray(value_ng.sum(axis=1)).ravel() > 0)
    if len(at_n) < _LEAST_CELLS:
        raise ValueError(f"{name} needs at least {_LEAST_CELLS} cells with molecules; there are {len(at_n)}")
    return at_n


def _spread(own_ng: np.ndarray, at_n: np.ndarray, num_cells: int) -> np.ndarray:
    value_ng = np.zeros((num_cells, own_ng.shape[1]), np.float32)
    value_ng[at_n] = own_ng
    return value_ng


@contextmanager
def _undisturbed(module: str, seed: int) -> Iterator[Any]:
    """Import a module, let it run with seeds set and nothing said, and put back what it changes in the process."""
    import torch

    loggers = {name: logging.getLogger(name) for name in _LOGGERS}
    levels = {name: logger.level for name, logger in loggers.items()}
    environment, is_benchmark = dict(os.environ), torch.backends.cudnn.benchmark
    is_deterministic = torch.backends.cudnn.deterministic
    # these packages draw from the process's generators
    before = (random.getstate(), np.random.get_state())  # noqa: NPY002
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            package = import_module(module)
            for logger in loggers.values():  # after the import, which sets levels of its own
                logger.setLevel(logging.ERROR)
            torch.manual_seed(seed)
            yield package
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002
            torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = is_benchmark, is_deterministic
            for name in set(os.environ) - set(environment):
                del os.environ[name]
            os.environ.update(environment)
            for name, logger in loggers.items():
                logger.setLevel(levels[name])
