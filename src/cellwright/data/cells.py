"""Open a data set as cells on a vocabulary: the data door of every task.

`open_cells` does it all: find the matrix, check what it is, match the genes, count what is lost. The result reads
cells by position as `CellBatch`; it is a view that can be subset and labelled without copying values, and nothing
that the caller lent is ever changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import scipy.sparse as sp

from cellwright.data.contract import Choice, Contract, choose_matrix, title
from cellwright.data.genes import GeneMatch, match_genes, organism
from cellwright.data.mapped import Columns, InMemory, OnDisk
from cellwright.data.sources import DiskCSC, Opened, damaged, is_on_disk, open_source, row_blocks
from cellwright.types import CellBatch
from cellwright.vocab import GeneVocab

if TYPE_CHECKING:
    import pandas as pd

NAME_COLUMNS = (
    "gene_symbol", "gene_symbols", "feature_name", "gene_name", "gene_names", "symbol", "hgnc_symbol",
    "ensembl_id", "gene_ids", "gene_id", "feature_id", "ensembl",
)  # fmt: skip
"""Columns of ``var`` that are looked at for names, besides the index."""
_LOW = 0.5


class Cells:
    """Cells that can be read by position, mapped onto one vocabulary (a `CellSource`).

    Made by `open_cells`. ``select`` and ``with_obs`` give further views of the same values.
    """

    def __init__(self, store: InMemory | OnDisk, obs: pd.DataFrame, contract: Contract, vocab: GeneVocab):
        self.vocab = vocab
        self.contract = contract
        self.state = contract.delivered
        self._store = store
        self._obs = obs
        self._row_n = np.arange(len(obs))
        self._code_n: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._row_n)

    def __repr__(self) -> str:
        num_genes = self.contract.genes.num_matched
        return f"Cells({len(self)} cells of {self.contract.source}, {self.state}, {num_genes} genes)"

    @property
    def obs(self) -> pd.DataFrame:
        """Annotations of these cells; a copy, yours to change."""
        return self._obs.iloc[self._row_n].copy()

    @property
    def obs_names(self) -> np.ndarray:
        """Names of these cells, ``[n]`` of str."""
        return self._obs.index[self._row_n].to_numpy(dtype=object)

    @property
    def row_n(self) -> np.ndarray:
        """int64 ``[n]``: position of each cell in the source that was opened."""
        return self._row_n.copy()

    def select(self, rows: np.ndarray | Sequence[int]) -> Cells:
        """Return a view of the cells at these positions, in this order; ``row_n`` keeps naming the source."""
        rows = self._checked(rows)
        view = Cells(self._store, self._obs, self.contract, self.vocab)
        view._row_n = self._row_n[rows]
        view._code_n = {name: codes[rows] for name, codes in self._code_n.items()}
        return view

    def with_obs(self, codes: Mapping[str, np.ndarray]) -> Cells:
        """Return a view whose batches carry these codes too (name -> integers ``[n]``, -1 = missing)."""
        view = self.select(np.arange(len(self)))
        for name, code_n in codes.items():
            code_n = np.asarray(code_n)
            if code_n.shape != (len(self),) or code_n.dtype.kind not in "iu" or (len(self) and code_n.min() < -1):
                raise ValueError(
                    f"codes {name!r} must be {len(self)} integers of -1 or more, got {code_n.dtype} {code_n.shape}"
                )
            view._code_n[name] = code_n.astype(np.int64)
        return view

    def with_warning(self, line: str) -> Cells:
        """Return a view whose contract also warns of this."""
        view = self.select(np.arange(len(self)))
        view.contract = replace(self.contract, warnings=(*self.contract.warnings, line))
        return view

    def codes(self, name: str) -> np.ndarray:
        """Return the codes that `with_obs` gave these cells, int64 ``[n]``."""
        if name not in self._code_n:
            raise ValueError(f"the cells carry no codes {name!r}; they have {sorted(self._code_n) or 'none'}")
        return self._code_n[name].copy()

    def read(self, rows: np.ndarray | Sequence[int]) -> CellBatch:
        """Return the cells at these positions, in this order.

        Genes are sorted by id within a cell; source columns of the same gene are summed; genes outside the
        vocabulary are left out but count in ``total_n``. A cell without any gene gives an empty row.
        """
        rows = self._checked(rows)
        value_nv, total_n = self._store.read(self._row_n[rows])
        return CellBatch(
            indptr_n1=value_nv.indptr.astype(np.int64),
            gene_z=value_nv.indices.astype(np.int32),
            value_z=value_nv.data,
            row_n=self._row_n[rows],
            total_n=total_n,
            obs={name: codes[rows] for name, codes in self._code_n.items()},
            state=self.state,
        )

    def values(self, gene_ids: np.ndarray | None = None) -> sp.csr_matrix:
        """Return the values of all cells as float32 CSR ``[n, len(gene_ids)]`` (default: the genes found)."""
        return self._gather(gene_ids, lambda value_nv, total_n: value_nv)

    def logcp10k(self, gene_ids: np.ndarray | None = None) -> sp.csr_matrix:
        """Return log1p of counts per 10,000 as float32 CSR ``[n, len(gene_ids)]``, the input of simple baselines.

        The cell's total is that of all genes of the source. log1p values are returned as they are; normalised ones
        are brought from their target sum (the cell's own total where that is unknown) to 10,000 first.
        """
        return self._gather(gene_ids, self._log_block)

    def _log_block(self, value_nv: sp.csr_matrix, total_n: np.ndarray) -> sp.csr_matrix:
        if self.state == "log1p":
            return value_nv
        target = self.contract.state.target_sum if self.state == "normalised" else None
        scale_n = np.full(len(total_n), 1e4 / target) if target else 1e4 / np.where(total_n > 0, total_n, 1.0)
        value_z = np.log1p(value_nv.data * np.repeat(scale_n, np.diff(value_nv.indptr))).astype(np.float32)
        return sp.csr_matrix((value_z, value_nv.indices, value_nv.indptr), value_nv.shape)

    def _gather(self, gene_ids: np.ndarray | None, change) -> sp.csr_matrix:
        gene_ids = self.contract.genes.matched_ids if gene_ids is None else np.asarray(gene_ids, np.int64)
        if len(gene_ids) and not 0 <= gene_ids.min() <= gene_ids.max() < len(self.vocab):
            raise ValueError(f"gene ids must be 0 .. {len(self.vocab) - 1}, got {gene_ids.min()} .. {gene_ids.max()}")
        blocks = []
        for rows in row_blocks(len(self), 1):
            value_nv, total_n = self._store.read(self._row_n[rows])
            blocks.append(change(value_nv, total_n)[:, gene_ids])
        out_ng = sp.vstack(blocks, format="csr") if blocks else sp.csr_matrix((0, len(gene_ids)), dtype=np.float32)
        out_ng.sort_indices()
        return out_ng

    def _checked(self, rows: np.ndarray | Sequence[int]) -> np.ndarray:
        rows = np.asarray(rows)
        if rows.ndim != 1 or (len(rows) and rows.dtype.kind not in "iu"):
            raise ValueError(f"rows must be a list of positions, got {rows.dtype} {rows.shape}")
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise ValueError(f"rows must be 0 .. {len(self) - 1}, got {rows.min()} .. {rows.max()}")
        return rows.astype(np.int64)


def open_cells(
    data: str | Path | Any,
    vocab: GeneVocab,
    *,
    accepts: Sequence[str] = ("raw",),
    layer: str | None = None,
    assume: str | None = None,
    genes: Literal["harmonise", "exact"] = "harmonise",
    backed: bool = False,
) -> Cells:
    """Open a data set as cells on ``vocab``.

    Parameters
    ----------
    data
        An AnnData, or the path of an .h5ad, an AnnData .zarr store, a 10x .h5 (version 2 or 3) or a 10x folder.
    accepts
        States that the model family can be fed, best first (raw, normalised, log1p).
    layer, assume
        Choose the matrix, state what its values are; see `choose_matrix`.
    genes
        ``harmonise`` = also match previous symbols, aliases and Ensembl ids; ``exact`` = spelling only.
    backed
        Leave the values in the file (.h5ad or .zarr with a row-compressed or dense matrix) and read them as needed.

    Returns
    -------
    Cells
        ``contract`` tells what was found and done.

    Raises
    ------
    FileNotFoundError, ValueError
        No such file, not one of these kinds, damaged, empty; values that are negative, NaN or of a state that is
        not accepted; no gene of the vocabulary. One line, with the remedy.
    """
    opened = open_source(data)
    with ExitStack() as stack, _naming(opened):
        stack.callback(opened.close)
        choice = choose_matrix(opened, accepts, layer=layer, assume=assume)
        var = opened.var_of(choice.name)
        names = [str(name) for name in var.index]
        match = match_genes(names, vocab, mode=genes, alternatives=_name_columns(var))
        columns = Columns(choice, match.id_g, len(vocab), _locator(opened, choice))
        if backed:
            _check_backed(opened, choice)
        store = (OnDisk if backed else InMemory)(choice.matrix, columns)
        contract = _contract(opened, choice, match, store.summary())
        _refuse_silent(contract)
        if backed:
            stack.pop_all()  # the file stays open as long as the cells live
    return Cells(store, opened.obs, replace(contract, warnings=_warnings(contract, opened, vocab)), vocab)


@contextmanager
def _naming(opened: Opened) -> Iterator[None]:
    """Name the file when its bytes turn out unreadable only as the values are read."""
    try:
        yield
    except OSError as error:
        raise damaged(opened.name, error) from None


def _contract(opened: Opened, choice: Choice, match: GeneMatch, summary: tuple[int | None, float, float]) -> Contract:
    num_empty, matched, total = summary
    return Contract(
        source=opened.name,
        num_cells=len(opened.obs),
        num_genes=len(match.id_g),
        taken_from=title(choice.name),
        state=choice.state,
        delivered=choice.delivered,
        genes=match,
        coverage={**match.coverage, "molecules": matched / total if total else 0.0},
        num_empty_cells=num_empty,
        notes=choice.notes,
        is_in_memory=opened.is_in_memory,
    )


def _refuse_silent(contract: Contract) -> None:
    """Raise when no cell has a value to go by: every cell would look the same."""
    if contract.num_empty_cells == contract.num_cells:
        what = "is 0 in every cell and gene" if not contract.state.num_values else "is 0 in every gene that is matched"
        raise ValueError(
            f"{contract.source}: {contract.taken_from} {what} ({contract.genes.num_matched} of {contract.num_genes} "
            "genes are in the vocabulary); nothing can be told from such cells: choose another matrix (layer=, --layer)"
        )


def _name_columns(var: pd.DataFrame) -> dict[str, list[str]]:
    by_lower = {str(column).lower(): column for column in var.columns}
    found = [by_lower[name] for name in NAME_COLUMNS if name in by_lower]
    return {str(column): ["" if value != value else str(value) for value in var[column]] for column in found}


def _check_backed(opened: Opened, choice: Choice) -> None:
    where = f"{title(choice.name)} of {opened.name}"
    if not is_on_disk(choice.matrix) or opened.is_in_memory:
        raise ValueError(
            f"{where} cannot stay on disk, only those of .h5ad and .zarr files can; use backed=False "
            "(leave out --backed)"
        )
    if isinstance(choice.matrix, DiskCSC):
        raise ValueError(
            f"{where} is column-compressed, cells cannot be read one by one; use backed=False (leave out --backed)"
        )


def _locator(opened: Opened, choice: Choice) -> Callable[[int, int, float], str]:
    def where(row: int, column: int, value: float) -> str:
        cell, gene = opened.obs.index[row], opened.var_of(choice.name).index[column]
        return (
            f"{opened.name}: {title(choice.name)} holds {value:g} at cell {str(cell)!r}, gene {str(gene)!r}; "
            "expression can be neither negative nor NaN: remove such cells, or choose another matrix (layer=, --layer)"
        )

    return where


def _warnings(contract: Contract, opened: Opened, vocab: GeneVocab) -> tuple[str, ...]:
    """Collect what a user should look at. A vocabulary that is a small panel is not blamed for being small."""
    warnings = []
    match, share = contract.genes, contract.coverage
    if contract.delivered in ("binned", "unknown"):
        warnings.append(
            f"values of {contract.taken_from} are {contract.delivered} ({contract.state.reason}), not counts: only "
            "their order within a cell can be used, as models that bin values do; give raw counts if there are any"
        )
    if max(share["source_genes"], share["vocab_genes"]) < _LOW:
        warnings.append(f"only {match.num_matched} of {contract.num_genes} genes are in the vocabulary")
    if match.num_vocab >= contract.num_genes / 2 and share["molecules"] < _LOW:
        warnings.append(f"only {share['molecules']:.1%} of expression lies in genes of the vocabulary")
    if (
        warnings
        and match.organism != organism(vocab.genes)
        and "unknown" not in (match.organism, organism(vocab.genes))
    ):
        warnings.append(f"gene names look like {match.organism}, the vocabulary is {organism(vocab.genes)}")
    if contract.num_empty_cells:
        warnings.append(f"{contract.num_empty_cells} cells express no gene of the vocabulary; they are kept, empty")
    if not opened.obs.index.is_unique:
        warnings.append(f"{int(opened.obs.index.duplicated().sum())} cell names repeat an earlier one")
    return tuple(warnings)
