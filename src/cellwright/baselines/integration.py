"""Simple ways to put several sequencing batches into one space: what a model must beat.

All see the same cells and the same genes. `INTEGRATION_BASELINES` is the table. Two entries are no competitors: cells
shuffled over all batches (batches mix perfectly, types are lost), and the labels themselves.

Sources: Harmony, Korsunsky et al. 2019 (Nature Methods 16:1289), by harmonypy; scVI, Lopez et al. 2018 (Nature Methods
15:1053), by scvi-tools; the bounds as in Open Problems (Luecken et al. 2025, Nature Biotechnology).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import numpy as np
from scipy import sparse

NUM_COMPONENTS = 50
SCVI_LATENT, SCVI_LAYERS = 30, 2
"""As its authors recommend for integration (Luecken et al. 2022)."""
_JITTER = 0.2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IntegrationCase:
    """What all baselines are given."""

    logcp10k_ng: sparse.csr_matrix
    """log1p of counts per 10,000, of the genes chosen."""
    tech_batch_n: np.ndarray
    """int64 codes, ``0 ..``."""
    counts_ng: sparse.csr_matrix | None = None
    """Raw counts of the same genes; ``None`` = there are none."""
    label_n: np.ndarray | None = None
    """Cell types, -1 = not known. For the roof alone."""
    seed: int = 0
    scvi_epochs: int | None = None
    """Passes of scVI's training; ``None`` = its own rule (400, fewer for more than 20,000 cells)."""


@dataclass(frozen=True, slots=True)
class IntegrationBaseline:
    """One entry of the table."""

    embed: Callable[[IntegrationCase], np.ndarray]
    """Returns float ``[n, d]``."""
    what: str
    package: str | None = None
    """Module that must be there."""
    extra: str = ""
    """Extra that brings it."""
    needs: Literal["counts", "labels", ""] = ""
    bound: Literal["floor", "roof"] | None = None

    def why_not(self, case: IntegrationCase) -> str:
        """Return why it cannot be run on these cells, or nothing."""
        if self.package is not None and find_spec(self.package) is None:
            return f'{self.package} is not installed: pip install "cellwright[{self.extra}]"'
        if self.needs == "counts" and case.counts_ng is None:
            return "it needs raw counts"
        if self.needs == "labels" and case.label_n is None:
            return "it needs labels"
        return ""


def pca(case: IntegrationCase) -> np.ndarray:
    """Return 50 principal components of all cells; nothing is done about batches."""
    return _components(case.logcp10k_ng, case.seed)


def genes(case: IntegrationCase) -> np.ndarray:
    """Return the genes themselves."""
    return np.asarray(case.logcp10k_ng.todense(), np.float64)


def centred_pca(case: IntegrationCase) -> np.ndarray:
    """Return 50 principal components of genes from which each batch's mean has been taken.

    Where batches have other shares of cell types, this takes differences between types away too.
    """
    value_ng = np.asarray(case.logcp10k_ng.todense(), np.float64)
    for batch in np.unique(case.tech_batch_n):
        at_n = case.tech_batch_n == batch
        value_ng[at_n] -= value_ng[at_n].mean(axis=0)
    return _components(value_ng, case.seed)


def harmony(case: IntegrationCase) -> np.ndarray:
    """Return the principal components of `pca`, corrected by Harmony with its own settings."""
    logger = logging.getLogger("harmonypy")
    with _quiet(logger):
        import harmonypy
        import pandas as pd

        logger.setLevel(logging.ERROR)  # the import sets it
        batch = pd.DataFrame({"batch": case.tech_batch_n.astype(str)})
        found = harmonypy.run_harmony(pca(case), batch, ["batch"], random_state=case.seed, verbose=False)
    corrected = np.asarray(found.Z_corr, np.float64)
    return corrected if corrected.shape[0] == len(batch) else corrected.T


def scvi(case: IntegrationCase) -> np.ndarray:
    """Return the latent means of scVI (30 dimensions, 2 layers, negative binomial), trained on the counts."""
    import torch

    loggers = [logging.getLogger(name) for name in ("scvi", "lightning.pytorch", "lightning.fabric")]
    with _quiet(*loggers), torch.random.fork_rng(devices=[]), torch.enable_grad():
        import anndata
        import pandas as pd
        from scvi import settings
        from scvi.model import SCVI

        before = settings.seed
        settings.seed = case.seed
        try:
            obs = pd.DataFrame({"batch": pd.Categorical(case.tech_batch_n.astype(str))})
            obs.index = [f"cell {n}" for n in range(len(obs))]
            cells = anndata.AnnData(sparse.csr_matrix(case.counts_ng, dtype=np.float32), obs=obs)
            SCVI.setup_anndata(cells, batch_key="batch")
            model = SCVI(cells, n_latent=SCVI_LATENT, n_layers=SCVI_LAYERS, gene_likelihood="nb")
            model.train(
                max_epochs=case.scvi_epochs, accelerator="cpu", enable_progress_bar=False, logger=False,
                enable_checkpointing=False,
            )  # fmt: skip
            return np.asarray(model.get_latent_representation(), np.float64)
        finally:
            settings.seed = before


def shuffled(case: IntegrationCase) -> np.ndarray:
    """Return the components of `pca`, each cell's given to another cell drawn from all batches."""
    return pca(case)[np.random.default_rng(case.seed).permutation(len(case.tech_batch_n))]


def label_positions(case: IntegrationCase) -> np.ndarray:
    """Return a corner for each cell type with Gaussian noise around it; cells of no known type lie in between."""
    label_n = np.asarray(case.label_n)
    noise = np.random.default_rng(case.seed).normal(scale=_JITTER, size=(len(label_n), int(label_n.max()) + 1))
    at_nk = np.equal.outer(label_n, np.arange(noise.shape[1])).astype(float)
    return at_nk + noise


INTEGRATION_BASELINES: Mapping[str, IntegrationBaseline] = {
    "shuffled": IntegrationBaseline(
        shuffled, "principal components of other cells, drawn from all batches: mixed, and no type is left",
        bound="floor",
    ),
    "genes": IntegrationBaseline(genes, "log1p of counts per 10,000 of the chosen genes, as they are"),
    "pca": IntegrationBaseline(pca, "50 principal components of the chosen genes, nothing done about batches"),
    "centred_pca": IntegrationBaseline(centred_pca, "the same after taking each batch's mean from each gene"),
    "harmony": IntegrationBaseline(
        harmony, "principal components corrected by Harmony (harmonypy, its own settings)", "harmonypy", "harmony"
    ),
    "scvi": IntegrationBaseline(
        scvi, "scVI's latent means (30 dimensions, 2 layers, negative binomial)", "scvi", "scvi", needs="counts"
    ),
    "labels": IntegrationBaseline(
        label_positions, "a corner for each cell type, read off the labels: nothing to be reached, a scale",
        needs="labels", bound="roof",
    ),
}  # fmt: skip
"""Name -> baseline, weakest idea first."""


def _components(value_ng: sparse.csr_matrix | np.ndarray, seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA

    num = min(NUM_COMPONENTS, min(value_ng.shape) - 1)
    if num < 1:
        raise ValueError(f"principal components need 2 cells and 2 genes; the matrix is {value_ng.shape}")
    return PCA(num, svd_solver="arpack", random_state=seed).fit_transform(value_ng.astype(np.float64))


@contextmanager
def _quiet(*loggers: logging.Logger) -> Iterator[None]:
    """Silence notes and warnings of other packages' own code; levels of their loggers are put back."""
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
