"""Nearest neighbours among embedded cells: exact by default, approximate with faiss for very large references.

Exact search is a matrix product and a running list of the nearest, in blocks of bounded memory; it needs no index.
Approximate search is faiss's inverted lists over exact vectors (figures: ``bench/mapping.py``): k-means parts the
reference into as many groups as the square root of its size, and a query looks into the nearest few.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Metric = Literal["cosine", "euclidean"]
Method = Literal["exact", "approximate"]
BLOCK_CELLS = 4096
"""Cells of a block, of query and reference alike; a block of distances takes 64 MB."""
NUM_PROBES = 16
"""Inverted lists that are searched for a query."""


def unit_length(x_nd: np.ndarray) -> np.ndarray:
    """Scale rows to length 1, float32; a row of zeros stays."""
    length_n1 = np.linalg.norm(x_nd, axis=1, keepdims=True)
    return (x_nd / np.where(length_n1 > 0, length_n1, 1)).astype(np.float32)


class Neighbors:
    """Reference cells that can be searched.

    Parameters
    ----------
    reference_md
        float32 ``[m, d]``, finite; for cosine, rows of length 1 (`unit_length`).
    metric
        cosine: 1 - cosine of the angle, 0 .. 2. euclidean: distance.
    method
        exact, or approximate (needs faiss: ``pip install "cellwright[faiss]"``).
    lists
        File of inverted lists that `save_lists` wrote for this reference; ``None`` = they are made at the first search.
    """

    def __init__(
        self,
        reference_md: np.ndarray,
        *,
        metric: Metric = "cosine",
        method: Method = "exact",
        lists: str | Path | None = None,
    ):
        self.reference_md, self.metric, self.method = reference_md, metric, method
        self._lists: Any = None if lists is None else _read_lists(Path(lists), reference_md.shape)

    def save_lists(self, path: str | Path) -> None:
        """Write the inverted lists of approximate search, made first where they were not needed yet."""
        _faiss().write_index(self._made_lists(), str(path))

    def _made_lists(self) -> Any:
        if self._lists is None:
            self._lists = _build_lists(self.reference_md)
        return self._lists

    def __len__(self) -> int:
        return len(self.reference_md)

    def search(self, query_nd: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the ``num`` nearest reference cells of each query.

        Returns
        -------
        int64 ``[n, num]`` positions, nearest first (of equally near ones the earlier), and float32 distances.
        """
        if not 1 <= num <= len(self):
            raise ValueError(f"{num} neighbours were asked for; the reference has {len(self)} cells")
        query_nd = unit_length(query_nd) if self.metric == "cosine" else np.asarray(query_nd, np.float32)
        search = self._exact if self.method == "exact" else self._approximate
        index_nk, square_nk = search(query_nd, num)
        order_nk = np.lexsort((index_nk, square_nk), axis=1)
        index_nk = np.take_along_axis(index_nk, order_nk, 1)
        square_nk = np.maximum(np.take_along_axis(square_nk, order_nk, 1), 0)
        return index_nk, square_nk / 2 if self.metric == "cosine" else np.sqrt(square_nk)

    def _exact(self, query_nd: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
        reference_md = torch.from_numpy(self.reference_md)
        found = [_nearest(block_nd, reference_md, num) for block_nd in torch.from_numpy(query_nd).split(BLOCK_CELLS)]
        index_nk, square_nk = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
        return index_nk, square_nk

    def _approximate(self, query_nd: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
        square_nk, index_nk = self._made_lists().search(query_nd, num)
        if (index_nk < 0).any():  # fewer cells in the lists that were searched: look everywhere
            short_n = (index_nk < 0).any(1)
            index_nk[short_n], square_nk[short_n] = self._exact(query_nd[short_n], num)
        return index_nk, square_nk


def _nearest(query_nd: Tensor, reference_md: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Return positions and squared distances of the nearest, block by block of the reference."""
    length_n1 = (query_nd * query_nd).sum(1, keepdim=True)
    best: tuple[Tensor, Tensor] | None = None
    for start in range(0, len(reference_md), BLOCK_CELLS):
        block_md = reference_md[start : start + BLOCK_CELLS]
        square_nm = torch.addmm((block_md * block_md).sum(1), query_nd, block_md.T, alpha=-2).add_(length_n1)
        near = square_nm.topk(min(num, len(block_md)), largest=False)
        index_nk, square_nk = near.indices + start, near.values
        if best is not None:
            index_nk, square_nk = torch.cat([best[0], index_nk], 1), torch.cat([best[1], square_nk], 1)
            near = square_nk.topk(min(num, square_nk.shape[1]), largest=False)
            index_nk, square_nk = index_nk.gather(1, near.indices), near.values
        best = index_nk, square_nk
    assert best is not None
    return best


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise ValueError('approximate search needs faiss: pip install "cellwright[faiss]", or use exact') from None
    return faiss


def _build_lists(reference_md: np.ndarray) -> Any:
    faiss = _faiss()
    num_lists = max(1, int(np.sqrt(len(reference_md))))
    lists = faiss.index_factory(reference_md.shape[1], f"IVF{num_lists},Flat", faiss.METRIC_L2)
    lists.cp.seed, lists.nprobe = 0, min(NUM_PROBES, num_lists)
    lists.train(reference_md)
    lists.add(reference_md)
    return lists


def _read_lists(path: Path, shape: tuple[int, ...]) -> Any:
    faiss = _faiss()
    try:
        lists = faiss.read_index(str(path))
    except RuntimeError:
        raise ValueError(f"{path} is not a file of inverted lists; make the index again") from None
    if (lists.ntotal, lists.d) != shape:
        raise ValueError(f"{path} holds {lists.ntotal} cells x {lists.d}, the reference {shape[0]} x {shape[1]}")
    lists.nprobe = min(NUM_PROBES, lists.nlist)
    return lists


def leave_one_out(neighbors: Neighbors, num: int, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the ``num`` nearest *other* reference cells of each reference cell, as `Neighbors.search` does.

    Parameters
    ----------
    rows
        Positions of the reference cells that are asked for; ``None`` = all.
    """
    if len(neighbors) <= num:
        raise ValueError(f"a reference of {len(neighbors)} cells has no {num} others for each; ask for fewer")
    rows = np.arange(len(neighbors)) if rows is None else rows
    index_nk, distance_nk = neighbors.search(neighbors.reference_md[rows], num + 1)
    is_self_nk = index_nk == rows[:, None]
    is_self_nk[~is_self_nk.any(1), -1] = True  # twins may hide a cell from its own list
    shape = (len(rows), num)
    return index_nk[~is_self_nk].reshape(shape), distance_nk[~is_self_nk].reshape(shape)
