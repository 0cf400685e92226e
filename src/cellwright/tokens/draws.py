"""Random words keyed by cell, and the switch between compiled and numpy kernels.

A tokeniser must give a cell the same tokens in every minibatch, on every worker and after every resume. So its
random numbers come from a counter, not from a stream: word ``i`` of a cell is a hash of (seed, epoch, purpose, row,
i), 32 bits wide. The hash is the SplitMix64 generator (Steele, Lea and Flood 2014), begun at the cell's own key; each
of its outputs makes two words. ``word / 2**32`` is uniform in [0, 1); ``word * n // 2**32`` picks one of ``n``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from cellwright.types import Draw

try:
    import numba
except ImportError:  # the numpy twins give the same numbers, more slowly
    numba = None

IS_COMPILED = numba is not None

TIES, SUBSET, ORDER, THIN, SHARE = 1, 2, 3, 4, 5
"""Purposes: each has its own numbers, so that using one never shifts another."""

STEP = np.uint64(0x9E3779B97F4A7C15)
"""What the key of a cell grows by for each pair of words."""
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFT_27, _SHIFT_30, _SHIFT_31, _SHIFT_32 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(32)


def compiled(function: Callable, *, is_inner: bool = False) -> Callable:
    """Compile a kernel with numba (releasing the GIL), or return it unchanged where numba is absent.

    ``is_inner`` kernels can be called by kernels only; that saves a third of the compile time.
    Compiled code is kept on disk beside the source file. numba notices a change of that file only: after editing a
    kernel that kernels in other files call, remove ``__pycache__``.
    """
    if numba is None:
        return function
    options = {"nogil": True, "no_cpython_wrapper": is_inner, "no_cfunc_wrapper": True}
    try:
        return numba.njit(function, cache=True, **options)
    except RuntimeError:  # neither the package's folder nor the user's cache folder can be written
        return numba.njit(function, **options)


def inner(function: Callable) -> Callable:
    """Compile a kernel that only other kernels call; see `compiled`."""
    return compiled(function, is_inner=True)


@inner
def mix64(word):
    """Scramble a uint64 so that neighbouring inputs give unrelated outputs (wraps around on purpose)."""
    word = (word ^ (word >> _SHIFT_30)) * _MIX_1
    word = (word ^ (word >> _SHIFT_27)) * _MIX_2
    return word ^ (word >> _SHIFT_31)


@compiled
def fill_words(key, num, word):
    """Write the first ``num`` words of the cell with this key (one more where ``num`` is odd) into uint32 ``word``."""
    # two words a turn, for this shape of loop is vectorised: four times the speed of one word a turn
    for pair in range((num + 1) // 2):
        mixed = mix64(key + np.uint64(pair + 1) * STEP)
        word[2 * pair] = np.uint32(mixed)
        word[2 * pair + 1] = np.uint32(mixed >> _SHIFT_32)


def kernel_array(array: np.ndarray, dtype: np.dtype | type) -> np.ndarray:
    """Return the array as kernels take it: contiguous and writeable, for each other kind would be compiled anew."""
    return np.require(array, dtype, ["C", "W"])


def cell_keys(draw: Draw, row_n: np.ndarray, purpose: int) -> np.ndarray:
    """Return a uint64 key ``[n]`` for each cell; ``draw.step`` is left out, for it belongs to the minibatch."""
    return mix64_numpy(_draw_key(draw.seed, draw.epoch, purpose) + np.asarray(row_n).astype(np.uint64) * STEP)


def cell_uniforms(draw: Draw, row_n: np.ndarray, purpose: int) -> np.ndarray:
    """Return two uniform numbers in (0, 1) for each cell, float64 ``[n, 2]``: its first two words."""
    mixed_n = mix64_numpy(cell_keys(draw, row_n, purpose) + STEP)
    return (np.stack([mixed_n.astype(np.uint32), (mixed_n >> _SHIFT_32).astype(np.uint32)], axis=1) + 0.5) / 2.0**32


@lru_cache(maxsize=64)
def _draw_key(seed: int, epoch: int, purpose: int) -> np.ndarray:
    key_1 = np.zeros(1, np.uint64)  # one-element arrays wrap around silently, scalars warn
    for word in (seed, epoch, purpose):
        key_1 = mix64_numpy(key_1 + np.uint64(word % 2**64) + STEP)
    return key_1


def mix64_numpy(word_z: np.ndarray) -> np.ndarray:
    """Scramble uint64 arrays; the numpy twin of `mix64`."""
    word_z = (word_z ^ (word_z >> _SHIFT_30)) * _MIX_1
    word_z = (word_z ^ (word_z >> _SHIFT_27)) * _MIX_2
    return word_z ^ (word_z >> _SHIFT_31)


def words_numpy(key: np.uint64, num: int) -> np.ndarray:
    """Return the first ``num`` words of one cell, uint32; the numpy twin of `fill_words`."""
    pair = np.arange(1, (num + 1) // 2 + 1, dtype=np.uint64)
    mixed = mix64_numpy(np.asarray(key, np.uint64) + pair * STEP)
    return np.stack([mixed.astype(np.uint32), (mixed >> _SHIFT_32).astype(np.uint32)], axis=1).ravel()[:num]
