"""A view of read depth: the model sees a cell with fewer molecules and answers for the cell with all of them.

Source: scFoundation's read-depth-aware pre-training (RDA; Hao et al., Nature Methods 21:1481, 2024, Methods "RDA
modeling"). No pre-training code was published. The shares of hidden values and their split come from the configuration
in the released checkpoint; the constants of thinning (0.5, Beta(2, 2), 1,000 molecules) from independent
re-implementations that agree, not from the authors.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from scipy.special import betaincinv
from torch import Generator, Tensor

from cellwright.config import Config
from cellwright.objectives.views import CELL_ANSWERS, TOKEN_ANSWERS, cell_answers, lay_tokens
from cellwright.protocols import DepthTokenizer
from cellwright.tokens.depth import thin_counts
from cellwright.tokens.draws import SHARE, cell_uniforms
from cellwright.types import CellBatch, Draw, Targets, TokenBatch

Share = Annotated[float, Field(ge=0, le=1)]


class ReadDepth(Config):
    """Thin a part of the cells, choose genes of each, withhold most of their values, and ask for the whole cell's.

    Answers are the values of the cell as it was read, at its own depth, which the model is told as the target depth.
    The special tokens of depth are never chosen. The published text hides 30 % "for both zero and nonzero values", the
    released configuration 3 % of the zeros; the configuration is followed.
    """

    answers: ClassVar[frozenset[str]] = CELL_ANSWERS | TOKEN_ANSWERS
    categories: ClassVar[frozenset[str]] = frozenset()

    thinned: Share = 0.5
    """Chance of a cell to be thinned; other cells are seen at their own depth."""
    least_molecules: float = Field(1000, ge=0)
    """Cells with fewer molecules are never thinned."""
    share: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (2.0, 2.0)
    """Parameters of the Beta distribution of the share of molecules that a thinned cell keeps."""
    expressed_fraction: Share = 0.3
    """Chance of a gene with molecules left to be chosen."""
    silent_fraction: Share = 0.03
    """Chance of a gene without molecules left to be chosen."""
    hidden: Share = 0.8
    """Part of the chosen genes whose value is withheld."""
    replaced: Share = 0.1
    """Part of the chosen genes that show another value: that of a gene of the same cell, drawn from those with
    molecules left (how the published code draws it is not known). The rest of the chosen genes keep their value. Only
    from these two parts does the network learn to answer for values that it sees, as in denoising."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.hidden + self.replaced > 1:
            raise ValueError(f"hidden + replaced = {self.hidden + self.replaced:g}; together they are at most 1")
        if self.expressed_fraction + self.silent_fraction == 0:
            raise ValueError("expressed_fraction and silent_fraction are both 0; nothing would be asked")
        return self

    def __call__(self, cells: CellBatch, tokenize: DepthTokenizer, draw: Draw) -> tuple[TokenBatch, Targets]:
        """Return tokens of thinned cells, and the values of the cells as they were.

        A cell whose last molecule would be lost is not thinned. Thinning depends on seed, epoch and the cell alone;
        what is chosen depends on the minibatch too.

        Raises
        ------
        ValueError
            When the tokeniser knows no depth or leaves silent genes out, or the values are no counts.
        """
        if not isinstance(tokenize, DepthTokenizer):
            raise ValueError(f"{type(tokenize).__name__} knows no read depth; train this family with another view")
        total_n = tokenize.depth_of(cells)
        answers = tokenize(cells, draw, total_n)
        tokens = tokenize(self._thin(cells, total_n, tokenize, draw), draw, total_n)
        if answers.layout.lengths != tokens.layout.lengths or not torch.equal(answers.gene_nt, tokens.gene_nt):
            raise ValueError('read_depth asks for silent genes too; make tokens of all genes (inputs.genes="panel")')
        chosen_t, hidden_t, value_t = self._choose(tokens, tokenize, draw.generator())
        layout = tokens.layout
        seen = replace(tokens, value_nt=lay_tokens(value_t, layout)).hide(lay_tokens(hidden_t, layout))
        scored_nt = lay_tokens(chosen_t, layout)
        return seen, Targets(value_nt=answers.value_nt, is_scored_nt=scored_nt, **cell_answers(cells))

    def _thin(self, cells: CellBatch, total_n: np.ndarray, tokenize: DepthTokenizer, draw: Draw) -> CellBatch:
        uniform_n2 = cell_uniforms(draw, cells.row_n, SHARE)
        is_thinned_n = (uniform_n2[:, 0] < self.thinned) & (total_n >= self.least_molecules)
        share_n = np.where(is_thinned_n, betaincinv(*self.share, uniform_n2[:, 1]), 1.0)
        thinned = thin_counts(cells, share_n, draw)
        is_lost_n = (tokenize.depth_of(thinned) == 0) & (share_n < 1)
        return thin_counts(cells, np.where(is_lost_n, 1.0, share_n), draw) if is_lost_n.any() else thinned

    def _choose(
        self, tokens: TokenBatch, tokenize: DepthTokenizer, generator: Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return for all tokens in packed order: is chosen, is hidden, value that is shown."""
        layout = tokens.layout
        gene_t, value_t = layout.pack(tokens.gene_nt)[0], layout.pack(tokens.value_nt)[0].clone()
        special_ids = torch.from_numpy(tokenize.vocab.ids(tokenize.vocab.specials.values()))
        is_gene_t = ~torch.isin(gene_t, special_ids) & ~layout.pack(tokens.is_hidden_nt)[0]
        is_expressed_t = is_gene_t & (value_t > 0)
        fraction_t = torch.where(is_expressed_t, self.expressed_fraction, self.silent_fraction)
        chosen_t = is_gene_t & (torch.rand(len(gene_t), generator=generator, dtype=torch.float64) < fraction_t)
        at_c = chosen_t.nonzero()[:, 0]  # c: chosen token of any cell
        lot_c = torch.rand(len(at_c), generator=generator, dtype=torch.float64)
        hidden_t = torch.zeros_like(chosen_t)
        hidden_t[at_c[lot_c < self.hidden]] = True
        replaced_r = at_c[(lot_c >= self.hidden) & (lot_c < self.hidden + self.replaced)]
        source_r = _expressed_token(replaced_r, is_expressed_t, layout.cell_of_token(), generator)
        value_t[replaced_r] = value_t[source_r]
        return chosen_t, hidden_t, value_t


def _expressed_token(at_r: Tensor, is_expressed_t: Tensor, cell_t: Tensor, generator: Generator) -> Tensor:
    """Return for each token of ``at_r`` an expressed one of its cell, all equally likely; itself where none is."""
    expressed_e = is_expressed_t.nonzero()[:, 0]
    num_n = torch.bincount(cell_t[expressed_e], minlength=int(cell_t[-1]) + 1)
    num_r, start_r = num_n[cell_t[at_r]], (num_n.cumsum(0) - num_n)[cell_t[at_r]]
    lot_r = torch.rand(len(at_r), generator=generator, dtype=torch.float64)
    place_r = (start_r + (lot_r * num_r).long()).clamp(max=max(len(expressed_e) - 1, 0))
    return torch.where(num_r > 0, expressed_e[place_r], at_r) if len(expressed_e) else at_r
