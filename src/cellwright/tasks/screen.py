"""Open a perturbation screen: which cells, which profiles, which controls are seen and which scored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field
from scipy import sparse

from cellwright.config import Config, did_you_mean
from cellwright.data.cells import NAME_COLUMNS, Cells, open_cells
from cellwright.data.genes import id_kind
from cellwright.data.perturbation_splits import ProfileNames
from cellwright.data.perturbations import Perturbations, align_genes, read_perturbations
from cellwright.data.sources import open_source
from cellwright.data.splits import label_codes
from cellwright.tasks.lessons import Screen
from cellwright.vocab import GeneVocab

if TYPE_CHECKING:
    import pandas as pd

TARGET_SUM = 1e4


class ScreenOptions(Config):
    """How a screen is read."""

    perturbation: str | None = None
    """Column of obs that names what was done to each cell; unset = found by its name."""
    control: str | None = None
    """Name of the controls in it; unset = found (control, ctrl, non-targeting, DMSO, ...)."""
    kind: Literal["auto", "genes", "labels"] = "auto"
    """What the names are: auto | genes | labels (drugs, cytokines)."""
    context: str | None = None
    """Column of obs with the context (cell type, cell line); unset = one context."""
    tech_batch: str | None = None
    """Column of obs with the sequencing batch, for pairing cells with controls."""
    total: str | None = None
    """Column of obs with all molecules of each cell, where the matrix holds some genes only."""
    min_cells: int = Field(20, ge=4)
    """Fewest cells of a profile; profiles of fewer are left out."""
    share_controls: bool = False
    """Show models the controls that effects are scored against, as published benchmarks do; inflates correlations."""
    layer: str | None = None
    """Matrix to read: X, raw, or a layer's name; unset = counts where there are any."""
    assume: str | None = None
    """What the values are, overriding what is detected: raw | normalised | log1p."""


def open_screen(data: Any, options: ScreenOptions | None = None, *, seed: int = 0) -> Screen:
    """Open a data set as a perturbation screen.

    Parameters
    ----------
    data
        AnnData or path, see `cellwright.data.open_cells`. Its own genes are the panel; symbols stand for Ensembl ids
        where ``var`` has them.
    seed
        Divides controls into seen and scored ones, and the cells of each profile into halves.

    Raises
    ------
    ValueError
        What `read_perturbations` refuses; fewer than two profiles with enough cells; no context with enough controls.
    """
    options = options or ScreenOptions()
    cells, obs = _open(data, options)
    perturbations = read_perturbations(
        obs, column=options.perturbation, control=options.control, kind=options.kind, vocab=cells.vocab
    )
    context_n, contexts = _contexts(obs, options.context)
    tech_batch_n = None if options.tech_batch is None else label_codes(obs, options.tech_batch)[0]
    profiles, profile_n, notes = _profiles(perturbations, context_n, contexts, options)
    rng = np.random.default_rng(seed)
    is_seen_n, is_scored_n = _divide_controls(profile_n, context_n, options.share_controls, rng)
    genes = tuple(cells.vocab.genes)
    at_p = align_genes(perturbations.all_parts, genes) if perturbations.kind == "genes" else []
    notes = [*perturbations.notes, *notes, *([_SHARED] if options.share_controls else [])]
    return Screen(
        source=cells.contract.source,
        genes=genes,
        log_ng=log_expression(cells, obs, options.total),
        perturbations=perturbations,
        profiles=profiles,
        profile_n=profile_n,
        contexts=contexts,
        context_n=context_n,
        tech_batch_n=tech_batch_n,
        is_seen_n=is_seen_n,
        is_scored_n=is_scored_n,
        half_n=_halves(profile_n, rng),
        obs_names=cells.obs_names,
        panel_at={part: int(at) for part, at in zip(perturbations.all_parts, at_p, strict=False) if at >= 0},
        contract=cells.contract,
        seed=seed,
        notes=tuple(notes),
    )


_SHARED = "models see the controls that effects are scored against: correlations hold the noise of these controls"


def _open(data: Any, options: ScreenOptions) -> tuple[Cells, pd.DataFrame]:
    """Open the cells with their own genes as vocabulary."""
    opened = open_source(data)
    try:
        var = opened.var_of(options.layer or "X")
    finally:
        if isinstance(data, str | Path):
            opened.close()
    names = [str(name) for name in var.index]
    if id_kind(names).startswith("ensembl"):
        by_lower = {str(column).lower(): column for column in var.columns}
        symbols = [by_lower[name] for name in NAME_COLUMNS if name in by_lower and "ensembl" not in name]
        if symbols:
            given = [str(value) if value == value else "" for value in var[symbols[0]]]
            names = [symbol or name for symbol, name in zip(given, names, strict=True)]
    vocab = GeneVocab.from_genes(dict.fromkeys(names), {})
    cells = open_cells(
        data,
        vocab,
        accepts=("raw", "normalised", "log1p"),
        layer=options.layer,
        assume=options.assume,
        genes="exact",
    )
    return cells, cells.obs


def _contexts(obs: pd.DataFrame, column: str | None) -> tuple[np.ndarray, tuple[str, ...]]:
    return label_codes(obs, column) if column is not None else (np.zeros(len(obs), np.int64), ("all",))


def _profiles(
    perturbations: Perturbations, context_n: np.ndarray, contexts: tuple[str, ...], options: ScreenOptions
) -> tuple[ProfileNames, np.ndarray, list[str]]:
    """Name the profiles with enough cells in contexts with enough controls, and give every cell its profile."""
    code_n, num_codes = perturbations.code_n, len(perturbations.names)
    num_controls_c = np.bincount(context_n[code_n < 0], minlength=len(contexts))
    has_controls_c = num_controls_c >= options.min_cells
    if not has_controls_c.any():
        raise ValueError(
            f"no context has {options.min_cells} control cells (the most are {num_controls_c.max()}); lower min_cells "
            "(--min-cells), or give more controls"
        )
    count_ck = np.zeros((len(contexts), num_codes), np.int64)
    np.add.at(count_ck, (context_n[code_n >= 0], code_n[code_n >= 0]), 1)
    is_kept_ck = (count_ck >= options.min_cells) & has_controls_c[:, None]
    at_ck = np.argwhere(is_kept_ck)
    if len(at_ck) < 2:
        raise ValueError(
            f"{len(at_ck)} perturbations have {options.min_cells} cells or more beside controls, 2 are needed: "
            "lower min_cells (--min-cells), or give more cells"
        )
    place_ck = np.full(is_kept_ck.shape, -2)
    place_ck[is_kept_ck] = np.arange(len(at_ck))
    profile_n = np.where(code_n >= 0, place_ck[context_n, np.maximum(code_n, 0)], -1)
    profile_n[(code_n < 0) & ~has_controls_c[context_n]] = -2
    names = ProfileNames(
        parts=tuple(perturbations.parts[code] for _, code in at_ck), context=tuple(contexts[c] for c, _ in at_ck)
    )
    lost = [
        f"{perturbations.names[code]}{f' in {contexts[c]}' if len(contexts) > 1 else ''} ({count_ck[c, code]})"
        for c, code in np.argwhere((count_ck > 0) & ~is_kept_ck)
    ]
    if not lost:
        return names, profile_n, []
    shown = ", ".join(lost[:8]) + (f" and {len(lost) - 8} more" if len(lost) > 8 else "")
    why = f"with fewer than {options.min_cells} cells, or controls beside them"
    return names, profile_n, [f"{len(lost)} profiles {why}, are left out: {shown}"]


def _divide_controls(
    profile_n: np.ndarray, context_n: np.ndarray, is_shared: bool, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    is_seen_n, is_scored_n = np.zeros(len(profile_n), bool), np.zeros(len(profile_n), bool)
    for context in np.unique(context_n):
        controls = rng.permutation(np.flatnonzero((profile_n == -1) & (context_n == context)))
        middle = len(controls) // 2
        is_seen_n[controls if is_shared else controls[:middle]] = True
        is_scored_n[controls if is_shared else controls[middle:]] = True
    return is_seen_n, is_scored_n


def _halves(profile_n: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    half_n = np.zeros(len(profile_n), np.int8)
    for u in range(profile_n.max() + 1):
        rows = rng.permutation(np.flatnonzero(profile_n == u))
        half_n[rows[len(rows) // 2 :]] = 1
    return half_n


def log_expression(cells: Cells, obs: pd.DataFrame, total: str | None) -> sparse.csr_matrix:
    """Return log1p of counts per 10,000 over the panel; totals come from a column of obs where one is named."""
    gene_ids = cells.vocab.ids(cells.vocab.genes)
    if total is None:
        return cells.logcp10k(gene_ids)
    if total not in obs.columns:
        known = [str(name) for name in obs.columns]
        raise ValueError(f"no column {total!r} in obs{did_you_mean(total, known) or f'; it has {known}'}")
    if cells.state != "raw":
        raise ValueError(f"total = {total!r} is for counts, the values are {cells.state}; leave it out (--total)")
    total_n = np.asarray(obs[total], np.float64)
    value_ng = cells.values(gene_ids)
    if not (np.isfinite(total_n).all() and (total_n >= value_ng.sum(axis=1).A1 - 0.5).all()):
        raise ValueError(f"column {total!r} is smaller than the counts of some cells; it must hold all their molecules")
    scale_n = np.repeat(TARGET_SUM / np.maximum(total_n, 1), np.diff(value_ng.indptr))
    log_z = np.log1p(value_ng.data * scale_n).astype(np.float32)
    return sparse.csr_matrix((log_z, value_ng.indices, value_ng.indptr), value_ng.shape)
