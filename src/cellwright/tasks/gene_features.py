"""Gene embeddings of any origin, aligned by gene name: a file, an array, or what a model says of genes in cells.

A *context* gene embedding is a model's state at a gene's token, which depends on the cell: the decoder's where a family
has them (scFoundation), else the last layer's. `ModelContexts` gives it cell by cell (streamed, never all at once) and
as the mean over cells, for any family whose tokens are genes.

Sources: scGPT (Cui et al., Nature Methods 2024: networks from the gene table), scFoundation (Hao et al., Nature Methods
2024: gene context embeddings).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from cellwright.data.perturbations import align_genes
from cellwright.protocols import CellSource, Tokenizer
from cellwright.tasks.embed import check_vocab
from cellwright.tasks.inference import (
    InferenceOptions,
    choose_device,
    in_precision,
    in_use,
    token_batches,
    tokenizer_for,
)
from cellwright.tasks.left_out import LeftOut, count_left_out

CONTEXT = "context_ntd"
"""Output of families whose decoder gives genes states of their own."""

_ROWS = 2048  # cells read at once


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

    def take(self, genes: Sequence[str]) -> np.ndarray:
        """Return the rows of these genes, float32 ``[g, d]``; one that is not there is a ``ValueError``."""
        value_gd, is_there_g = self.aligned(genes)
        absent = [gene for gene, is_there in zip(genes, is_there_g, strict=True) if not is_there]
        if absent:
            raise ValueError(f"{self.what}: {len(absent)} genes have no embedding: {', '.join(absent[:3])}")
        return value_gd

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


def model_gene_table(model: Any) -> GeneTable:
    """Return the vectors that a network gives its genes before it sees a cell."""
    ids = torch.from_numpy(model.vocab.ids(model.vocab.genes))
    with in_use([model.network], torch.device("cpu")):
        value_gd = model.network.gene_encoder(ids[None])[0].float().numpy()
    return GeneTable(tuple(model.vocab.genes), value_gd, f"gene table of {model.report.source}")


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
        self.genes = tuple(genes)
        at_g = align_genes(self.genes, model.vocab.genes)
        id_g = np.where(at_g >= 0, model.vocab.ids(model.vocab.genes)[at_g], -1)
        self._column_v = np.full(len(model.vocab), -1)
        self._column_v[id_g[id_g >= 0]] = np.flatnonzero(id_g >= 0)

    @property
    def width(self) -> int:
        """Channels of a state."""
        if CONTEXT in self.model.network.produces:
            return self.model.config.decoder_width
        return self.model.network.gene_encoder(torch.zeros(1, 1, dtype=torch.long)).shape[-1]

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return the context gene embeddings of these cells."""
        rows = np.asarray(rows, np.int64)
        out_ngd = np.zeros((len(rows), len(self.genes), self.width), np.float32)
        for at_n, cell_t, column_t, hidden_td in self._run(rows):
            out_ngd[at_n[cell_t], column_t] = hidden_td
        return out_ngd

    def mean(self, rows: np.ndarray, *, min_cells: int = 1) -> GeneTable:
        """Return the mean over these cells of each gene's states, over the cells that have the gene as a token.

        Genes that fewer than ``min_cells`` of the cells have are left out.
        """
        rows = np.asarray(rows, np.int64)
        total_gd, num_g = np.zeros((len(self.genes), self.width)), np.zeros(len(self.genes), np.int64)
        for start in range(0, len(rows), _ROWS):
            for _, _, column_t, hidden_td in self._run(rows[start : start + _ROWS]):
                np.add.at(total_gd, column_t, hidden_td)
                num_g += np.bincount(column_t, minlength=len(num_g))
        kept = np.flatnonzero(num_g >= max(min_cells, 1))
        if not len(kept):
            raise ValueError(
                f"{self.model.report.source} has a token for none of the {len(self.genes)} genes in "
                f"{max(min_cells, 1)} of {len(rows)} cells"
            )
        what = f"mean context embedding by {self.model.report.source} over {len(rows)} cells"
        value_gd = (total_gd[kept] / num_g[kept, None]).astype(np.float32)
        return GeneTable(tuple(self.genes[i] for i in kept), value_gd, what)

    def left_out(self, rows: np.ndarray) -> LeftOut | None:
        """Count the genes of these cells that find no room; ``None`` = all do."""
        return count_left_out(self._tokenizer(), self.source, rows=rows, seed=self.options.seed)

    def _tokenizer(self) -> Tokenizer:
        # a decoder gives every gene of the panel a state, also those that the cell does not express (as published)
        has_decoder = CONTEXT in self.model.network.produces
        return tokenizer_for(self.model, self.options, {"genes": "panel"} if has_decoder else None)

    def _run(self, rows: np.ndarray):
        """Yield (positions in ``rows``, cell of each token, column of each token, states) of gene tokens."""
        outputs, tokenize = {CONTEXT} & set(self.model.network.produces), self._tokenizer()
        with in_use([self.model.network], choose_device(self.options.device)):
            device = next(self.model.network.parameters()).device
            cells = self.source.read(rows)
            for at_n, tokens in token_batches(tokenize, cells, self.options, device):
                with in_precision(self.options, device):
                    out = self.model.network(tokens, outputs)
                layout = tokens.layout
                state_ntd = out.hidden_ntd if out.context_ntd is None else out.context_ntd
                hidden_td = layout.pack(state_ntd)[0].float().cpu().numpy()
                column_t = self._column_v[layout.pack(tokens.gene_nt)[0].cpu().numpy()]
                is_gene_t = column_t >= 0
                cell_t = layout.packed().cell_of_token().numpy()
                yield at_n, cell_t[is_gene_t], column_t[is_gene_t], hidden_td[is_gene_t]
