"""Gene embeddings of any origin, aligned by gene name: a file, an array, or what a model says of genes in cells.

A *context* gene embedding is a model's last hidden state at a gene's token: it depends on the cell. `ModelContexts`
gives it cell by cell (streamed, never all at once) and as the mean over cells, for any family whose tokens are genes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from cellwright.data.perturbations import align_genes
from cellwright.protocols import CellSource
from cellwright.tasks.embed import check_vocab
from cellwright.tasks.inference import InferenceOptions, by_length, choose_device, in_use
from cellwright.types import Draw


@dataclass(frozen=True, slots=True, eq=False)
class GeneTable:
    """One vector a gene."""

    genes: tuple[str, ...]
    value_gd: np.ndarray
    """float32."""
    what: str
    """Where it comes from, in words."""

    def __post_init__(self):
        if self.value_gd.ndim != 2 or len(self.value_gd) != len(self.genes) or not self.value_gd.shape[1]:
            raise ValueError(f"a gene embedding of shape {self.value_gd.shape} for {len(self.genes)} gene names")
        if not np.isfinite(self.value_gd).all():
            raise ValueError(f"{self.what}: the gene embedding holds values that are not finite")
        if len(set(self.genes)) != len(self.genes):
            raise ValueError(f"{self.what}: a gene name stands twice in the gene embedding")

    def aligned(self, genes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of these genes, float32 ``[g, d]`` (0 where absent), and bool ``[g]``: is it there?"""
        at_g = align_genes(genes, self.genes)
        return np.where(at_g[:, None] >= 0, self.value_gd[at_g], 0).astype(np.float32), at_g >= 0

    def by_name(self, genes: Sequence[str]) -> Mapping[str, np.ndarray]:
        """Return gene -> vector for those that are there."""
        value_gd, is_there_g = self.aligned(genes)
        return {gene: value_gd[i] for i, gene in enumerate(genes) if is_there_g[i]}


def read_gene_table(path: str | Path) -> GeneTable:
    """Read a gene embedding from a ``.npz`` of ``genes`` (names) and ``values`` ``[g, d]``.

    Raises
    ------
    FileNotFoundError, ValueError
        No such file; not a .npz of these two arrays.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no gene embedding {path}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            names, value_gd = archive["genes"], archive["values"]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ValueError(f"{path} is not a .npz of genes (names) and values [genes, d] ({error})") from None
    return GeneTable(tuple(str(name) for name in names.tolist()), np.asarray(value_gd, np.float32), str(path))


class CellContexts(Protocol):
    """Context gene embeddings of cells, read as they are needed."""

    width: int
    genes: tuple[str, ...]
    """Genes of the second axis."""

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return float32 ``[n, g, d]`` of the cells at these positions; 0 where a cell's tokens lack a gene."""
        ...


class ModelContexts:
    """What a model says of genes in cells (a `CellContexts`).

    Parameters
    ----------
    model
        A `cellwright.models.Model`; it is not changed.
    source
        Cells opened on the model's vocabulary, in the order of the screen.
    genes
        Genes to give; those outside the model's vocabulary are 0 throughout.
    options
        How to run. Cells longer than the model's limit are sub-sampled as in embedding.
    """

    def __init__(self, model: Any, source: CellSource, genes: Sequence[str], options: InferenceOptions | None = None):
        check_vocab(model, source)
        self.model, self.source, self.options = model, source, options or InferenceOptions()
        self.genes, self.width = tuple(genes), model.network.width
        at_g = align_genes(self.genes, model.vocab.genes)
        id_g = np.where(at_g >= 0, model.vocab.ids(model.vocab.genes)[at_g], -1)
        self._column_v = np.full(len(model.vocab), -1)
        self._column_v[id_g[id_g >= 0]] = np.flatnonzero(id_g >= 0)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return the context gene embeddings of these cells."""
        rows = np.asarray(rows, np.int64)
        out_ngd = np.zeros((len(rows), len(self.genes), self.width), np.float32)
        for at_n, cell_t, column_t, hidden_td in self._run(rows):
            out_ngd[at_n[cell_t], column_t] = hidden_td
        return out_ngd

    def mean(self, rows: np.ndarray) -> GeneTable:
        """Return the mean over these cells of each gene's states, over the cells that have the gene as a token.

        Genes that no cell has are left out.
        """
        total_gd, num_g = np.zeros((len(self.genes), self.width)), np.zeros(len(self.genes))
        for _, _, column_t, hidden_td in self._run(np.asarray(rows, np.int64)):
            np.add.at(total_gd, column_t, hidden_td)
            np.add.at(num_g, column_t, 1)
        kept = np.flatnonzero(num_g)
        if not len(kept):
            raise ValueError(f"{self.model.report.source} has a token for none of the {len(self.genes)} genes in cells")
        what = f"mean context embedding by {self.model.report.source} over {len(rows)} cells"
        value_gd = (total_gd[kept] / num_g[kept, None]).astype(np.float32)
        return GeneTable(tuple(self.genes[i] for i in kept), value_gd, what)

    def _run(self, rows: np.ndarray):
        """Yield (positions in ``rows``, cell of each token, column of each token, states) of gene tokens."""
        tokenize = self.model.tokenizer()
        limit = self.model.inputs.max_length or self.model.config.max_length
        with in_use([self.model.network], choose_device(self.options.device)):
            device = next(self.model.network.parameters()).device
            cells = self.source.read(rows)
            for at_n in by_length(np.minimum(cells.num_genes_n + 1, limit), self.options):
                tokens = tokenize(cells.take(at_n), Draw(self.options.seed)).to(device)
                with torch.autocast(device.type, torch.bfloat16, enabled=self.options.precision == "bfloat16"):
                    out = self.model.network(tokens, ())
                layout = tokens.layout
                hidden_td = layout.pack(out.hidden_ntd)[0].float().cpu().numpy()
                column_t = self._column_v[layout.pack(tokens.gene_nt)[0].cpu().numpy()]
                is_gene_t = column_t >= 0
                cell_t = layout.packed().cell_of_token().numpy()
                yield at_n, cell_t[is_gene_t], column_t[is_gene_t], hidden_td[is_gene_t]
