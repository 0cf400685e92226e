"""From cells to token sequences: choose genes, bin their values, add prefix tokens, pad or pack.

One pass over the ragged counts does everything (scGPT, Cui et al. 2024, Methods "Input embeddings"; the published
collator's order of steps). It does not hide values and does not split prompts from unknown genes: those are views
of the finished tokens. Sentences of ordered genes (scMulan) are made in `cellwright.tokens.sentence`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from cellwright.tokens.draws import (
    IS_COMPILED,
    SUBSET,
    TIES,
    cell_keys,
    compiled,
    fill_words,
    inner,
    kernel_array,
    words_numpy,
)
from cellwright.tokens.quantiles import bin_row, bin_rows_numpy, bin_scratch, fill_uniforms
from cellwright.tokens.values import check_binning, check_indptr, check_values
from cellwright.types import CellBatch, Draw, Layout, TokenBatch


@dataclass(frozen=True, kw_only=True, eq=False)
class SequenceSpec:
    """What a token sequence is made of; checked on construction.

    Parameters
    ----------
    max_length
        Most tokens a cell may have, the prefix included. A cell with more genes keeps a uniform random subset.
    prefix
        (vocabulary id, value) of the tokens put first in every cell. scGPT's ``<cls>`` carries -2.0 in pre-training
        and zero-shot embedding, 0.0 in its fine-tuning recipes.
    num_bins
        Digits of the quantile binning, or ``None`` to pass values as they are. Bins come from all (panel) genes of
        the cell, before any are left out.
    ties
        "upper" or "random"; see `cellwright.tokens.bin_ragged`.
    panel
        Vocabulary ids to restrict cells to, each once, in any order; ``None`` = all genes.
    keep_zero
        Make a token of every panel gene, unexpressed ones with the value 0.
    pad_gene
        Id at pads; needed when not packed.
    is_packed
        Layout of the result.
    """

    max_length: int
    prefix: tuple[tuple[int, float], ...] = ()
    num_bins: int | None = None
    ties: str = "upper"
    panel: Sequence[int] | np.ndarray | None = None
    keep_zero: bool = False
    pad_gene: int | None = None
    is_packed: bool = True

    def __post_init__(self):
        if self.max_length <= len(self.prefix):
            raise ValueError(f"max_length = {self.max_length} leaves no room beside {len(self.prefix)} prefix tokens")
        if self.keep_zero and self.panel is None:
            raise ValueError("keep_zero needs a panel: name the genes whose zeros are wanted")
        if not self.is_packed and self.pad_gene is None:
            raise ValueError("padded sequences need pad_gene, the vocabulary id of the pad token")
        check_binning(2 if self.num_bins is None else self.num_bins, self.ties)
        if self.panel is not None:
            panel = np.unique(np.asarray(self.panel, np.int64))
            if len(panel) != len(self.panel) or not len(panel) or panel[0] < 0:
                raise ValueError("the panel must hold at least one vocabulary id, none negative and each once")
            panel.flags.writeable = False
            object.__setattr__(self, "panel", panel)

    @property
    def room(self) -> int:
        """Most genes a cell may have."""
        return self.max_length - len(self.prefix)


def encode_cells(cells: CellBatch, spec: SequenceSpec, draw: Draw) -> TokenBatch:
    """Encode cells as tokens: prefix first, then genes by vocabulary id.

    The tokens of a cell depend on (``draw.seed``, ``draw.epoch``, the cell's ``row_n``) and on nothing else in the
    minibatch. Genes that the cell flags (``cells.flags``) are always among its tokens: silent ones with the value 0,
    and never among those left out for want of room. Values that are stored but 0 count as not stored. A cell without
    any gene yields the prefix alone.
    Cells whose genes are not in ascending order are sorted first, which is slow: sort them once in the source.

    Raises
    ------
    ValueError
        For an empty minibatch, a negative, infinite or NaN value, a negative gene id, a gene that occurs twice in
        a cell, a cell without any token (no gene and no prefix), or one that flags more genes than it has room for or
        a gene outside the panel.
    """
    if not len(cells):
        raise ValueError("there are no cells to encode")
    keys = [cell_keys(draw, cells.row_n, purpose) for purpose in (TIES, SUBSET)]
    rows = _Rows(*read_rows(cells, spec.panel), *keys)
    kept_n = flagged_genes(cells, spec) if cells.flags else None
    length_n = len(spec.prefix) + np.minimum(_num_candidates_n(rows.indptr_n1, rows.gene_z, spec, kept_n), spec.room)
    if not length_n.all():
        row = int(cells.row_n[np.argmin(length_n)])
        raise ValueError(f"the cell at row {row} expresses no gene of the vocabulary or panel; drop it or add a prefix")
    width = None if spec.is_packed else int(length_n.max())
    layout = Layout(tuple(length_n.tolist()), width)
    size = layout.shape[0] * layout.shape[1]
    start_n = np.cumsum(length_n) - length_n if width is None else np.arange(len(cells)) * width
    # one entry more, because leaving genes out is done without a branch: write first, step on if the gene is kept
    gene = np.empty(size + 1, np.int64) if width is None else np.full(size + 1, spec.pad_gene, np.int64)
    value = np.empty(size + 1, np.float32) if width is None else np.zeros(size + 1, np.float32)
    if IS_COMPILED and kept_n is None:
        _encode_compiled(rows, _plan(spec), start_n, gene, value)
    else:
        encode_rows_numpy(rows, _plan(spec), start_n, gene, value, kept_n)
    return TokenBatch(
        gene_nt=torch.from_numpy(gene[:size]).view(layout.shape),
        value_nt=torch.from_numpy(value[:size]).view(layout.shape),
        is_hidden_nt=torch.zeros(layout.shape, dtype=torch.bool),
        layout=layout,
    )


def num_candidates_n(cells: CellBatch, spec: SequenceSpec) -> np.ndarray:
    """Return how many genes of each cell may become tokens, int64 ``[n]``; `encode_cells` leaves out all but ``room``.

    Raises what `encode_cells` does of values and flags.
    """
    kept_n = flagged_genes(cells, spec) if cells.flags else None
    return _num_candidates_n(*read_rows(cells, spec.panel)[:2], spec, kept_n)


class FromSpec:
    """What tokenisers whose tokens come by a `SequenceSpec` tell of the room for genes."""

    spec: SequenceSpec

    @property
    def room(self) -> int:
        """Most genes a cell may have as tokens."""
        return self.spec.room

    @property
    def feeds_silent(self) -> bool:
        """Whether genes that a cell does not express are among its tokens."""
        return self.spec.keep_zero

    def num_candidates_n(self, cells: CellBatch) -> np.ndarray:
        """Return how many genes of each cell ask for that room, int64 ``[n]``."""
        return num_candidates_n(cells, self.spec)


def _num_candidates_n(
    indptr_n1: np.ndarray, gene_z: np.ndarray, spec: SequenceSpec, kept_n: Sequence[np.ndarray] | None
) -> np.ndarray:
    if spec.keep_zero:
        return np.full(len(indptr_n1) - 1, len(spec.panel))
    own_n = np.diff(indptr_n1)
    if kept_n is None:
        return own_n
    rows = zip(indptr_n1[:-1], indptr_n1[1:], kept_n, strict=True)
    return own_n + [len(np.setdiff1d(kept, gene_z[first:last])) for first, last, kept in rows]


def flagged_genes(cells: CellBatch, spec: SequenceSpec) -> list[np.ndarray]:
    """Return the genes that each cell flags, ascending; see `encode_cells` for what is raised."""
    kept_n = []
    for i in range(len(cells)):
        own = [flags.gene_z[flags.indptr_n1[i] : flags.indptr_n1[i + 1]] for flags in cells.flags.values()]
        kept = np.unique(np.concatenate(own))
        if len(kept) > spec.room:
            raise ValueError(f"the cell at row {cells.row_n[i]} flags {len(kept)} genes and has room for {spec.room}")
        if spec.panel is not None and len(outside := np.setdiff1d(kept, spec.panel)):
            raise ValueError(
                f"the cell at row {cells.row_n[i]} flags the gene with id {outside[0]}, which is not in the panel; add "
                "it to the panel"
            )
        kept_n.append(kept)
    return kept_n


class _Rows(NamedTuple):
    """The genes of a minibatch that may become tokens: values positive, genes ascending within a cell."""

    indptr_n1: np.ndarray
    gene_z: np.ndarray
    value_z: np.ndarray
    tie_key_n: np.ndarray
    subset_key_n: np.ndarray


class _Plan(NamedTuple):
    """A `SequenceSpec` as the kernels read it."""

    prefix_gene: np.ndarray
    prefix_value: np.ndarray
    panel_g: np.ndarray
    """int32, ascending; empty unless zeros are kept."""
    column_v: np.ndarray
    """int32: place in the panel of each vocabulary id."""
    room: int
    num_bins: int
    """0 = values as they are."""
    is_random: bool


class _Pool(NamedTuple):
    """Working memory for the candidates of one cell."""

    value: np.ndarray
    """Encoded values on the panel."""
    is_marked: np.ndarray
    word: np.ndarray


def read_rows(cells: CellBatch, panel: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Check the minibatch and leave out what cannot become a token; see `encode_cells` for what is raised.

    Returns
    -------
    Row boundaries, genes ascending within a cell, positive values: of the panel where there is one.
    """
    indptr_n1 = check_indptr(cells.value_z, cells.indptr_n1)
    gene_z = kernel_array(cells.gene_z, np.int32)
    value_z = check_values(kernel_array(cells.value_z, np.float32))
    if len(cells) != len(indptr_n1) - 1 or len(gene_z) != len(value_z):
        raise ValueError(f"{len(cells)} rows, {len(indptr_n1) - 1} cells, {len(gene_z)} genes, {len(value_z)} values")
    if gene_z.min(initial=0) < 0:
        raise ValueError("a gene id is negative; leave genes outside the vocabulary out of the minibatch")
    if not _is_rising(gene_z, indptr_n1):
        cell_z = np.repeat(np.arange(len(cells)), np.diff(indptr_n1))
        order_z = np.lexsort((gene_z, cell_z))
        gene_z, value_z = gene_z[order_z], value_z[order_z]
        if not _is_rising(gene_z, indptr_n1):
            raise ValueError("a gene occurs twice in a cell; add up its counts in the source")
    is_kept_z = value_z > 0
    if panel is not None:
        is_kept_z &= np.isin(gene_z, panel, kind="table")
    if not is_kept_z.all():
        indptr_n1 = np.concatenate([[0], np.cumsum(is_kept_z)])[indptr_n1]
        gene_z, value_z = gene_z[is_kept_z], value_z[is_kept_z]
    return indptr_n1, gene_z, value_z


def _is_rising(gene_z: np.ndarray, indptr_n1: np.ndarray) -> bool:
    is_rising_z = gene_z[1:] > gene_z[:-1]
    inner = indptr_n1[(indptr_n1 > 0) & (indptr_n1 < len(gene_z))]
    is_rising_z[inner - 1] = True  # the first gene of a cell follows nothing
    return bool(is_rising_z.all())


def _plan(spec: SequenceSpec) -> _Plan:
    panel_g = spec.panel.astype(np.int32) if spec.keep_zero else np.zeros(0, np.int32)
    column_v = np.zeros(int(panel_g.max(initial=-1)) + 1, np.int32)
    column_v[panel_g] = np.arange(len(panel_g), dtype=np.int32)
    return _Plan(
        prefix_gene=np.array([gene for gene, _ in spec.prefix], np.int64),
        prefix_value=np.array([value for _, value in spec.prefix], np.float32),
        panel_g=panel_g,
        column_v=column_v,
        room=spec.room,
        num_bins=spec.num_bins or 0,
        is_random=spec.ties == "random",
    )


def _encode_compiled(rows: _Rows, plan: _Plan, start_n: np.ndarray, gene: np.ndarray, value: np.ndarray) -> None:
    longest = int(np.diff(rows.indptr_n1).max())
    size = max(longest, len(plan.panel_g))
    pool = _Pool(np.empty(len(plan.panel_g), np.float32), np.empty(size, np.bool_), np.empty(size + 1, np.uint32))
    scratch = bin_scratch(longest, max(plan.num_bins, 2), np.float32)
    _encode_rows(rows, plan, pool, scratch, start_n, gene, value)


@compiled
def _encode_rows(rows, plan, pool, scratch, start_n, gene, value):
    for cell in range(len(start_n)):
        own_gene = rows.gene_z[rows.indptr_n1[cell] : rows.indptr_n1[cell + 1]]
        own_value = rows.value_z[rows.indptr_n1[cell] : rows.indptr_n1[cell + 1]]
        _encode_values(own_value, rows.tie_key_n[cell], plan, scratch)
        begin = start_n[cell]
        for i in range(len(plan.prefix_gene)):
            gene[begin + i] = plan.prefix_gene[i]
            value[begin + i] = plan.prefix_value[i]
        begin += len(plan.prefix_gene)
        if len(plan.panel_g) > 0:
            for i in range(len(plan.panel_g)):
                pool.value[i] = 0
            for i in range(len(own_gene)):
                pool.value[plan.column_v[own_gene[i]]] = scratch.digit[i]
            is_left_out = _mark(len(plan.panel_g), plan.room, rows.subset_key_n[cell], pool)
            _write(plan.panel_g, pool.value, pool.is_marked, is_left_out, gene[begin:], value[begin:])
        else:
            is_left_out = _mark(len(own_gene), plan.room, rows.subset_key_n[cell], pool)
            _write(own_gene, scratch.digit, pool.is_marked, is_left_out, gene[begin:], value[begin:])


@inner
def _encode_values(own_value, key, plan, scratch):
    num = len(own_value)
    if plan.num_bins == 0:
        for i in range(num):
            scratch.digit[i] = own_value[i]
        return
    for i in range(num):
        scratch.value[i] = own_value[i]
    if plan.is_random:
        fill_uniforms(key, num, scratch)
    bin_row(num, plan.is_random, scratch)


@inner
def _write(candidate_gene, candidate_value, is_marked, is_left_out, gene, value):
    at = np.uint64(0)
    for i in range(len(candidate_gene)):
        gene[at] = candidate_gene[i]
        value[at] = candidate_value[i]
        at += np.uint64(is_marked[i] != is_left_out)


@inner
def _mark(num, room, key, pool):
    """Mark a uniform random subset and return whether the marks say "left out" rather than "kept".

    Floyd's method (Bentley and Floyd 1987): one random word for each marked item, whichever side is smaller.
    """
    for i in range(num):
        pool.is_marked[i] = False
    excess = max(num - room, 0)
    is_left_out = excess <= room
    num_marks = excess if is_left_out else room
    fill_words(key, num_marks, pool.word)
    for i in range(num_marks):
        last = num - num_marks + i
        at = np.int64((np.uint64(pool.word[i]) * np.uint64(last + 1)) >> np.uint64(32))
        pool.is_marked[last if pool.is_marked[at] else at] = True
    return is_left_out


def encode_rows_numpy(
    rows: _Rows,
    plan: _Plan,
    start_n: np.ndarray,
    gene: np.ndarray,
    value: np.ndarray,
    kept_n: Sequence[np.ndarray] | None = None,
) -> None:
    """Encode cell by cell with numpy: what the kernel is tested against, and what runs where numba is absent.

    ``kept_n`` names genes of each cell that become tokens in any case; the kernel knows none.
    """
    encoded_z = rows.value_z
    if plan.num_bins:
        encoded_z = bin_rows_numpy(
            rows.value_z, rows.indptr_n1, plan.num_bins, is_random=plan.is_random, key_n=rows.tie_key_n
        )
    for cell, at in enumerate(start_n):
        own = slice(rows.indptr_n1[cell], rows.indptr_n1[cell + 1])
        gene_g, value_g = rows.gene_z[own], encoded_z[own]
        kept = np.zeros(0, np.int32) if kept_n is None else kept_n[cell]
        candidate_g = plan.panel_g if len(plan.panel_g) else np.union1d(gene_g, kept)
        if len(candidate_g) > len(gene_g):  # silent ones among them
            value_g = np.zeros(len(candidate_g), np.float32)
            value_g[np.searchsorted(candidate_g, gene_g)] = encoded_z[own]
        is_chosen_g = np.isin(candidate_g, kept)
        room = plan.room - len(kept)
        is_chosen_g[~is_chosen_g] = _subset_numpy(len(candidate_g) - len(kept), room, rows.subset_key_n[cell])
        gene_g = np.concatenate([plan.prefix_gene, candidate_g[is_chosen_g]])
        gene[at : at + len(gene_g)] = gene_g
        value[at : at + len(gene_g)] = np.concatenate([plan.prefix_value, value_g[is_chosen_g]])


def _subset_numpy(num: int, room: int, key: np.uint64) -> np.ndarray:
    excess = max(num - room, 0)
    num_marks = min(excess, room)  # Floyd's method, as in `_mark`
    marked: set[int] = set()
    for i, word in enumerate(words_numpy(key, num_marks).tolist()):
        last = num - num_marks + i
        at = word * (last + 1) >> 32
        marked.add(last if at in marked else at)
    is_marked = np.isin(np.arange(num), list(marked))
    return is_marked != (excess <= room)
