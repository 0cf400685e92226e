"""Cells as scFoundation reads them: genes with log values, then the depth asked for (T) and the cell's own (S).

Source: published ``get_embedding.py`` and its README. Values are ``log(1 + 10,000 x / total)``; total and S count the
genes of the vocabulary alone, since published totals are taken after alignment to the gene list. Nothing is random
unless a cell is longer than the limit.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from cellwright.models.inputs import InputConfig
from cellwright.models.scfoundation.config import ScFoundationConfig
from cellwright.tokens.depth import DepthTarget
from cellwright.tokens.sequence import FromSpec, SequenceSpec, encode_cells
from cellwright.tokens.values import library_size, normalise_ragged
from cellwright.types import CellBatch, Draw, TokenBatch
from cellwright.vocab import GeneVocab


class ScFoundationTokenizer(FromSpec):
    """Turn cells into tokens: genes in ascending order of id, then T, then S.

    Of `InputConfig`, ``genes`` says whether silent genes come too (the decoder needs them, the encoder does not),
    ``depth`` which depth is asked for, ``depth_from`` what the cell's own is told from, ``panel`` and ``max_length``
    what they say everywhere; the others say nothing here.
    """

    def __init__(
        self, config: ScFoundationConfig, vocab: GeneVocab, inputs: InputConfig | None = None, *, is_packed: bool = True
    ):
        inputs = inputs or InputConfig()
        self.vocab = vocab
        self.depth = DepthTarget.parse(inputs.depth)
        self.depth_from = inputs.depth_from
        self.is_packed = is_packed
        id_g = _gene_ids(vocab, inputs.panel)
        has_zero = inputs.genes == "panel"
        depths = tuple((vocab.special_id(role), 0.0) for role in ("target_depth", "source_depth"))
        self.spec = SequenceSpec(
            prefix=depths,
            max_length=inputs.max_length or config.max_length or len(vocab),
            panel=id_g if has_zero or inputs.panel is not None else None,
            keep_zero=has_zero,
        )

    def depth_of(self, cells: CellBatch) -> np.ndarray:
        """Return each cell's total, float64 ``[n]``: what values are parts of, and S is the logarithm of."""
        if self.depth_from == "given":
            return np.asarray(cells.total_n, np.float64)
        return library_size(cells.value_z, cells.indptr_n1)

    def num_tokens_n(self, cells: CellBatch) -> np.ndarray:
        """Return about how many tokens each cell will have, int64 ``[n]``."""
        num_n = np.full(len(cells), len(self.spec.panel)) if self.spec.keep_zero else cells.num_genes_n
        return np.minimum(num_n, self.spec.room) + 2

    def __call__(self, cells: CellBatch, draw: Draw, target_total_n: np.ndarray | None = None) -> TokenBatch:
        """Encode cells; ``target_total_n`` = molecules to ask for, in the place of ``depth``.

        Raw and normalised values are brought to 10,000 a cell, log values are taken as they are.

        Raises
        ------
        ValueError
            For a cell without any molecule of the vocabulary's genes, which has no depth, or a depth asked for that is
            no positive number of molecules.
        """
        total_n = self.depth_of(cells)
        if not (total_n > 0).all() or not np.isfinite(total_n).all():
            at = int(np.argmin((total_n > 0) & np.isfinite(total_n)))
            raise ValueError(
                f"the cell at row {cells.row_n[at]} has the total {total_n[at]:g} over the genes of the vocabulary, "
                "so it has no read depth; leave such cells out"
            )
        value_z = cells.value_z
        if cells.state != "log1p":
            value_z = normalise_ragged(value_z, cells.indptr_n1, total_n)
        tokens = encode_cells(replace(cells, value_z=value_z), self.spec, draw)
        target_n, source_n = self._depths(total_n, target_total_n)
        tokens = _depths_last(tokens, target_n, source_n)
        return tokens if self.is_packed else tokens.padded(self.vocab.special_id("pad"))

    def _depths(self, total_n: np.ndarray, target_total_n: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Return T and S, float32 ``[n]``."""
        if target_total_n is not None:
            if self.depth_from == "plain":
                raise ValueError("depth_from='plain' makes both depths the same number; no target can be asked for")
            if not (np.asarray(target_total_n) > 0).all():
                raise ValueError("the molecules to ask for (target_total_n) must be positive")
            return np.log10(target_total_n).astype(np.float32), np.log10(total_n).astype(np.float32)
        if self.depth_from == "plain":
            return (total_n.astype(np.float32),) * 2
        return self.depth.log10_n(total_n), np.log10(total_n).astype(np.float32)


def _depths_last(tokens: TokenBatch, target_n: np.ndarray, source_n: np.ndarray) -> TokenBatch:
    """Move the first two tokens of each packed cell behind its genes, and give them their values."""
    offset_n1 = torch.tensor(tokens.layout.offsets())
    length_t = torch.tensor(tokens.layout.lengths).repeat_interleave(torch.tensor(tokens.layout.lengths))
    start_t = offset_n1[:-1].repeat_interleave(torch.tensor(tokens.layout.lengths))
    order_t = start_t + (tokens.layout.within_cell()[0] + 2) % length_t
    gene_nt, value_nt = tokens.gene_nt[:, order_t], tokens.value_nt[:, order_t]
    value_nt[0, offset_n1[1:] - 2] = torch.from_numpy(target_n)
    value_nt[0, offset_n1[1:] - 1] = torch.from_numpy(source_n)
    return replace(tokens, gene_nt=gene_nt, value_nt=value_nt)


def _gene_ids(vocab: GeneVocab, panel: tuple[str, ...] | None) -> np.ndarray:
    """Return the ids of the genes that are fed."""
    if panel is None:
        return vocab.ids(vocab.genes)
    genes = set(vocab.genes)
    if absent := [gene for gene in panel if gene not in genes]:
        raise ValueError(f"{len(absent)} genes of the panel are not in the vocabulary: {', '.join(absent[:3])}")
    return vocab.ids(panel)
