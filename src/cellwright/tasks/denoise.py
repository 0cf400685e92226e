"""Denoising: what cells would hold if they had been sequenced more deeply.

Source: scFoundation's read-depth enhancement (Hao et al., Nature Methods 21:1481, 2024): the model is told the cell's
own depth and a larger one, and predicts every gene's value at that depth. Any family will do whose tokeniser knows
depth and whose network predicts values of genes. Baselines that must stand beside any result are in
`cellwright.baselines.denoising`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from cellwright.protocols import CellSource, DepthTokenizer
from cellwright.tasks.embed import check_vocab
from cellwright.tasks.inference import (
    InferenceOptions,
    choose_device,
    in_precision,
    in_use,
    refuse_max_length,
    token_batches,
)
from cellwright.tokens.depth import DepthTarget
from cellwright.types import TokenBatch

BLOCK_VALUES = 8_000_000  # values answered before they are handed on: 32 MB
SCALE = "log1p of molecules per 10,000 at the depth asked for"


@dataclass(frozen=True, slots=True, kw_only=True)
class DenoisedCells:
    """Values of cells at a depth that was asked for."""

    value_ng: np.ndarray
    """float32 ``[n, g]``: log1p of molecules per 10,000, never negative; NaN in cells without any molecule."""
    genes: tuple[str, ...]
    """Names in the model's vocabulary."""
    gene_ids: np.ndarray
    """int64 ``[g]``: their ids."""
    depth: DepthTarget

    @property
    def num_empty(self) -> int:
        """Cells without any molecule of the model's genes; nothing can be told of them."""
        return int(np.isnan(self.value_ng).any(axis=1).sum())


def denoise_cells(
    model: Any,
    source: CellSource,
    depth: DepthTarget,
    *,
    gene_ids: np.ndarray | None = None,
    options: InferenceOptions | None = None,
) -> DenoisedCells:
    """Predict every cell's values at a read depth; all answers at once in memory. See `denoise_blocks`."""
    gene_ids = answered_ids(model) if gene_ids is None else np.asarray(gene_ids, np.int64)
    value_ng = np.empty((len(source), len(gene_ids)), np.float32)
    for start, block_ng in denoise_blocks(model, source, depth, gene_ids=gene_ids, options=options):
        value_ng[start : start + len(block_ng)] = block_ng
    genes = tuple(model.vocab.tokens[i] for i in gene_ids)
    return DenoisedCells(value_ng=value_ng, genes=genes, gene_ids=gene_ids, depth=depth)


def denoise_blocks(
    model: Any,
    source: CellSource,
    depth: DepthTarget,
    *,
    gene_ids: np.ndarray | None = None,
    options: InferenceOptions | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first row, float32 ``[rows, g]``) for the cells of ``source``, in order; memory stays bounded.

    Parameters
    ----------
    model
        A `cellwright.models.Model` of a family that knows read depth.
    depth
        What to predict at.
    gene_ids
        Vocabulary ids to answer for, in this order; ``None`` = all that the model is fed. The model sees all of them.
    options
        How to run. A cell has as many tokens as the model has genes, so ``max_tokens`` bounds cells at a time.

    Raises
    ------
    ValueError
        The family knows no depth, a gene is not one that the model is fed, ``max_length`` is given, or the network
        returns numbers that are not finite.

    Notes
    -----
    A cell without any molecule of the model's genes gets NaN. Negative predictions become 0: values are logarithms of
    1 + a share of molecules.
    """
    options = options or InferenceOptions()
    refuse_max_length(options, "cells are denoised with all genes of the model")
    check_vocab(model, source)
    tokenize = check_denoises(model, depth)
    gene_ids = answered_ids(model) if gene_ids is None else np.asarray(gene_ids, np.int64)
    if strange := set(gene_ids.tolist()) - set(answered_ids(model).tolist()):
        raise ValueError(f"gene id {min(strange)} is none of the {len(answered_ids(model))} genes the model is fed")
    step = max(1, BLOCK_VALUES // max(len(gene_ids), 1))
    device = choose_device(options.device)
    with in_use([model.network], device):
        with tqdm(total=len(source), desc="denoise", unit="cell", disable=not options.progress, leave=False) as bar:
            for start in range(0, len(source), step):
                cells = source.read(np.arange(start, min(start + step, len(source))))
                value_ng = np.full((len(cells), len(gene_ids)), np.nan, np.float32)
                has_n = np.flatnonzero(tokenize.depth_of(cells) > 0)
                for at_n, tokens in token_batches(tokenize, cells.take(has_n), options, device):
                    value_ng[has_n[at_n]] = _answers(model, tokens, gene_ids, options)
                    bar.update(len(at_n))
                bar.update(len(cells) - len(has_n))
                yield start, value_ng


def check_denoises(model: Any, depth: DepthTarget) -> Any:
    """Return the tokeniser for this depth, or raise ``ValueError`` where the model cannot denoise."""
    name = model.family.title
    if "value_nt" not in model.network.produces:
        raise ValueError(f"{name} predicts no values of genes, so it cannot denoise; use a scFoundation model")
    if not isinstance(model.tokenizer(), DepthTokenizer):
        raise ValueError(f"{name} knows no read depth, so it cannot denoise; use a family that does, as scFoundation")
    return model.tokenizer(genes="panel", depth=str(depth))


def answered_ids(model: Any) -> np.ndarray:
    """Return the vocabulary ids of the genes that a model is fed and answers for, int64, ascending."""
    panel = model.inputs.panel
    return np.sort(model.vocab.ids(model.vocab.genes if panel is None else panel))


def _answers(model: Any, tokens: TokenBatch, gene_ids: np.ndarray, options: InferenceOptions) -> np.ndarray:
    place_g = answer_places(tokens, gene_ids, len(model.vocab))
    with in_precision(options, tokens.gene_nt.device):
        out = model.network(tokens, {"value_nt"})
    value_nt = tokens.layout.pack(out.value_nt)[0].view(tokens.layout.num_cells, -1).float().cpu()
    value_ng = value_nt[:, torch.from_numpy(place_g)].clamp(min=0).numpy()
    if not np.isfinite(value_ng).all():
        raise ValueError("predicted values are not finite; the checkpoint is damaged or precision too low")
    return value_ng


def answer_places(tokens: TokenBatch, gene_ids: np.ndarray, num_entries: int) -> np.ndarray:
    """Return where each gene stands among a cell's tokens, which must be the same tokens in every cell; int64 ``[g]``.

    Raises
    ------
    ValueError
        Cells have other tokens than each other, or a gene is none of them.
    """
    layout = tokens.layout
    if len(set(layout.lengths)) > 1:
        raise ValueError("the cells' tokens differ in number, so genes were left out for length; unset max_length")
    gene_nt = layout.pack(tokens.gene_nt)[0].view(layout.num_cells, -1).cpu()
    place_v = np.full(num_entries, -1)
    place_v[gene_nt[0].numpy()] = np.arange(gene_nt.shape[1])
    place_g = place_v[gene_ids]
    if (place_g < 0).any() or not torch.equal(gene_nt, gene_nt[:1].expand_as(gene_nt)):
        raise ValueError("genes were left out for length, so they have no answer; unset max_length (--max-length)")
    return place_g
