"""Gene context embeddings, cell by cell: what a decoder makes of every gene in every cell, silent genes included.

Source: scFoundation (Hao et al., Nature Methods 21:1481, 2024), published outputs ``gene`` and ``gene_batch``. A cell
is 19,264 vectors of 512 numbers, 39 MB, so answers come in blocks and are never all in memory. Means over cells are in
`cellwright.tasks.gene_features`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from cellwright.protocols import CellSource, DepthTokenizer
from cellwright.tasks.denoise import answer_places, answered_ids
from cellwright.tasks.embed import check_vocab
from cellwright.tasks.gene_features import CONTEXT
from cellwright.tasks.inference import (
    InferenceOptions,
    choose_device,
    in_precision,
    in_use,
    refuse_max_length,
    token_batches,
)
from cellwright.types import TokenBatch

BLOCK_CELLS = 4
"""Cells that are answered before they are handed on."""
MOST_TOGETHER = 64
"""Cells that one pass can hold where they are asked to be together; the published advice is 5."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneContexts:
    """States of genes in cells, made as they are iterated over, once: (first row, float32 ``[rows, g, d]``)."""

    genes: tuple[str, ...]
    num_cells: int
    is_together: bool
    blocks: Iterator[tuple[int, np.ndarray]]

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        return self.blocks


def gene_contexts(
    model: Any,
    source: CellSource,
    *,
    gene_ids: np.ndarray | None = None,
    is_together: bool = False,
    options: InferenceOptions | None = None,
) -> GeneContexts:
    """Return the decoder's states of genes for the cells of ``source``, in order, a block at a time.

    Parameters
    ----------
    model
        A `cellwright.models.Model` whose network has states of genes in context, and is fed whole panels.
    gene_ids
        Vocabulary ids to hand on, in this order; ``None`` = all that the model is fed. The model sees all of them.
    is_together
        Run all cells in one pass, with what cells share taken from all of them (published ``gene_batch``).
    options
        How to run. A cell has as many tokens as the model has genes, so ``max_tokens`` bounds cells at a time.

    Raises
    ------
    ValueError
        The family has no such states, a gene is none that it is fed, ``max_length`` is given, cells are too many
        to be together, a cell expresses nothing, or the network returns numbers that are not finite.
    """
    options = options or InferenceOptions()
    refuse_max_length(options, "genes are read in cells with all genes of the model")
    check_vocab(model, source)
    if CONTEXT not in model.network.produces or not isinstance(model.tokenizer(), DepthTokenizer):
        raise ValueError(
            f"{model.family.title} has no states of genes beyond those that a cell expresses; use a scFoundation model"
        )
    known = answered_ids(model)
    gene_ids = known if gene_ids is None else np.asarray(gene_ids, np.int64)
    if strange := set(gene_ids.tolist()) - set(known.tolist()):
        raise ValueError(f"gene id {min(strange)} is none of the {len(known)} genes the model is fed")
    if is_together:
        if len(source) > MOST_TOGETHER:
            raise ValueError(
                f"{len(source)} cells are too many for one pass, {MOST_TOGETHER} are the most; leave together out "
                "(--together), or give fewer cells"
            )
        model = model.with_config(["key_maximum=batch"])
    blocks = _blocks(model, source, gene_ids, is_together, options)
    genes = tuple(model.vocab.tokens[i] for i in gene_ids)
    return GeneContexts(genes=genes, num_cells=len(source), is_together=is_together, blocks=blocks)


def _blocks(
    model: Any, source: CellSource, gene_ids: np.ndarray, is_together: bool, options: InferenceOptions
) -> Iterator[tuple[int, np.ndarray]]:
    tokenize = model.tokenizer(genes="panel")
    device, step = choose_device(options.device), BLOCK_CELLS
    if is_together:
        step = len(source)
        options = options.model_copy(update={"batch_size": step, "max_tokens": sys.maxsize})
    with in_use([model.network], device):
        with tqdm(total=len(source), desc="genes", unit="cell", disable=not options.progress, leave=False) as bar:
            for start in range(0, len(source), step):
                cells = source.read(np.arange(start, min(start + step, len(source))))
                found = [
                    (at_n, _states(model, tokens, gene_ids, options))
                    for at_n, tokens in token_batches(tokenize, cells, options, device)
                ]
                block_ngd = np.empty((len(cells), *found[0][1].shape[1:]), np.float32)
                for at_n, part_ngd in found:
                    block_ngd[at_n] = part_ngd
                    bar.update(len(at_n))
                yield start, block_ngd


def _states(model: Any, tokens: TokenBatch, gene_ids: np.ndarray, options: InferenceOptions) -> np.ndarray:
    place_g = torch.from_numpy(answer_places(tokens, gene_ids, len(model.vocab)))
    device = tokens.gene_nt.device
    with in_precision(options, device):
        out = model.network(tokens, {CONTEXT})
    context_ntd = tokens.layout.pack(out.context_ntd)[0].unflatten(0, (tokens.layout.num_cells, -1))
    context_ngd = context_ntd[:, place_g.to(device)].float().cpu().numpy()
    if not np.isfinite(context_ngd).all():
        raise ValueError("states of genes are not finite; the checkpoint is damaged or precision too low")
    return context_ngd
