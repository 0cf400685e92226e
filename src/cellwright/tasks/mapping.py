"""Mapping onto a reference: cells are placed among embedded reference cells and take the labels of their neighbours.

Source: scGPT (Cui et al., Nature Methods 2024, "reference mapping"): 10 nearest reference cells, the most frequent
label wins. Added here: the share of votes, and how far outside the reference a cell lies. What such a label is worth
depends on the reference: a cell of a type that it lacks gets the nearest wrong one, which only the outside score can
tell, and a shift between laboratories raises that score for all cells alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from cellwright.config import Config, versions
from cellwright.files import atomic_path, read_json, sha256_file, write_json
from cellwright.tasks.annotate import UNASSIGNED, check_threshold
from cellwright.tasks.neighbors import Method, Metric, Neighbors, leave_one_out, unit_length

FORMAT_VERSION = 1
EXACT_CELLS = 200_000
"""Largest reference that is searched exactly where the method is left to the size."""
SPREAD_CELLS = 10_000
"""Most reference cells whose distance to their own neighbours is taken: from so many, shares are known to 0.01."""
_EMBEDDING, _LABELS, _LISTS, _RECORD = "embedding.npy", "labels.npz", "lists.faiss", "index.json"


class IndexConfig(Config):
    """How a reference is searched."""

    metric: Metric = "cosine"
    """cosine | euclidean. Published scGPT: Euclidean on embeddings of length 1, which orders cells as cosine does."""
    method: Literal["auto"] | Method = "auto"
    """exact | approximate (faiss, for references of millions of cells) | auto (exact up to 200,000 cells)."""
    num_neighbors: int = Field(10, ge=1)
    """Reference cells that vote (published: 10)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labels:
    """A column of the reference."""

    code_m: np.ndarray
    """int64 ``[m]``, -1 = missing; such cells do not vote."""
    names: tuple[str, ...]


@dataclass(slots=True, kw_only=True, eq=False)
class ReferenceIndex:
    """An embedded reference with its labels; made by `build_index`, kept in a folder."""

    neighbors: Neighbors
    labels: dict[str, Labels]
    config: IndexConfig
    spread_m: np.ndarray
    """float32, ascending: mean distance of reference cells to their own neighbours (themselves left out); of all cells,
    or of 10,000 drawn among more."""
    origin: dict[str, Any]
    """Which model embedded which cells."""

    def __len__(self) -> int:
        return len(self.neighbors)

    def save(self, folder: str | Path) -> None:
        """Write the index as a folder, whole or not at all."""
        with atomic_path(folder) as draft:
            draft.mkdir(parents=True)
            np.save(draft / _EMBEDDING, self.neighbors.reference_md, allow_pickle=False)
            codes = {f"code_{i}": some.code_m for i, some in enumerate(self.labels.values())}
            np.savez(draft / _LABELS, allow_pickle=False, spread=self.spread_m, **codes)
            files = [_EMBEDDING, _LABELS]
            if self.config.method == "approximate":  # making them takes a minute for a million cells
                self.neighbors.save_lists(draft / _LISTS)
                files.append(_LISTS)
            record = {
                "format": "cellwright reference index",
                "format_version": FORMAT_VERSION,
                "config": self.config.record(),
                "labels": [{"column": column, "names": list(some.names)} for column, some in self.labels.items()],
                "origin": self.origin,
                "sha256": {name: sha256_file(draft / name) for name in files},
                "versions": versions(),
            }
            write_json(draft / _RECORD, record)


def build_index(
    embedding_md: np.ndarray,
    labels: Mapping[str, Labels],
    *,
    config: IndexConfig | None = None,
    origin: Mapping[str, Any] | None = None,
) -> ReferenceIndex:
    """Make an index of embedded reference cells.

    Parameters
    ----------
    embedding_md
        ``[m, d]``, finite.
    labels
        Column -> labels; may be empty (then cells are placed and scored, not named).
    origin
        What made the embedding, for the record.

    Raises
    ------
    ValueError
        When numbers are not finite, labels do not fit the cells or are all missing, or there are too few cells.
    """
    config = config or IndexConfig()
    if config.method == "auto":
        config = config.model_copy(update={"method": "exact" if len(embedding_md) <= EXACT_CELLS else "approximate"})
    if not np.isfinite(embedding_md).all():
        raise ValueError("the reference embedding has numbers that are not finite")
    for column, some in labels.items():
        if some.code_m.shape != (len(embedding_md),):
            raise ValueError(f"{column!r} has {len(some.code_m)} labels for {len(embedding_md)} reference cells")
        if not (some.code_m >= 0).any():
            raise ValueError(f"no reference cell has a {column!r}; choose another column")
    embedding_md = unit_length(embedding_md) if config.metric == "cosine" else np.float32(embedding_md)
    neighbors = Neighbors(embedding_md, metric=config.metric, method=config.method)
    rows = np.sort(np.random.default_rng(0).permutation(len(neighbors))[:SPREAD_CELLS])
    _, distance_mk = leave_one_out(neighbors, config.num_neighbors, rows)
    return ReferenceIndex(
        neighbors=neighbors,
        labels=dict(labels),
        config=config,
        spread_m=np.sort(distance_mk.mean(1)),
        origin=dict(origin or {}),
    )


def load_index(folder: str | Path) -> ReferenceIndex:
    """Open an index.

    Raises
    ------
    FileNotFoundError
        When there is none.
    ValueError
        When it is damaged, of a later format, or no index.
    """
    folder = Path(folder)
    if not (folder / _RECORD).is_file():
        raise FileNotFoundError(f"{folder} is no reference index ({_RECORD} is not there); make one: cellwright index")
    record = read_json(folder / _RECORD)
    if not isinstance(record, dict) or record.get("format") != "cellwright reference index":
        raise ValueError(f"{folder / _RECORD} does not describe a reference index")
    if record["format_version"] > FORMAT_VERSION:
        raise ValueError(f"{folder} has format {record['format_version']}, newer than this cellwright; update it")
    for name, sha256 in record["sha256"].items():
        if not (folder / name).is_file() or sha256_file(folder / name) != sha256:
            raise ValueError(f"{folder / name} is damaged or missing; make the index again")
    config = IndexConfig.read(record["config"], str(folder / _RECORD))
    with np.load(folder / _LABELS, allow_pickle=False) as arrays:
        labels = {
            entry["column"]: Labels(code_m=arrays[f"code_{i}"], names=tuple(entry["names"]))
            for i, entry in enumerate(record["labels"])
        }
        spread_m = arrays["spread"]
    embedding_md = np.load(folder / _EMBEDDING, allow_pickle=False)
    lists = folder / _LISTS if _LISTS in record["sha256"] else None
    neighbors = Neighbors(embedding_md, metric=config.metric, method=config.method, lists=lists)
    return ReferenceIndex(neighbors=neighbors, labels=labels, config=config, spread_m=spread_m, origin=record["origin"])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Votes:
    """What the neighbours say of each query cell in one column."""

    names: tuple[str, ...]
    share_nk: np.ndarray
    """float32 ``[n, k]``: share of the voting neighbours; rows sum to 1, or are all 0 where none has a label."""
    code_n: np.ndarray
    """int64: the most frequent label, of equally frequent ones that of the nearest neighbour; -1 where none votes."""

    @property
    def prob_n(self) -> np.ndarray:
        """float32 ``[n]``: share of the winner."""
        return self.share_nk.max(1)

    def label_n(self, threshold: float = 0.0) -> np.ndarray:
        """Return names ``[n]``, "unassigned" where the winner's share is below ``threshold`` or nobody votes."""
        check_threshold(threshold)
        code_n = np.where(self.prob_n >= threshold, self.code_n, -1)
        return np.array([*self.names, UNASSIGNED], dtype=object)[code_n]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MappedCells:
    """Query cells placed on a reference, in the order of the query."""

    votes: dict[str, Votes]
    neighbor_nk: np.ndarray
    """int64 ``[n, num_neighbors]``: positions in the reference, nearest first."""
    distance_nk: np.ndarray
    """float32, see `Neighbors`."""
    outside_n: np.ndarray
    """float32 0 .. 1: share of reference cells that lie closer to their own neighbours than this cell to its. Cells
    like those of the reference are spread evenly over 0 .. 1; 1 = farther out than every reference cell."""


def map_cells(index: ReferenceIndex, query_nd: np.ndarray) -> MappedCells:
    """Place embedded query cells on a reference.

    Parameters
    ----------
    query_nd
        ``[n, d]``, made by the model that embedded the reference.

    Raises
    ------
    ValueError
        When the widths differ or numbers are not finite.
    """
    width = index.neighbors.reference_md.shape[1]
    if query_nd.ndim != 2 or query_nd.shape[1] != width:
        raise ValueError(f"query cells have the shape {query_nd.shape}; the reference embedding has {width} columns")
    if not np.isfinite(query_nd).all():
        raise ValueError("the query embedding has numbers that are not finite")
    neighbor_nk, distance_nk = index.neighbors.search(query_nd, index.config.num_neighbors)
    rank_n = np.searchsorted(index.spread_m, distance_nk.mean(1))
    return MappedCells(
        votes={column: count_votes(some, neighbor_nk) for column, some in index.labels.items()},
        neighbor_nk=neighbor_nk,
        distance_nk=distance_nk,
        outside_n=(rank_n / len(index.spread_m)).astype(np.float32),
    )


def count_votes(labels: Labels, neighbor_nk: np.ndarray) -> Votes:
    """Count the labels of neighbours, nearest first."""
    code_nk = labels.code_m[neighbor_nk]
    count_nk = np.zeros((len(code_nk), len(labels.names)), np.float32)
    for code_n in code_nk.T:
        has_n = np.flatnonzero(code_n >= 0)
        count_nk[has_n, code_n[has_n]] += 1
    winner_n = np.full(len(code_nk), -1)
    most_n = count_nk.max(1, initial=0)
    for code_n in code_nk.T[::-1]:  # the nearest has the last word
        is_winner_n = (code_n >= 0) & (count_nk[np.arange(len(code_n)), code_n] == most_n)
        winner_n[is_winner_n] = code_n[is_winner_n]
    share_nk = count_nk / np.maximum(count_nk.sum(1, keepdims=True), 1)
    return Votes(names=labels.names, share_nk=share_nk, code_n=winner_n)
