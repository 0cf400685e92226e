"""Targets of regulators from attention: which genes ask most for a regulator, compared with all else that they ask for.

Source: scGPT (Cui et al., Nature Methods 2024, "attention-based gene interactions"; published notebook
``Tutorial_Attention_GRN``). Every cell is fed the same genes. In one layer, each head scores gene i against gene j by
``q_i . k_j``, neither scaled nor put through a softmax; each score becomes its rank in its row, then in its column,
over the number of genes; ranks are averaged over heads, then over cells. The targets of a regulator stand in its
column.

Departures, all of them mendings: every cell counts (the notebook leaves the first of each condition out of the sum and
in the count); equal scores share the mean of their ranks (the notebook orders them by accident, and ranks of columns,
which are ranks of integers, are full of them); special tokens are in no rank, since they are no genes; arithmetic is
float32 throughout; no cell is padded. Only the columns of regulators are kept, ``[r, g]`` and not ``[g, g]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cellwright.data.panel import select_genes
from cellwright.protocols import AttentiveModel, CellSource
from cellwright.tasks.embed import check_vocab
from cellwright.tasks.inference import InferenceOptions, choose_device, in_use, refuse_max_length, run_tokenizer
from cellwright.types import TokenBatch

_ROWS = 2048  # cells read at once


def attention_ranks(
    model: Any,
    source: CellSource,
    genes: Sequence[str],
    *,
    regulators: Sequence[str],
    layer: int = -1,
    options: InferenceOptions | None = None,
) -> np.ndarray:
    """Return how strongly each gene attends to each regulator: mean over cells and heads of the rank of its score.

    Parameters
    ----------
    model
        A `cellwright.models.Model` whose network is a `cellwright.protocols.AttentiveModel`.
    source
        Cells of one condition, each fed all of ``genes``: those that it does not express have the value 0.
    genes
        At least two, of the model's vocabulary.
    regulators
        Genes whose columns are wanted, among ``genes``.
    layer
        Which layer, -1 = the last (published).
    options
        How to run; precision must be float32. Time grows with the square of the genes, memory with it for one cell.

    Returns
    -------
    float64 ``[r, g]``, 0 .. 1: the rank of the pair in its column, from 0, over the number of genes; 0.5 is chance. A
    difference of two such arrays lies in -1 .. 1.

    Raises
    ------
    ValueError
        The network cannot tell, the family cannot be fed silent genes, there is no such layer or cell, a regulator is
        not among the genes, or scores are not finite.
    """
    options = options or InferenceOptions()
    refuse_max_length(options, "attention is read between all genes that are named (num_genes, --num-genes)")
    genes = list(genes)
    _check(model, source, genes, regulators, layer, options)
    gene_g = torch.from_numpy(model.vocab.ids(genes))
    at_r = torch.tensor([genes.index(name) for name in regulators])
    inputs = {"genes": "panel", "panel": genes, "max_length": len(genes) + len(model.vocab.specials) + 1}
    total_rg = torch.zeros(len(at_r), len(genes), dtype=torch.float64)
    with in_use([model.network], choose_device(options.device)):
        for _, tokens in run_tokenizer(model, source, options, what="attention", inputs=inputs):
            q_nghd, k_nghd = _of_genes(tokens, gene_g, *model.network.queries_keys(tokens, layer))
            for q_ghd, k_ghd in zip(q_nghd, k_nghd, strict=True):
                total_rg += _cell_ranks(q_ghd, k_ghd, at_r)
    if not torch.isfinite(total_rg).all():
        raise ValueError("attention scores are not finite; the checkpoint is damaged")
    return (total_rg / len(source)).numpy()


def fed_genes(source: CellSource, regulators: Sequence[str], *, num_genes: int, min_cells: int) -> tuple[str, ...]:
    """Choose the genes that every cell is fed: the most variable ones that enough cells express, and the regulators.

    Parameters
    ----------
    regulators
        Genes of the vocabulary that are fed in any case, also where no cell expresses them.
    num_genes
        How many, before regulators are added (published 1,200).
    min_cells
        Genes expressed in fewer cells are left out, so that there may be fewer.

    Returns
    -------
    Names, in the order of the vocabulary.
    """
    num_v = np.zeros(len(source.vocab), np.int64)
    for start in range(0, len(source), _ROWS):
        cells = source.read(np.arange(start, min(start + _ROWS, len(source))))
        num_v += np.bincount(cells.gene_z[cells.value_z > 0], minlength=len(num_v))
    is_fed_v = num_v >= min_cells
    if is_fed_v.sum() > num_genes:
        is_chosen_v = np.zeros(len(num_v), bool)
        is_chosen_v[select_genes(source, num_genes)] = True
        is_fed_v &= is_chosen_v
    always = set(regulators)
    id_g = source.vocab.ids(source.vocab.genes)
    return tuple(gene for gene, at in zip(source.vocab.genes, id_g, strict=True) if is_fed_v[at] or gene in always)


def _check(
    model: Any, source: CellSource, genes: list[str], regulators: Sequence[str], layer: int, options: InferenceOptions
) -> None:
    check_vocab(model, source)
    network, title = model.network, model.family.title
    if not isinstance(network, AttentiveModel):
        raise ValueError(
            f"{title} is not fed the same genes in every cell, so attention between genes cannot be compared; rank "
            "targets by vectors instead"
        )
    if not -network.attention_layers <= layer < network.attention_layers:
        raise ValueError(
            f"layer = {layer}: {title} has layers 0 to {network.attention_layers - 1} here, or -1 = the last"
        )
    if options.precision != "float32":
        raise ValueError(f"attention scores are ranked in float32; {options.precision} would tie them, leave it out")
    if not len(source) or len(genes) < 2:
        raise ValueError(f"{len(source)} cells and {len(genes)} genes were given; attention needs 1 cell and 2 genes")
    known = set(model.vocab.genes)
    if absent := [name for name in genes if name not in known]:
        raise ValueError(f"{len(absent)} genes are not in the model's vocabulary: {', '.join(absent[:3])}")
    if len(set(genes)) != len(genes):
        raise ValueError("a gene is named twice among those that the cells are fed")
    if strange := [name for name in regulators if name not in genes]:
        raise ValueError(f"regulator {strange[0]!r} is not among the {len(genes)} genes that the cells are fed")


def _of_genes(tokens: TokenBatch, gene_g: Tensor, *parts_nthd: Tensor) -> list[Tensor]:
    """Return the parts ``[n, g, h, dh]`` of these genes, in float32; all cells must have the same tokens."""
    layout = tokens.layout
    gene_nt = layout.pack(tokens.gene_nt)[0].unflatten(0, (layout.num_cells, -1))
    place_v = torch.full((int(gene_nt.max()) + 1,), -1, device=gene_nt.device)
    place_v[gene_nt[0]] = torch.arange(gene_nt.shape[1], device=gene_nt.device)
    at_g = place_v[gene_g.to(gene_nt.device)]
    assert bool((gene_nt == gene_nt[0]).all()), "cells are fed different genes"
    assert bool((at_g >= 0).all()), "a gene is not fed"
    return [layout.pack(x_nthd)[0].unflatten(0, gene_nt.shape)[:, at_g].float() for x_nthd in parts_nthd]


def _cell_ranks(q_ghd: Tensor, k_ghd: Tensor, at_r: Tensor) -> Tensor:
    """Return one cell's ranks of the regulators' columns, mean over heads, float64 ``[r, g]`` on the CPU."""
    num = q_ghd.shape[1]
    heads = (column_ranks(q_ghd[:, h] @ k_ghd[:, h].T, at_r.to(q_ghd.device)) for h in range(num))
    return sum(rank_rg.double().cpu() for rank_rg in heads) / num


def column_ranks(score_gg: Tensor, at_r: Tensor) -> Tensor:
    """Rank scores in their rows, then those ranks in their columns, and return chosen columns.

    Parameters
    ----------
    score_gg
        Row: the gene that asks. Column: the gene that is asked for.
    at_r
        int64 ``[r]``: columns wanted.

    Returns
    -------
    float32 ``[r, g]``: rank, from 0, over the number of genes; equal numbers share the mean of their ranks.
    """
    rank_gr = ranks_in_rows(score_gg, score_gg[:, at_r])
    rank_rg = rank_gr.T.contiguous()
    return ranks_in_rows(rank_rg, rank_rg) / len(score_gg)


def ranks_in_rows(among_rk: Tensor, value_rv: Tensor) -> Tensor:
    """Return the rank, from 0, of each value among the numbers of its row, one of which it is; float32 ``[r, v]``.

    Equal numbers share the mean of their ranks. A row is sorted once, whatever the number of values.
    """
    if among_rk.device.type == "cpu":  # numpy's sort of float32 is ten times as fast as PyTorch's there
        sorted_rk = torch.from_numpy(np.sort(among_rk.numpy(), axis=1))
    else:
        sorted_rk = among_rk.sort(dim=1).values
    value_rv = value_rv.contiguous()
    first_rv, end_rv = (torch.searchsorted(sorted_rk, value_rv, right=right) for right in (False, True))
    return (first_rv + end_rv - 1).float() / 2
