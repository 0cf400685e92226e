"""Vectors of genes: what a model knows of a gene by itself, and what it makes of the gene within cells.

Sources: scGPT (Cui et al., Nature Methods 2024, gene networks from the gene table); scFoundation (Hao et al., Nature
Methods 2024, gene context embeddings from the decoder). A gene's context is its mean over the cells in which it is a
token: the cells that express it, unless the tokeniser is asked for the whole panel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cellwright.protocols import CellSource
from cellwright.tasks.embed import check_vocab
from cellwright.tasks.inference import InferenceOptions, choose_device, in_precision, in_use, run_tokenizer

CONTEXT = "context_ntd"
"""Output of families whose decoder gives genes a state of their own."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GeneEmbedding:
    """One vector a gene."""

    genes: tuple[str, ...]
    x_gd: np.ndarray
    """float32 ``[g, d]``."""
    num_cells_g: np.ndarray
    """int64: cells that the vector is a mean over; 0 for vectors that no cell had a part in."""

    def take(self, genes: Sequence[str]) -> GeneEmbedding:
        """Return these genes, in this order; an unknown one is a ``ValueError``."""
        row_of = {gene: row for row, gene in enumerate(self.genes)}
        absent = [gene for gene in genes if gene not in row_of]
        if absent:
            raise ValueError(f"{len(absent)} genes have no embedding: {', '.join(absent[:3])}")
        rows = [row_of[gene] for gene in genes]
        return GeneEmbedding(genes=tuple(genes), x_gd=self.x_gd[rows], num_cells_g=self.num_cells_g[rows])


def gene_table(model: Any) -> GeneEmbedding:
    """Return the vectors that a network gives its genes before it sees a cell."""
    vocab = model.vocab
    ids = torch.from_numpy(vocab.ids(vocab.genes))
    with in_use([model.network], torch.device("cpu")):
        x_gd = model.network.gene_encoder(ids[None])[0].float().numpy()
    return GeneEmbedding(genes=vocab.genes, x_gd=x_gd, num_cells_g=np.zeros(len(ids), np.int64))


def context_embeddings(
    model: Any,
    source: CellSource,
    *,
    group_n: np.ndarray | None = None,
    min_cells: int = 1,
    options: InferenceOptions | None = None,
) -> dict[int, GeneEmbedding]:
    """Average each gene's state over cells.

    Parameters
    ----------
    group_n
        int ``[n]``: cells of one group are averaged together, -1 = left out; ``None`` = all cells are group 0.
    min_cells
        Genes that are a token of fewer cells of the group are left out.
    options
        How to run.

    Returns
    -------
    Group -> embedding: the decoder's states where the family has them (scFoundation), the last layer's otherwise.

    Raises
    ------
    ValueError
        When the source was mapped onto another vocabulary, a group has no gene left, or states are not finite.
    """
    options = options or InferenceOptions()
    check_vocab(model, source)
    group_n = np.zeros(len(source), np.int64) if group_n is None else np.asarray(group_n)
    if group_n.shape != (len(source),):
        raise ValueError(f"{len(group_n)} groups were given for {len(source)} cells")
    sums: dict[int, _Sum] = {}
    outputs = {CONTEXT} & set(model.network.produces)
    with in_use([model.network], choose_device(options.device)):
        for at_n, tokens in run_tokenizer(model, source, options, what="genes"):
            with in_precision(options, tokens.gene_nt.device):
                out = model.network(tokens, outputs)
            state_ntd = out.hidden_ntd if out.context_ntd is None else out.context_ntd
            packed_td = out.layout.pack(state_ntd)[0].float()
            gene_t = out.layout.pack(tokens.gene_nt)[0]
            group_t = torch.from_numpy(group_n[at_n])[tokens.layout.cell_of_token()]
            for group in np.unique(group_n[at_n]):
                if group >= 0:
                    is_own_t = (group_t == group).to(gene_t.device)
                    sums.setdefault(int(group), _Sum(len(model.vocab), packed_td.shape[1])).add(
                        gene_t[is_own_t], packed_td[is_own_t]
                    )
    return {group: some.mean(model.vocab, min_cells) for group, some in sorted(sums.items())}


class _Sum:
    """Sums of states by vocabulary id, in float64 on the CPU."""

    def __init__(self, num_entries: int, width: int):
        self.sum_vd = torch.zeros(num_entries, width, dtype=torch.float64)
        self.num_v = torch.zeros(num_entries, dtype=torch.int64)

    def add(self, gene_t: torch.Tensor, state_td: torch.Tensor) -> None:
        gene_t = gene_t.cpu()
        self.sum_vd.index_add_(0, gene_t, state_td.double().cpu())
        self.num_v += torch.bincount(gene_t, minlength=len(self.num_v))

    def mean(self, vocab: Any, min_cells: int) -> GeneEmbedding:
        ids = vocab.ids(vocab.genes)
        num_g = self.num_v.numpy()[ids]
        kept_g = np.flatnonzero(num_g >= max(min_cells, 1))
        if not len(kept_g):
            raise ValueError(f"no gene is expressed in {max(min_cells, 1)} cells; lower min_cells or give more cells")
        x_gd = (self.sum_vd.numpy()[ids[kept_g]] / num_g[kept_g, None]).astype(np.float32)
        if not np.isfinite(x_gd).all():
            raise ValueError("gene states are not finite; the checkpoint is damaged or precision too low")
        genes = tuple(vocab.genes[g] for g in kept_g)
        return GeneEmbedding(genes=genes, x_gd=x_gd, num_cells_g=num_g[kept_g])


def joined(parts: Mapping[str, GeneEmbedding]) -> tuple[str, ...]:
    """Return the genes that all of these have, in the order of the first."""
    first, *others = parts.values()
    known = [set(part.genes) for part in others]
    return tuple(gene for gene in first.genes if all(gene in some for some in known))
