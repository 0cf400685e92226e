"""What is known of cells and what is asked of them, before a network is asked to fill in the rest.

A `Question` is where the hidden is left behind: the values of genes that are not known are dropped before the known
ones are turned into bins, so that nothing that follows can see them. Bins of a cell are ranks among its *known* genes
(pre-training ranked known and unknown genes together; of a random part the ranks are the same but for chance).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from cellwright.config import some_of
from cellwright.protocols import CellSource
from cellwright.tasks.embed import check_vocab
from cellwright.tasks.inference import (
    READ_AHEAD,
    InferenceOptions,
    choose_device,
    in_use,
    refuse_max_length,
    run_network,
)
from cellwright.types import CellBatch, Draw


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Question:
    """Cells with some genes known and some asked for; a gene that is neither plays no part. Axis g: ``gene_ids``."""

    gene_ids: np.ndarray
    """int64 ``[g]``: vocabulary ids, ascending."""
    value_ng: np.ndarray
    """float32: values as the network is fed them (bins); 0 where a gene is silent or not known."""
    is_known_ng: np.ndarray
    is_asked_ng: np.ndarray
    row_n: np.ndarray
    """int64: random orders are keyed by it."""
    cell_nd: np.ndarray | None = None
    """float32 cell prompt: embeddings as the network makes them, not scaled to length 1."""

    def __post_init__(self):
        shape = self.is_known_ng.shape
        if self.value_ng.shape != shape or self.is_asked_ng.shape != shape or shape[1] != len(self.gene_ids):
            raise ValueError("values, known and asked genes must be of the same cells and genes")
        if (np.diff(self.gene_ids) <= 0).any():
            raise ValueError("gene ids must ascend")
        if (self.is_known_ng & self.is_asked_ng).any():
            raise ValueError("a gene is known or asked for, not both")
        if self.value_ng[~self.is_known_ng].any():
            raise ValueError("a value that is not known reached the question")
        if self.cell_nd is not None and len(self.cell_nd) != len(self.row_n):
            raise ValueError(f"{len(self.cell_nd)} cell prompts for {len(self.row_n)} cells")

    def __len__(self) -> int:
        return len(self.row_n)


def fed_ids(model: Any) -> np.ndarray:
    """Return the vocabulary ids of the genes that the model is fed, ascending: its panel, or all genes."""
    return np.sort(model.vocab.ids(model.vocab.genes if model.inputs.panel is None else model.inputs.panel))


def is_fed_zeros(model: Any) -> bool:
    """Whether the model was made for cells with their silent genes, value 0, among the tokens."""
    return model.inputs.genes == "panel"


def draw_known(num_cells: int, num_genes: int, fraction: float, *, seed: int) -> np.ndarray:
    """Draw the genes that are known of each cell: bool ``[n, g]``, ``fraction`` of the genes, rounded.

    The i-th cell depends on (seed, i) alone.

    Raises
    ------
    ValueError
        When the fraction is outside 0 .. 1, or nothing is left to ask for.
    """
    num_known = round(fraction * num_genes)
    if not 0 <= fraction < 1 or num_known == num_genes:
        raise ValueError(
            f"known_fraction = {fraction} leaves none of {num_genes} genes to ask for; it is at least 0 and below 1"
        )
    is_known_ng = np.zeros((num_cells, num_genes), bool)
    for cell, own in enumerate(is_known_ng):
        own[np.random.default_rng([seed, cell]).permutation(num_genes)[:num_known]] = True
    return is_known_ng


def named_genes(model: Any, names: Sequence[str], gene_ids: np.ndarray) -> np.ndarray:
    """Return which of ``gene_ids`` are called so (aliases and Ensembl ids too): bool ``[g]``."""
    from cellwright.data.genes import match_genes

    try:
        found = match_genes(list(names), model.vocab, mode="harmonise").id_g
    except ValueError:  # none is known; what it says is about data
        found = np.full(len(names), -1)
    if absent := [name for name, i in zip(names, found, strict=True) if i not in gene_ids]:
        raise ValueError(f"{len(absent)} of {len(names)} known genes are none of the model's: {some_of(absent, 3)}")
    return np.isin(gene_ids, found)


def ask(
    model: Any,
    source: CellSource,
    is_known_ng: np.ndarray,
    *,
    gene_ids: np.ndarray,
    is_asked_ng: np.ndarray | None = None,
    cell_nd: np.ndarray | None = None,
    options: InferenceOptions | None = None,
) -> Question:
    """Read what is known of cells, and nothing else.

    Parameters
    ----------
    model
        A `cellwright.models.Model`.
    source
        Cells mapped onto the model's vocabulary.
    is_known_ng
        bool: genes whose value is known, silent ones too.
    gene_ids
        Vocabulary ids of the columns, ascending.
    is_asked_ng
        bool: genes that are asked for; ``None`` = all that are not known.
    cell_nd
        Cell prompts, see `cell_prompts`.
    options
        Of these, ``seed`` and ``ties``.
    """
    options = options or InferenceOptions()
    refuse_max_length(options, "all known genes are fed")
    check_vocab(model, source)
    changes = {"genes": "expressed", "max_length": len(gene_ids) + 2}
    if options.ties is not None:
        changes["ties"] = options.ties
    tokenize, draw = model.tokenizer(**changes), Draw(options.seed)
    column_v = np.full(len(model.vocab), -1)
    column_v[gene_ids] = np.arange(len(gene_ids))
    value_ng, row_n = np.zeros(is_known_ng.shape, np.float32), np.zeros(len(source), np.int64)
    for start in range(0, len(source), READ_AHEAD):
        rows = np.arange(start, min(start + READ_AHEAD, len(source)))
        cells = only_known(source.read(rows), is_known_ng[rows], column_v)
        row_n[rows] = cells.row_n
        tokens = tokenize(cells, draw).packed()
        column_t = column_v[tokens.gene_nt[0].numpy()]
        cell_t = tokens.layout.cell_of_token().numpy()
        is_gene_t = column_t >= 0
        value_ng[start + cell_t[is_gene_t], column_t[is_gene_t]] = tokens.value_nt[0].numpy()[is_gene_t]
    return Question(
        gene_ids=np.asarray(gene_ids, np.int64),
        value_ng=value_ng,
        is_known_ng=is_known_ng,
        is_asked_ng=~is_known_ng if is_asked_ng is None else is_asked_ng,
        row_n=row_n,
        cell_nd=cell_nd,
    )


def only_known(cells: CellBatch, is_known_ng: np.ndarray, column_v: np.ndarray) -> CellBatch:
    """Return the cells without the genes that are not known; ``column_v``: column of each vocabulary id, -1 = none."""
    cell_z, column_z = np.repeat(np.arange(len(cells)), cells.num_genes_n), column_v[cells.gene_z]
    is_kept_z = (column_z >= 0) & is_known_ng[cell_z, column_z]
    indptr_n1 = np.concatenate([[0], np.cumsum(is_kept_z)])[cells.indptr_n1]
    return replace(cells, indptr_n1=indptr_n1, gene_z=cells.gene_z[is_kept_z], value_z=cells.value_z[is_kept_z])


def cell_prompts(model: Any, source: CellSource, options: InferenceOptions | None = None) -> np.ndarray:
    """Embed whole cells as cell prompts are made in training: float32 ``[n, d]``, not scaled to length 1."""
    options = options or InferenceOptions()
    check_vocab(model, source)
    cell_nd = np.empty((len(source), model.network.width), np.float32)
    with in_use([model.network], choose_device(options.device)):
        for at_n, out in run_network(model, source, options, what="embed"):
            cell_nd[at_n] = out.cell_nd.float().cpu().numpy()
    return cell_nd


def first_tokens(model: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and values of the tokens that every cell begins with, whatever it expresses."""
    nothing = CellBatch(
        indptr_n1=np.zeros(2, np.int64),
        gene_z=np.zeros(0, np.int32),
        value_z=np.zeros(0, np.float32),
        row_n=np.zeros(1, np.int64),
        total_n=np.zeros(1),
    )
    tokens = model.tokenizer(genes="expressed")(nothing, Draw()).packed()
    return tokens.gene_nt[0].numpy(), tokens.value_nt[0].to(torch.float32).numpy()
