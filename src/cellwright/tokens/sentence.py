"""From cells to sentences: words of metadata, genes with levels in a chosen order, task words.

Source: scMulan's c-sentences (Bian et al., RECOMB 2024; published code ``hf_tokenizer`` and ``scMulan.py``). A word is
an entity (gene, organ, cell type, task, ...) and a level: 1 .. ``num_levels`` for an expressed gene, 0 for all else.
Order carries no meaning, but a causal network reads in some order: published inference takes genes by *descending*
vocabulary id, published training shuffles them. The word that ends a sentence is answered, never fed, so it is not
among the tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch

from cellwright.tokens.draws import (
    IS_COMPILED,
    ORDER,
    cell_keys,
    compiled,
    fill_words,
    inner,
    words_numpy,
)
from cellwright.tokens.levels import check_levels, level_row, level_rows_numpy
from cellwright.tokens.sequence import read_rows
from cellwright.tokens.values import normalise_ragged
from cellwright.types import CellBatch, Draw, Layout, TokenBatch

Order = Literal["reverse", "forward", "shuffle"]
_ORDERS = ("reverse", "forward", "shuffle")
_SHUFFLE = _ORDERS.index("shuffle")


@dataclass(frozen=True, kw_only=True)
class SentenceSpec:
    """What sentences are made of; checked on construction.

    Parameters
    ----------
    max_length
        Most words a cell may have, all counted. A cell with more genes keeps a uniform random subset.
    num_levels
        Levels of an expressed gene.
    order
        Order of genes: by descending id (published inference), ascending id, or shuffled anew in each epoch.
    panel
        Vocabulary ids to restrict cells to, ascending; ``None`` = all genes.
    pad_entity
        Id at pads; needed when not packed. Pads are never seen, so it may be the id of any token.
    is_packed
        Layout of the result.
    """

    max_length: int
    num_levels: int = 10
    order: Order = "reverse"
    panel: tuple[int, ...] | None = None
    pad_entity: int | None = None
    is_packed: bool = True

    def __post_init__(self):
        check_levels(self.num_levels)
        if self.order not in _ORDERS:
            raise ValueError(f"order = {self.order!r} is no order of genes; choose one of {', '.join(_ORDERS)}")
        if not self.is_packed and self.pad_entity is None:
            raise ValueError("padded sentences need pad_entity, the vocabulary id that pads carry")


def encode_sentences(
    cells: CellBatch,
    spec: SentenceSpec,
    draw: Draw,
    *,
    before_nw: np.ndarray | None = None,
    after_nw: np.ndarray | None = None,
) -> TokenBatch:
    """Encode cells as sentences: words before the genes, genes with levels, words after them.

    Levels come from log-normalised values (10,000 molecules a cell over *all* genes of the source, ``log(1 + x)``);
    ``cells.state`` says what has been done already. They are relative to the highest value among the vocabulary's
    (or panel's) genes, before any gene is left out for length. A cell's genes and their order depend on
    (``draw.seed``, ``draw.epoch``, the cell's ``row_n``) and on nothing else in the minibatch.

    Parameters
    ----------
    cells
        Raw, normalised or log1p values.
    spec, draw
        How, and where random numbers come from.
    before_nw, after_nw
        int64 ``[n, w]``: vocabulary ids of words before and after the genes; -1 = no word.

    Raises
    ------
    ValueError
        For an empty minibatch, values that cannot be coded, words that leave no room for a gene, or a cell whose
        sentence would be empty.
    """
    if not len(cells):
        raise ValueError("there are no cells to encode")
    nothing_nw = np.empty((len(cells), 0), np.int64)
    before_nw = nothing_nw if before_nw is None else np.ascontiguousarray(before_nw, np.int64)
    after_nw = nothing_nw if after_nw is None else np.ascontiguousarray(after_nw, np.int64)
    num_words_n = (before_nw >= 0).sum(1) + (after_nw >= 0).sum(1)
    room_n = spec.max_length - num_words_n
    if room_n.min() < 1:
        raise ValueError(f"max_length = {spec.max_length} leaves no room beside {num_words_n.max()} words")
    indptr_n1, gene_z, value_z = read_rows(cells, None if spec.panel is None else np.asarray(spec.panel))
    num_n = np.minimum(np.diff(indptr_n1), room_n)
    length_n = num_words_n + num_n
    if not length_n.all():
        row = int(cells.row_n[np.argmin(length_n)])
        raise ValueError(f"the cell at row {row} expresses no gene of the vocabulary or panel, and no word is given")
    value_z = _log_normalised(value_z, indptr_n1, cells)
    width = None if spec.is_packed else int(length_n.max())
    layout = Layout(tuple(length_n.tolist()), width)
    size = layout.shape[0] * layout.shape[1]
    start_n = np.cumsum(length_n) - length_n if width is None else np.arange(len(cells)) * width
    entity, level = np.full(size, spec.pad_entity or 0, np.int64), np.zeros(size, np.float32)
    rows = _Rows(indptr_n1, gene_z, value_z, cell_keys(draw, cells.row_n, ORDER), num_n, before_nw, after_nw)
    encode = _encode_compiled if IS_COMPILED else encode_sentences_numpy
    encode(rows, spec.num_levels, _ORDERS.index(spec.order), start_n, entity, level)
    return TokenBatch(
        gene_nt=torch.from_numpy(entity).view(layout.shape),
        value_nt=torch.from_numpy(level).view(layout.shape),
        is_hidden_nt=torch.zeros(layout.shape, dtype=torch.bool),
        layout=layout,
    )


def _log_normalised(value_z: np.ndarray, indptr_n1: np.ndarray, cells: CellBatch) -> np.ndarray:
    if cells.state == "raw":
        return normalise_ragged(value_z, indptr_n1, cells.total_n)
    if cells.state == "normalised":
        return np.log1p(value_z)
    if cells.state == "log1p":
        return value_z
    raise ValueError(f"sentences are made of raw, normalised or log1p values, and these are {cells.state!r}")


class _Rows(NamedTuple):
    """What a minibatch of sentences is written from."""

    indptr_n1: np.ndarray
    gene_z: np.ndarray
    value_z: np.ndarray
    key_n: np.ndarray
    num_n: np.ndarray
    """Genes of each cell that are written."""
    before_nw: np.ndarray
    after_nw: np.ndarray


class _Pool(NamedTuple):
    """Working memory for one cell."""

    level: np.ndarray
    edge_k: np.ndarray
    place: np.ndarray
    """Places of its genes, shuffled."""
    is_kept: np.ndarray
    word: np.ndarray


def _encode_compiled(
    rows: _Rows, num_levels: int, order: int, start_n: np.ndarray, entity: np.ndarray, level: np.ndarray
) -> None:
    size = int(np.diff(rows.indptr_n1).max()) + 1
    pool = _Pool(
        level=np.empty(size, np.float32),
        edge_k=np.empty(num_levels + 1),
        place=np.empty(size, np.int64),
        is_kept=np.empty(size, np.bool_),
        word=np.empty(size + 1, np.uint32),
    )
    _encode_rows(rows, order, pool, start_n, entity, level)


@compiled
def _encode_rows(rows, order, pool, start_n, entity, level):
    for cell in range(len(start_n)):
        gene = rows.gene_z[rows.indptr_n1[cell] : rows.indptr_n1[cell + 1]]
        level_row(rows.value_z[rows.indptr_n1[cell] : rows.indptr_n1[cell + 1]], pool.edge_k, pool.level)
        at = start_n[cell]
        for w in range(rows.before_nw.shape[1]):
            if rows.before_nw[cell, w] >= 0:
                entity[at] = rows.before_nw[cell, w]
                at += 1
        _choose(len(gene), rows.num_n[cell], order, rows.key_n[cell], pool)
        for i in range(rows.num_n[cell]):
            entity[at] = gene[pool.place[i]]
            level[at] = pool.level[pool.place[i]]
            at += 1
        for w in range(rows.after_nw.shape[1]):
            if rows.after_nw[cell, w] >= 0:
                entity[at] = rows.after_nw[cell, w]
                at += 1


@inner
def _choose(num, num_kept, order, key, pool):
    """Put the places of the genes to write, in their order, in front of ``pool.place``."""
    for i in range(num):
        pool.place[i] = i if order != 0 else num - 1 - i
    if order != _SHUFFLE and num_kept == num:
        return
    fill_words(key, num_kept, pool.word)
    for i in range(num_kept):  # Fisher and Yates' shuffle, cut short: a uniform subset in uniform order
        other = i + np.int64((np.uint64(pool.word[i]) * np.uint64(num - i)) >> np.uint64(32))
        pool.place[i], pool.place[other] = pool.place[other], pool.place[i]
    if order == _SHUFFLE:
        return
    for i in range(num):
        pool.is_kept[pool.place[i]] = i < num_kept
    at = 0
    for i in range(num):
        place = i if order != 0 else num - 1 - i
        pool.place[at] = place
        at += pool.is_kept[place]


def encode_sentences_numpy(
    rows: _Rows, num_levels: int, order: int, start_n: np.ndarray, entity: np.ndarray, level: np.ndarray
) -> None:
    """Encode cell by cell with numpy: what the kernel is tested against, and what runs where numba is absent."""
    level_z = level_rows_numpy(rows.value_z, rows.indptr_n1, num_levels)
    for cell, start in enumerate(start_n):
        own = slice(rows.indptr_n1[cell], rows.indptr_n1[cell + 1])
        place_g = _choose_numpy(own.stop - own.start, int(rows.num_n[cell]), order, rows.key_n[cell])
        before = rows.before_nw[cell][rows.before_nw[cell] >= 0]
        after = rows.after_nw[cell][rows.after_nw[cell] >= 0]
        written = np.concatenate([before, rows.gene_z[own][place_g], after])
        entity[start : start + len(written)] = written
        at = start + len(before)
        level[at : at + len(place_g)] = level_z[own][place_g]


def _choose_numpy(num: int, num_kept: int, order: int, key: np.uint64) -> np.ndarray:
    place_g = np.arange(num) if order != 0 else np.arange(num)[::-1].copy()
    if order != _SHUFFLE and num_kept == num:
        return place_g
    for i, word in enumerate(words_numpy(key, num_kept).tolist()):
        other = i + (word * (num - i) >> 32)
        place_g[[i, other]] = place_g[[other, i]]
    kept_g = place_g[:num_kept]
    if order == _SHUFFLE:
        return kept_g
    return np.sort(kept_g) if order != 0 else np.sort(kept_g)[::-1]
