"""Views: what the model may see of a cell, and what it must answer.

Sources: `RandomMask` is scGPT's masked fine-tuning (published code, ``random_mask_value``); `GenerativeSplit` is its
generative pre-training (``DataCollator`` with ``data_style="both"`` of the pre-training branch; Nature Methods
21:1470, Methods "generative pretraining"). Everything works on a whole minibatch in the packed order of its tokens,
so that packed and padded tokens get the same numbers. Views draw only from ``draw.generator()``.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Generator, Tensor

from cellwright.config import Config
from cellwright.protocols import Tokenizer
from cellwright.types import CellBatch, Draw, Layout, Targets, TokenBatch

Fraction = Annotated[float, Field(gt=0, le=1)]
Fractions = Annotated[tuple[Fraction, ...], Field(min_length=1)]

CELL_ANSWERS = frozenset({"label_n", "domain_n"})
TOKEN_ANSWERS = frozenset({"value_nt", "is_scored_nt"})


class Clean(Config):
    """Nothing is hidden; only questions about the whole cell are answered (its label, its sequencing batch)."""

    answers: ClassVar[frozenset[str]] = CELL_ANSWERS
    categories: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, cells: CellBatch, tokenize: Tokenizer, draw: Draw) -> tuple[TokenBatch, Targets]:
        """Return the tokens as they are, and the cells' answers."""
        return tokenize(cells, draw), Targets(**cell_answers(cells))


class RandomMask(Config):
    """Hide the values of a random part of each cell's tokens; they are what is asked."""

    answers: ClassVar[frozenset[str]] = CELL_ANSWERS | TOKEN_ANSWERS
    categories: ClassVar[frozenset[str]] = frozenset()

    fraction: Fraction | Fractions = 0.4
    """Part of each cell's tokens to hide, rounded down; of several, one is drawn for each minibatch."""
    is_special_hidden: bool = True
    """True (published): the first token is hidden as often as any other, and its answer is its input value.
    False: the first token is left alone and not counted."""

    def __call__(self, cells: CellBatch, tokenize: Tokenizer, draw: Draw) -> tuple[TokenBatch, Targets]:
        """Return tokens with values hidden, scored where hidden. A cell too short for the fraction hides none."""
        tokens = tokenize(cells, draw)
        generator = draw.generator()
        spared = 0 if self.is_special_hidden else 1
        fraction = self.fraction if isinstance(self.fraction, float) else _pick(self.fraction, generator)
        chosen_t = choose_tokens(tokens.layout, fraction, spared, generator)
        chosen_nt = lay_tokens(chosen_t, tokens.layout)
        targets = Targets(
            value_nt=tokens.value_nt, is_scored_nt=chosen_nt & ~tokens.is_hidden_nt, **cell_answers(cells)
        )
        return tokens.hide(chosen_nt), targets


class GenerativeSplit(Config):
    """Make a random part of each cell's genes unknown: a prompt, and genes to be predicted from it.

    The tokens are put in a new order, prompt first; the first token (the cell's) always belongs to the prompt. Only
    unknown genes are scored. A cell with a single gene or none has no unknown genes.
    """

    answers: ClassVar[frozenset[str]] = CELL_ANSWERS | TOKEN_ANSWERS
    categories: ClassVar[frozenset[str]] = frozenset()

    fractions: Fractions = (0.25, 0.5, 0.75)
    """Part of each cell's genes to make unknown, rounded down; one is drawn for each minibatch."""

    def __call__(self, cells: CellBatch, tokenize: Tokenizer, draw: Draw) -> tuple[TokenBatch, Targets]:
        """Return tokens whose layout has prompts, with unknown values hidden and scored."""
        tokens = tokenize(cells, draw)
        generator = draw.generator()
        is_unknown_t = choose_tokens(tokens.layout, _pick(self.fractions, generator), 1, generator)
        tokens = _prompt_first(tokens, is_unknown_t)
        is_unknown_nt = ~tokens.layout.is_prompt_nt() & ~tokens.layout.is_pad_nt()
        targets = Targets(
            value_nt=tokens.value_nt, is_scored_nt=is_unknown_nt & ~tokens.is_hidden_nt, **cell_answers(cells)
        )
        return tokens.hide(is_unknown_nt), targets


def cell_answers(cells: CellBatch) -> dict[str, Tensor]:
    """Copy the codes of ``label`` and ``tech_batch``; a missing one is -1, which the terms refuse."""
    columns = {"label_n": "label", "domain_n": "tech_batch"}
    return {
        field: torch.from_numpy(np.array(cells.obs[column], np.int64))
        for field, column in columns.items()
        if column in cells.obs
    }


def _pick(fractions: tuple[float, ...], generator: Generator) -> float:
    return fractions[int(torch.randint(len(fractions), (), generator=generator))]


def choose_tokens(layout: Layout, fraction: float, spared: int, generator: Generator) -> Tensor:
    """Choose ``int(fraction * m)`` of each cell's ``m`` tokens after the first ``spared`` ones, all equally likely.

    Returns bool ``[t]`` in packed order.
    """
    cell_t = layout.cell_of_token()
    length_n = torch.tensor(layout.lengths)
    place_t = torch.arange(len(cell_t)) - torch.tensor(layout.offsets()[:-1])[cell_t]
    num_n = (fraction * (length_n - spared).double()).long()
    lot_t = torch.rand(len(cell_t), generator=generator, dtype=torch.float64)
    # sorted by (cell, lot), each cell's tokens fill its own places; spared tokens come last and are never reached
    key_t = 2 * cell_t + torch.where(place_t < spared, 1.0, lot_t)
    order_t = torch.from_numpy(np.argsort(key_t.numpy()))  # three times as fast as torch's
    rank_t = torch.empty_like(place_t)
    rank_t[order_t] = place_t
    return rank_t < num_n[cell_t]


def lay_tokens(x_t: Tensor, layout: Layout) -> Tensor:
    """Lay packed values out like the tokens, 0 or False at pads: ``[t] -> [n, t]``."""
    if layout.is_packed:
        return x_t[None]
    x_nt = x_t.new_zeros(layout.shape)
    x_nt[~layout.is_pad_nt()] = x_t
    return x_nt


def _prompt_first(tokens: TokenBatch, is_unknown_t: Tensor) -> TokenBatch:
    """Put each cell's unknown tokens behind the others; within both parts the order stays, pads stay in place."""
    layout = tokens.layout
    cell_t = layout.cell_of_token()
    start_n = torch.tensor(layout.offsets()[:-1])
    before_t = is_unknown_t.cumsum(0) - is_unknown_t.long()  # unknown tokens in front of each token, in all cells
    before_t = before_t - before_t[start_n][cell_t]
    num_unknown_n = torch.bincount(cell_t[is_unknown_t], minlength=layout.num_cells)
    prompt_n = torch.tensor(layout.lengths) - num_unknown_n
    at_t = torch.arange(len(cell_t))
    new_place_t = torch.where(is_unknown_t, (start_n + prompt_n)[cell_t] + before_t, at_t - before_t)
    order_t = torch.empty_like(at_t)
    order_t[new_place_t] = at_t

    def move(x_nt: Tensor) -> Tensor:
        if layout.is_packed:
            return x_nt[:, order_t]
        is_token_nt = ~layout.is_pad_nt()
        moved_nt = x_nt.clone()
        moved_nt[is_token_nt] = x_nt[is_token_nt][order_t]
        return moved_nt

    names = [item.name for item in fields(tokens) if item.name.endswith("_nt")]
    moved = {name: move(x_nt) for name in names if (x_nt := getattr(tokens, name)) is not None}
    return replace(tokens, layout=Layout(layout.lengths, layout.width, tuple(prompt_n.tolist())), **moved)
