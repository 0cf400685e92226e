"""A view of cells with several modalities, in which one of them may be withheld altogether.

Source: scGPT's multi-omic recipe hides a random part of all tokens (`RandomMask`). A network that was only ever asked
for some proteins beside others has not learnt to tell all of them from RNA; withholding a whole modality in some cells
is ours, after the modality dropout of multi-view models (Neverova et al., TPAMI 38:1692, 2016).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field, NonNegativeInt

from cellwright.config import Config
from cellwright.objectives.views import CELL_ANSWERS, TOKEN_ANSWERS, Fraction, cell_answers, choose_tokens, lay_tokens
from cellwright.protocols import Tokenizer
from cellwright.types import CellBatch, Draw, Targets, TokenBatch


class ModalityMask(Config):
    """Hide a random part of each cell's tokens, and in some cells all tokens of one modality and nothing else."""

    answers: ClassVar[frozenset[str]] = CELL_ANSWERS | TOKEN_ANSWERS
    categories: ClassVar[frozenset[str]] = frozenset()

    fraction: Fraction = 0.4
    """Part of each cell's tokens to hide, rounded down; the first token is counted and may be hidden (published)."""
    whole: tuple[NonNegativeInt, ...] = ()
    """Modality ids that may be hidden whole; empty = none, which is `RandomMask`."""
    whole_fraction: float = Field(0.5, ge=0, le=1)
    """Part of the cells in which one of them, drawn for each cell, is hidden whole. A cell that does not have it, or
    has nothing else, is treated as the others."""

    def __call__(self, cells: CellBatch, tokenize: Tokenizer, draw: Draw) -> tuple[TokenBatch, Targets]:
        """Return tokens with values hidden, scored where hidden."""
        tokens = tokenize(cells, draw)
        layout, generator = tokens.layout, draw.generator()
        chosen_t = choose_tokens(layout, self.fraction, 0, generator)
        if self.whole:
            if tokens.modality_nt is None:
                raise ValueError("whole modalities cannot be hidden: the tokens do not say which modality they are of")
            cell_t = layout.cell_of_token()
            is_taken_n = torch.rand(layout.num_cells, generator=generator) < self.whole_fraction
            pick_n = torch.randint(len(self.whole), (layout.num_cells,), generator=generator)
            is_whole_t = layout.pack(tokens.modality_nt)[0] == torch.tensor(self.whole)[pick_n][cell_t]
            num_n = torch.bincount(cell_t[is_whole_t], minlength=layout.num_cells)
            # the first token is the cell's own: with it alone, nothing is left to go by
            is_taken_n &= (num_n > 0) & (num_n < torch.tensor(layout.lengths) - 1)
            chosen_t = torch.where(is_taken_n[cell_t], is_whole_t, chosen_t)
        chosen_nt = lay_tokens(chosen_t, layout)
        targets = Targets(
            value_nt=tokens.value_nt, is_scored_nt=chosen_nt & ~tokens.is_hidden_nt, **cell_answers(cells)
        )
        return tokens.hide(chosen_nt), targets
