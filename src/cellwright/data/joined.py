"""Several data sets read as one, on a vocabulary made from their own genes: what pre-training starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cellwright.config import did_you_mean
from cellwright.data.cells import Cells, open_cells
from cellwright.data.gene_table import human_genes
from cellwright.data.panel import select_genes
from cellwright.data.sources import open_source
from cellwright.types import CellBatch
from cellwright.vocab import GeneVocab

if TYPE_CHECKING:
    import pandas as pd


class JoinedCells:
    """Cells of several sources one after another (a `CellSource`); ``row_n`` counts through all of them.

    Its ``obs`` has the columns that all sources share, and ``source`` = the position of the data set.
    """

    def __init__(self, parts: Sequence[Cells]):
        states = sorted({part.state for part in parts})
        if len(states) > 1:
            raise ValueError(
                f"the data sets hold values of different states ({', '.join(states)}); give raw counts for all of them"
            )
        self.parts = tuple(parts)
        self.vocab = parts[0].vocab
        self.state = states[0]
        self._start_p = np.cumsum([0, *(len(part) for part in parts)])

    def __len__(self) -> int:
        return int(self._start_p[-1])

    @property
    def obs(self) -> pd.DataFrame:
        """Annotations of all cells; a copy."""
        import pandas as pd

        frames = [part.obs.assign(source=str(i)) for i, part in enumerate(self.parts)]
        return pd.concat(frames, join="inner")

    def with_obs(self, codes: Mapping[str, np.ndarray]) -> JoinedCells:
        """Return a view whose batches carry these codes too (name -> integers ``[n]``, -1 = missing)."""
        pieces = [slice(start, start + len(part)) for start, part in zip(self._start_p, self.parts, strict=False)]
        return JoinedCells(
            [
                part.with_obs({name: np.asarray(code_n)[piece] for name, code_n in codes.items()})
                for part, piece in zip(self.parts, pieces, strict=True)
            ]
        )

    def codes(self, name: str) -> np.ndarray:
        """Return the codes that `with_obs` gave these cells, int64 ``[n]``."""
        return np.concatenate([part.codes(name) for part in self.parts])

    def record(self) -> dict[str, Any]:
        """Return what each data set was found to be (JSON form)."""
        return {"vocab_sha256": self.vocab.sha256, "contracts": [part.contract.record() for part in self.parts]}

    def read(self, rows: np.ndarray) -> CellBatch:
        """Return the cells at these positions, in this order."""
        rows = np.asarray(rows, np.int64)
        part_n = np.searchsorted(self._start_p, rows, side="right") - 1
        order_n = np.argsort(part_n, kind="stable")
        batches = []
        for i, part in enumerate(self.parts):
            at_n = rows[part_n == i] - self._start_p[i]
            if len(at_n):
                batches.append(part.read(at_n))
        back_n = np.empty(len(rows), np.int64)
        back_n[order_n] = np.arange(len(rows))
        joined = _concatenate(batches, rows[order_n])
        return joined.take(back_n)


def _concatenate(batches: Sequence[CellBatch], row_n: np.ndarray) -> CellBatch:
    shared: set[str] = set.intersection(*(set(batch.obs) for batch in batches)) if batches else set()
    obs: Mapping[str, np.ndarray] = {name: np.concatenate([b.obs[name] for b in batches]) for name in sorted(shared)}
    length_n = np.concatenate([batch.num_genes_n for batch in batches])
    return CellBatch(
        indptr_n1=np.concatenate([[0], np.cumsum(length_n)]),
        gene_z=np.concatenate([batch.gene_z for batch in batches]),
        value_z=np.concatenate([batch.value_z for batch in batches]),
        row_n=row_n,
        total_n=np.concatenate([batch.total_n for batch in batches]),
        obs=obs,
        state=batches[0].state,
    )


def open_together(
    data: Sequence[Any],
    *,
    specials: Mapping[str, str],
    accepts: Sequence[str],
    num_genes: int | None = None,
    min_cells: int = 3,
    layer: str | None = None,
    assume: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> JoinedCells:
    """Open data sets on a new vocabulary of their genes.

    Genes are named by approved symbol where the name stands for one human gene, else as the source names them.

    Parameters
    ----------
    data
        Paths or AnnData, at least one.
    specials
        Special tokens of the vocabulary, role -> token.
    accepts
        States of values that the family takes.
    num_genes
        Keep the most variable genes over all cells; ``None`` = all.
    min_cells
        Leave out genes that fewer cells express.
    layer, assume
        Matrix to read and what it holds, for all data sets, as in `open_cells`.
    metadata
        Category -> column of obs: their values become words of the vocabulary, and batches carry their codes.

    Raises
    ------
    ValueError
        No data, no gene left, or a data set that cannot be opened.
    """
    if not data:
        raise ValueError("no data given; name at least one file of cells")

    def on(vocab: GeneVocab) -> JoinedCells:
        return JoinedCells([open_cells(item, vocab, accepts=accepts, layer=layer, assume=assume) for item in data])

    names = dict.fromkeys(name for item in data for name in _symbols(item, layer))
    whole = on(GeneVocab.from_genes(names, specials))
    obs = _columns(whole, metadata or {})
    cell_v = np.zeros(len(whole.vocab), np.int64)
    for start in range(0, len(whole), 2048):
        gene_z = whole.read(np.arange(start, min(start + 2048, len(whole)))).gene_z
        cell_v += np.bincount(gene_z, minlength=len(cell_v))
    genes = [whole.vocab.tokens[i] for i in np.flatnonzero(cell_v >= min_cells)]
    if not genes:
        raise ValueError(f"no gene is expressed in {min_cells} cells; is this the right matrix?")
    if num_genes is not None and num_genes < len(genes):
        some = on(GeneVocab.from_genes(genes, specials))
        genes = [some.vocab.tokens[i] for i in select_genes(some, num_genes)]
    vocab = GeneVocab.from_metadata(genes, specials, obs, columns=list(obs))
    joined = on(vocab)
    return joined.with_obs({name: vocab.codes(name, values) for name, values in obs.items()}) if obs else joined


def _columns(joined: JoinedCells, metadata: Mapping[str, str]) -> dict[str, list[Any]]:
    """Return category -> value of every cell; a column that a data set lacks is a ``ValueError``."""
    values: dict[str, list[Any]] = {category: [] for category in metadata}
    for part in joined.parts:
        obs = part.obs
        for category, column in metadata.items():
            if column not in obs:
                near = did_you_mean(column, map(str, obs)) or f"; columns: {', '.join(map(str, obs)) or 'none'}"
                raise ValueError(f"{part.contract.source} has no column {column!r} for the category {category!r}{near}")
            values[category] += obs[column].tolist()
    return values


def _symbols(item: Any, layer: str | None) -> list[str]:
    """Return the names of a data set's genes, approved symbols where they are known."""
    opened = open_source(item)
    try:
        # which matrix will be read is not known yet, and .raw has genes of its own; those never seen fall out later
        places = [layer] if layer in opened.matrices else list(opened.matrices)
        names = dict.fromkeys(str(name) for place in places for name in opened.var_of(place).index)
        table = human_genes()
        return [table.symbol(name)[0] or name for name in names]
    finally:
        opened.close()
