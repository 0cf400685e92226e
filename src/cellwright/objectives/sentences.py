"""The view of families that read and write sentences (scMulan): every cell tells what is known of it, in some task.

Source: scMulan (Bian et al., RECOMB 2024, Methods "c-sentences"). Nothing is hidden in the tokens, for a causal
network does not see what stands behind a token: the answers at a token are the words behind it. So this view is for
causal networks only, and its answers have names of their own that no other term reads.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PositiveFloat, model_validator

from cellwright.config import Config
from cellwright.objectives.entity import READS
from cellwright.objectives.views import CELL_ANSWERS, cell_answers
from cellwright.protocols import SentenceTokenizer
from cellwright.types import CellBatch, Draw, Targets, TokenBatch


class SentenceTask(Config):
    """One kind of sentence: what is given, the task word, what is asked.

    Categories are those of the vocabulary; a cell's words are the codes of the obs column of the same name.
    """

    word: str
    """Role of the special token that stands between what is given and what is asked."""
    given: tuple[str, ...] = ()
    """Categories of the words before the task word, in order; genes come after them unless they are asked."""
    asked: tuple[str, ...] = ()
    """Categories of the words after the task word, in order; genes come after them when they are asked."""
    asks_genes: bool = False
    """Whether genes stand behind the task word (generation) or before it (annotation)."""
    weight: PositiveFloat = 1.0
    """How often the task is drawn, relative to the others."""

    @model_validator(mode="after")
    def _check(self) -> SentenceTask:
        if not self.asked and not self.asks_genes:
            raise ValueError(f"the task {self.word!r} asks for nothing; name categories or set asks_genes")
        return self

    @property
    def categories(self) -> tuple[str, ...]:
        """Categories that it speaks of."""
        return (*self.given, *self.asked)

    def line(self) -> str:
        """Return it in words."""
        sides = [[*self.given], [*self.asked]]
        sides[self.asks_genes].append("genes")
        return f"{self.word}: {', '.join(sides[0]) or 'nothing'} -> {', '.join(sides[1])}"


PUBLISHED_TASKS = (
    SentenceTask(word="annotate", asked=("coarse_type", "cell_type")),
    SentenceTask(word="place", asked=("organ", "region")),
    SentenceTask(word="generate", given=("organ", "cell_type"), asks_genes=True),
)
"""The three published tasks. Which metadata were given for generation was drawn from an unpublished list."""


class CSentence(Config):
    """One sentence a cell, of a task drawn for it; asked are, from the task word on, all words that follow.

    Words before the task word are given and cost nothing (scMulan's code: supervision starts at the prefix's last
    word). A task can be drawn for a cell only when the cell's metadata have all of its words: cells with missing ones
    get the other tasks.
    """

    answers: ClassVar[frozenset[str]] = CELL_ANSWERS | READS

    tasks: Annotated[tuple[SentenceTask, ...], Field(min_length=1)] = PUBLISHED_TASKS
    """Kinds of sentences; one is drawn for each cell."""
    order: Literal["shuffle", "forward", "reverse"] = "shuffle"
    """Order of genes; shuffled anew each epoch as published."""

    def __call__(self, cells: CellBatch, tokenize: SentenceTokenizer, draw: Draw) -> tuple[TokenBatch, Targets]:
        """Return sentences without their end word, and what is asked.

        Raises
        ------
        ValueError
            When the tokeniser makes no sentences, a column that a task names is absent, a code is outside its
            category, or a cell's metadata suffice for no task.
        """
        if not hasattr(tokenize, "sentences"):
            raise ValueError(f"{type(tokenize).__name__} makes no sentences; train this family with another view")
        before_nkw, after_nkw, is_complete_nk = self._words(cells, tokenize)
        task_n = self._draw_tasks(is_complete_nk, cells, draw)
        at_n = np.arange(len(cells))
        before_nw, after_nw = before_nkw[at_n, task_n], after_nkw[at_n, task_n]
        tokens = tokenize.sentences(cells, draw, before_nw=before_nw, after_nw=after_nw, order=self.order)
        layout = tokens.layout
        asks_genes_n = np.array([task.asks_genes for task in self.tasks])[task_n]
        num_asked_n = np.array([len(task.asked) for task in self.tasks])[task_n]
        length_n = np.array(layout.lengths)
        # the task word closes the words before asked genes, and stands in front of other asked words
        task_at_n = np.where(asks_genes_n, (before_nw >= 0).sum(1) - num_asked_n, length_n - num_asked_n) - 1
        is_asked_nt = layout.within_cell() >= layout.spread(torch.from_numpy(task_at_n))
        targets = Targets(
            entity_nt=tokens.gene_nt,
            level_nt=tokens.value_nt,
            is_asked_nt=is_asked_nt & ~layout.is_pad_nt(),
            end_n=torch.full((len(cells),), tokenize.vocab.special_id("end")),
            **cell_answers(cells),
        )
        return tokens, targets

    @property
    def categories(self) -> frozenset[str]:
        """Categories that its sentences speak of."""
        return frozenset(name for task in self.tasks for name in task.categories)

    def narrowed(self, known: Collection[str]) -> CSentence:
        """Return the view for cells that have words of these categories only.

        Other categories are left out of every sentence; a sentence that asks for nothing then, or in which nothing is
        left that was given, goes. ``ValueError`` when none stays.
        """
        tasks = []
        for task in self.tasks:
            given, asked = ([name for name in names if name in known] for names in (task.given, task.asked))
            if (asked or task.asks_genes) and (given or not task.given):
                tasks.append(task.record() | {"given": given, "asked": asked})
        if not tasks:
            what = f"words of {', '.join(sorted(known))} alone" if known else "genes alone"
            raise ValueError(f"no sentence can be made of {what}; the sentences are: {'; '.join(self.lines())}")
        return CSentence.read(self.record() | {"tasks": tasks}, "sentences")

    def questions(self) -> dict[str, list[str]]:
        """Return role of the asking word -> categories that it is answered with, for sentences that ask for words."""
        return {task.word: list(task.asked) for task in self.tasks if task.asked}

    def is_usable(self, codes: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return bool ``[n]``: the cell has all words of at least one sentence. Codes as cells carry them."""
        return np.any([np.all([codes[c] >= 0 for c in task.categories], axis=0) for task in self.tasks], axis=0)

    def lines(self) -> list[str]:
        """Return its sentences in words, such as ``annotate: genes -> coarse_type, cell_type``."""
        return [task.line() for task in self.tasks]

    def _words(self, cells: CellBatch, tokenize: SentenceTokenizer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return words before and after the genes in each task ``[n, k, w]``, and whether a cell has all of them."""
        lists_kw = []
        for task in self.tasks:
            given = [_column(name, cells, tokenize) for name in task.given]
            asked = [_column(name, cells, tokenize) for name in task.asked]
            word = np.full(len(cells), tokenize.vocab.special_id(task.word))
            lists_kw.append(([*given, word, *asked], []) if task.asks_genes else (given, [word, *asked]))
        widths = [max(len(lists[side]) for lists in lists_kw) for side in (0, 1)]
        before_nkw, after_nkw = (np.full((len(cells), len(self.tasks), width), -1) for width in widths)
        is_complete_nk = np.ones(before_nkw.shape[:2], bool)
        for k, lists in enumerate(lists_kw):
            for words_nkw, columns in zip((before_nkw, after_nkw), lists, strict=True):
                for w, word_n in enumerate(columns):
                    words_nkw[:, k, w] = word_n
                    is_complete_nk[:, k] &= word_n >= 0
        return before_nkw, after_nkw, is_complete_nk

    def _draw_tasks(self, is_complete_nk: np.ndarray, cells: CellBatch, draw: Draw) -> np.ndarray:
        weight_nk = is_complete_nk * np.array([task.weight for task in self.tasks])
        if not weight_nk.any(1).all():
            row = int(cells.row_n[np.argmin(weight_nk.any(1))])
            needed = [f"{task.word} needs {[*task.given, *task.asked]}" for task in self.tasks]
            raise ValueError(
                f"the cell at row {row} lacks a word for every task ({'; '.join(needed)}); drop such cells"
            )
        reach_nk = weight_nk.cumsum(1)
        lot_n = torch.rand(len(weight_nk), generator=draw.generator(), dtype=torch.float64).numpy() * reach_nk[:, -1]
        return (reach_nk <= lot_n[:, None]).sum(1)


def _column(name: str, cells: CellBatch, tokenize: SentenceTokenizer) -> np.ndarray:
    """Return the vocabulary id of each cell's word of a category, -1 = missing."""
    id_k = tokenize.vocab.category_ids(name)
    if name not in cells.obs:
        raise ValueError(f"the sentences need the cells' {name!r}, and they carry {sorted(cells.obs) or 'no columns'}")
    code_n = np.asarray(cells.obs[name])
    if len(code_n) and code_n.max() >= len(id_k):
        raise ValueError(f"{name!r} holds the code {code_n.max()}; the vocabulary has {len(id_k)} words of it")
    return np.where(code_n >= 0, id_k[np.maximum(code_n, 0)] if len(id_k) else -1, -1)
