"""Quantile bins of single cells: the compiled kernel and its numpy twin, equal to the last bit.

Called by `cellwright.tokens.values.bin_ragged` and by the sequence kernel; the rule is described there. A cell holds
over a thousand values but some fifty distinct ones, so quantiles and digits are found once for each distinct value
and looked up. Two habits of these kernels have reasons: indices are unsigned where speed matters (numba tests signed
ones for "counted from the end"), and copies are loops, not slices (the shape errors of slices double compile times).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cellwright.tokens.draws import compiled, fill_words, inner, words_numpy

_TABLE_BITS = 12
_MAX_DISTINCT = 1024  # a quarter of the table: probes stay short; beyond it a cell is sorted
_HASH = np.uint64(0x9E3779B97F4A7C15)
_HASH_SHIFT = np.uint64(64 - _TABLE_BITS)
_TABLE = np.uint64(2**_TABLE_BITS)


def bin_rows_numpy(
    value_z: np.ndarray,
    indptr_n1: np.ndarray,
    num_bins: int,
    *,
    is_random: bool,
    key_n: np.ndarray,
    uniform_z: np.ndarray | None = None,
) -> np.ndarray:
    """Bin cell by cell with numpy: what the kernel is tested against, and what runs where numba is absent."""
    step_k = np.linspace(0, 1, num_bins - 1)
    digit_z = np.zeros(len(value_z), np.float32)
    for cell, key in enumerate(key_n):
        at_z = indptr_n1[cell] + np.flatnonzero(value_z[indptr_n1[cell] : indptr_n1[cell + 1]])
        if not len(at_z):
            continue
        edge_k = np.quantile(value_z[at_z], step_k)
        upper_z = np.digitize(value_z[at_z], edge_k)
        if is_random:
            lower_z = np.digitize(value_z[at_z], edge_k, right=True)
            u_z = words_numpy(key, len(at_z)) * 2.0**-32 if uniform_z is None else uniform_z[at_z]
            upper_z = np.ceil(u_z * (lower_z - upper_z) + upper_z)
        digit_z[at_z] = upper_z
    return digit_z


class BinScratch(NamedTuple):
    """Working memory of `bin_row`, made once a call: the values of one cell and its table of distinct values."""

    value: np.ndarray
    """Expressed values of the cell at hand, in front; filled by the caller."""
    bits: np.ndarray
    """The same memory as unsigned integers: for positive floats the order is the same."""
    uniform: np.ndarray
    """A uniform number for each of them; filled by the caller when ties are random."""
    word: np.ndarray
    digit: np.ndarray
    """The answer."""
    slot: np.ndarray
    """Place in the table of each of them."""
    step_k: np.ndarray
    """Quantile levels."""
    edge_k: np.ndarray
    key: np.ndarray
    """Hash table of distinct values (as bits); 0 = free. Empty between cells."""
    count: np.ndarray
    upper: np.ndarray
    spread: np.ndarray
    """R - L of the value in this slot."""
    distinct_bits: np.ndarray
    distinct: np.ndarray
    """The same memory as floats; ascending once sorted."""
    distinct_count: np.ndarray
    distinct_slot: np.ndarray
    spare_bits: np.ndarray
    bucket: np.ndarray


def bin_scratch(longest: int, num_bins: int, dtype: np.dtype) -> BinScratch:
    """Allocate working memory for cells of at most ``longest`` expressed values of this float type."""
    unsigned = np.dtype(f"u{np.dtype(dtype).itemsize}")
    value = np.empty(longest + 1, dtype)  # one more, so that a copy loop may write before it tests
    distinct = np.empty(max(longest, _MAX_DISTINCT), dtype)
    table = 2**_TABLE_BITS
    return BinScratch(
        value=value,
        bits=value.view(unsigned),
        uniform=np.empty(longest + 1),
        word=np.empty(longest + 1, np.uint32),
        digit=np.empty(longest + 1, np.float32),
        slot=np.empty(longest + 1, np.uint32),
        step_k=np.linspace(0, 1, num_bins - 1),
        edge_k=np.empty(num_bins - 1),
        key=np.zeros(table, unsigned),
        count=np.empty(2 * table, np.int64),
        upper=np.empty(table),
        spread=np.empty(table),
        distinct_bits=distinct.view(unsigned),
        distinct=distinct,
        distinct_count=np.empty(len(distinct), np.int64),
        distinct_slot=np.empty(len(distinct), np.uint32),
        spare_bits=np.empty(len(distinct), unsigned),
        bucket=np.empty(256, np.int64),
    )


@compiled
def bin_rows(value_z, indptr_n1, key_n, given_z, is_random, scratch, digit_z):
    """Bin all cells; an empty ``given_z`` means that uniform numbers come from the cells' keys."""
    for cell in range(len(key_n)):
        begin, end = indptr_n1[cell], indptr_n1[cell + 1]
        num = _gather(value_z[begin:end], given_z[begin:end], scratch)
        if is_random and len(given_z) == 0:
            fill_uniforms(key_n[cell], num, scratch)
        bin_row(num, is_random, scratch)
        num = 0
        for z in range(begin, end):
            digit_z[z] = scratch.digit[num] if value_z[z] > 0 else 0
            num += value_z[z] > 0


@inner
def _gather(value, given, scratch):
    num = 0
    for z in range(len(value)):
        scratch.value[num] = value[z]
        if z < len(given):
            scratch.uniform[num] = given[z]
        num += value[z] > 0
    return num


@inner
def fill_uniforms(key, num, scratch):
    """Draw a uniform number for each of the cell's ``num`` values into the working memory."""
    fill_words(key, num, scratch.word)
    for i in range(num):
        scratch.uniform[i] = scratch.word[i] * 2.0**-32


@inner
def bin_row(num, is_random, scratch):
    """Put the digits of one cell, whose ``num`` expressed values stand in ``scratch.value``, into ``scratch.digit``.

    Cells with very many distinct values (continuous data) are sorted instead of tabled.
    """
    if num == 0:
        return
    num_distinct = _tally(num, scratch)
    if num_distinct < 0:
        _bin_sorted(num, is_random, scratch)
        return
    _find_edges(num_distinct, num, scratch)
    edge_k, above, below = scratch.edge_k, 0, 0
    for i in range(num_distinct):
        while above < len(edge_k) and edge_k[above] <= scratch.distinct[i]:
            above += 1
        while below < len(edge_k) and edge_k[below] < scratch.distinct[i]:
            below += 1
        slot = scratch.distinct_slot[i]
        scratch.upper[slot] = above
        scratch.spread[slot] = below - above
        scratch.key[slot] = 0
    if is_random:
        for i in range(num):
            slot = scratch.slot[i]
            scratch.digit[i] = np.ceil(scratch.uniform[i] * scratch.spread[slot] + scratch.upper[slot])
    else:
        for i in range(num):
            scratch.digit[i] = scratch.upper[scratch.slot[i]]


@inner
def _tally(num, scratch):
    """Sort the distinct values and count them; return how many, or -1 (and an empty table) when too many."""
    bits, key, count = scratch.bits, scratch.key, scratch.count
    num_distinct = np.int64(0)  # a literal 0 would be compiled for on its own
    for i in range(num):
        slot = (np.uint64(bits[i]) * _HASH) >> _HASH_SHIFT
        if key[slot] != bits[i]:
            slot = _probe(slot, bits[i], key)
        if key[slot] == 0:
            if num_distinct == _MAX_DISTINCT:
                for taken in range(len(key)):
                    key[taken] = 0
                return -1
            key[slot] = bits[i]
            count[slot] = count[slot + _TABLE] = 0
            scratch.distinct_bits[num_distinct] = bits[i]
            num_distinct += 1
        # two counters in turn: equal neighbours (half of a cell are ones) need not wait for each other's sum
        count[slot + _TABLE * np.uint64(i & 1)] += 1
        scratch.slot[i] = slot
    _sort_bits(num_distinct, scratch)
    for i in range(num_distinct):
        slot = (np.uint64(scratch.distinct_bits[i]) * _HASH) >> _HASH_SHIFT
        slot = _probe(slot, scratch.distinct_bits[i], key)
        scratch.distinct_slot[i] = slot
        scratch.distinct_count[i] = count[slot] + count[slot + _TABLE]
    return num_distinct


@inner
def _probe(slot, bits, key):
    """Walk on from ``slot`` to the place of these bits, or to the gap where they belong."""
    while key[slot] != 0 and key[slot] != bits:
        slot = (slot + np.uint64(1)) & (_TABLE - np.uint64(1))
    return slot


@inner
def _find_edges(num_distinct, num, scratch):
    """Interpolate the quantiles of ``num`` values given as ascending distinct values with their counts.

    The order of operations is numpy's: position = level * (num - 1), the difference of neighbours in the values'
    own precision, then a float64 interpolation from whichever neighbour is nearer.
    """
    at, reach = 0, scratch.distinct_count[0]
    for k in range(len(scratch.step_k)):
        position = scratch.step_k[k] * (num - 1)
        before = int(position)
        weight = position - before
        while reach <= before:
            at += 1
            reach += scratch.distinct_count[at]
        left = scratch.distinct[at]
        right = left
        if reach == before + 1 and at + 1 < num_distinct:
            right = scratch.distinct[at + 1]
        step = right - left
        scratch.edge_k[k] = right - step * (1 - weight) if weight >= 0.5 else left + step * weight


@inner
def _bin_sorted(num, is_random, scratch):
    for i in range(num):
        scratch.distinct_bits[i] = scratch.bits[i]
        scratch.distinct_count[i] = 1
    _sort_bits(num, scratch)
    _find_edges(num, num, scratch)
    edge_k = scratch.edge_k
    for i in range(num):
        value = scratch.value[i]
        upper = 0
        for k in range(len(edge_k)):  # quicker than a bisection, whose turns are mispredicted
            upper += edge_k[k] <= value
        scratch.digit[i] = upper
        if is_random:
            lower = upper
            while lower > 0 and edge_k[lower - 1] == value:
                lower -= 1
            scratch.digit[i] = np.ceil(scratch.uniform[i] * (lower - upper) + upper)


@inner
def _sort_bits(num, scratch):
    """Sort the first ``num`` distinct values by their bits, a byte at a time; bytes that all share are skipped."""
    bits, spare, bucket = scratch.distinct_bits, scratch.spare_bits, scratch.bucket
    for shift in range(0, 8 * bits.itemsize, 8):
        for byte in range(256):
            bucket[byte] = 0
        for i in range(num):
            bucket[(np.uint64(bits[i]) >> np.uint64(shift)) & np.uint64(255)] += 1
        if bucket[(np.uint64(bits[0]) >> np.uint64(shift)) & np.uint64(255)] == num:
            continue
        first = 0
        for byte in range(256):
            here = bucket[byte]
            bucket[byte] = first
            first += here
        for i in range(num):
            byte = (np.uint64(bits[i]) >> np.uint64(shift)) & np.uint64(255)
            spare[bucket[byte]] = bits[i]
            bucket[byte] += 1
        for i in range(num):
            bits[i] = spare[i]
