"""Open the kinds of data sets that exist: AnnData in memory, .h5ad, AnnData .zarr, 10x .h5 and 10x matrix folders.

What a path holds is told by its content, not by its suffix. Only tables of cells and genes are read on opening;
matrices are handed out as they lie on disk and read when asked for. Nothing is interpreted here.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from cellwright.config import did_you_mean
from cellwright.data.state import as_csr

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_BLOCK_VALUES = 20_000_000
_DAMAGE = (OSError, EOFError, RuntimeError, ValueError, KeyError, TypeError, IndexError, AttributeError, zlib.error)
"""What HDF5, zarr, gzip and anndata raise on bytes that are not what they should be."""


IN_MEMORY = "AnnData"  # name of data that have none


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """Tables of one data set, and its matrices by name."""

    name: str
    """Path, or `name_of` an AnnData."""
    obs: pd.DataFrame
    var: pd.DataFrame
    matrices: Mapping[str, Any]
    """``X``, ``raw`` (with its own ``raw_var``) or a layer's name -> matrix, possibly on disk."""
    raw_var: pd.DataFrame | None = None
    is_anndata: bool = True
    """False for 10x data."""
    is_in_memory: bool = False
    """An AnnData that was handed in."""
    others: tuple[sp.csr_matrix, pd.DataFrame] | None = None
    """10x data: features that are not genes, and their table with the column ``feature_types``."""
    close: Callable[[], None] = lambda: None

    def var_of(self, matrix_name: str) -> pd.DataFrame:
        """Return the table of genes that belongs to a matrix."""
        return self.raw_var if matrix_name == "raw" and self.raw_var is not None else self.var


class DiskCSR:
    """A row-compressed matrix in an HDF5 or zarr group; only the rows asked for are read."""

    def __init__(self, group: Any, shape: tuple[int, int]):
        self.shape = shape
        self.indptr = _checked_indptr(group, shape[0])
        self._data, self._indices = group["data"], group["indices"]  # opening an array costs more than reading a row
        self.dtype = np.dtype(self._data.dtype)

    def __getitem__(self, rows: slice) -> sp.csr_matrix:
        """Read consecutive rows."""
        first, last, _ = rows.indices(self.shape[0])
        return self.read_runs([(first, max(first, last))])

    def read_runs(self, runs: Sequence[tuple[int, int]]) -> sp.csr_matrix:
        """Read runs of rows, each given as (first, last + 1), one below the other."""
        bounds = [(int(self.indptr[first]), int(self.indptr[last])) for first, last in runs]
        data_z = np.concatenate([self._data[a:b] for a, b in bounds])
        index_z = _checked(np.concatenate([self._indices[a:b] for a, b in bounds]), self.shape[1])
        length_n = np.concatenate([np.diff(self.indptr[first : last + 1]) for first, last in runs])
        indptr = np.concatenate([[0], np.cumsum(length_n)])
        return sp.csr_matrix((data_z, index_z, indptr), shape=(len(length_n), self.shape[1]))


class DiskCSC:
    """A column-compressed matrix on disk. Rows cannot be read one by one, so it is loaded whole when first needed."""

    def __init__(self, group: Any, shape: tuple[int, int]):
        self._group = group
        self.shape = shape
        self.dtype = np.dtype(group["data"].dtype)

    def __getitem__(self, rows: slice) -> sp.csr_matrix:
        """Return consecutive rows."""
        return self.loaded[rows]

    @cached_property
    def loaded(self) -> sp.csr_matrix:
        """The whole matrix in memory."""
        index_z = _checked(self._group["indices"][:], self.shape[0])
        parts = (self._group["data"][:], index_z, _checked_indptr(self._group, self.shape[1]))
        return sp.csc_matrix(parts, shape=self.shape).tocsr()


def _checked_indptr(group: Any, length: int) -> np.ndarray:
    """Return the row (or column) pointers of a compressed matrix; damaged ones would read other cells' values."""
    indptr = np.asarray(group["indptr"][:]).astype(np.int64)
    sizes = {int(group[name].shape[0]) for name in ("data", "indices")}
    if len(indptr) != length + 1 or indptr[0] != 0 or (np.diff(indptr) < 0).any() or sizes != {int(indptr[-1])}:
        raise OSError(f"row pointers of the matrix {getattr(group, 'name', '')!r} do not fit")
    return indptr


def _checked(index_z: np.ndarray, size: int) -> np.ndarray:
    """Return the indices of stored values; damaged ones would put values under other genes."""
    if len(index_z) and not 0 <= index_z.min() <= index_z.max() < size:
        raise OSError(f"a matrix has values at positions {index_z.min()} .. {index_z.max()} of {size}")
    return index_z


def is_on_disk(matrix: Any) -> bool:
    """Whether reading the matrix reads a file."""
    return not (sp.issparse(matrix) or isinstance(matrix, np.ndarray))


def row_blocks(num_rows: int, num_columns: int, block: int = 2048) -> list[slice]:
    """Cut rows into consecutive slices of at most ``block`` rows, fewer where a dense block would be large."""
    step = max(1, min(block, _BLOCK_VALUES // max(num_columns, 1)))
    return [slice(first, min(first + step, num_rows)) for first in range(0, num_rows, step)]


def load_csr(matrix: Any) -> sp.csr_matrix:
    """Return a whole matrix as CSR in memory; dense ones are converted block by block."""
    if sp.issparse(matrix):
        return sp.csr_matrix(matrix)
    if isinstance(matrix, DiskCSC):
        return matrix.loaded
    if isinstance(matrix, DiskCSR):
        return matrix[:]
    blocks = [as_csr(matrix[rows]) for rows in row_blocks(*matrix.shape)]
    return sp.vstack(blocks, format="csr") if blocks else sp.csr_matrix(matrix.shape)


def open_source(data: Any) -> Opened:
    """Open a path or an AnnData; see the module's text.

    Raises
    ------
    FileNotFoundError
        There is nothing at the path.
    ValueError
        The content is of another kind, damaged, or has no cells or no genes.
    """
    if isinstance(data, str | Path):
        opened = _open_path(Path(data))
    elif all(hasattr(data, name) for name in ("obs", "var", "layers", "X")):
        opened = _from_anndata(data)
    else:
        raise ValueError(f"expected a path or an AnnData, got {type(data).__name__}")
    for table, what in ((opened.obs, "cells"), (opened.var, "genes")):
        if not len(table):
            opened.close()
            raise ValueError(f"{opened.name} has no {what} ({len(opened.obs)} cells x {len(opened.var)} genes)")
    return opened


def name_of(data: Any) -> str:
    """Return the path of data, the name that an AnnData has in ``uns["name"]``, or else what it is."""
    if isinstance(data, str | Path):
        return str(data)
    given = getattr(data, "uns", {}).get("name")
    return given if isinstance(given, str) and given.strip() else IN_MEMORY


def read_anndata(data: str | Path | Any) -> AnnData:
    """Read any kind of data set into an AnnData; one that is given is returned itself.

    10x data have counts in X, and repeated gene names are numbered (``MATR3``, ``MATR3-1``). Raises what
    `open_source` does.
    """
    import anndata
    from anndata.utils import make_index_unique

    if not isinstance(data, str | Path):
        open_source(data)
        return data
    path = Path(data)
    opened = open_source(path)
    opened.close()
    if opened.is_anndata:
        return anndata.read_zarr(path) if path.is_dir() else anndata.read_h5ad(path)
    var = opened.var.set_axis(make_index_unique(opened.var.index))
    return anndata.AnnData(opened.matrices["X"], obs=opened.obs, var=var)


def _from_anndata(adata: Any) -> Opened:
    matrices = {} if adata.X is None else {"X": _lent(adata.X)}
    matrices |= dict(adata.layers)
    raw_var = None
    if adata.raw is not None:
        matrices["raw"], raw_var = _lent(adata.raw.X), adata.raw.var.copy()
    return Opened(
        name=name_of(adata), obs=adata.obs.copy(), var=adata.var.copy(), matrices=matrices, raw_var=raw_var,
        is_in_memory=True,
    )  # fmt: skip


def _open_path(path: Path) -> Opened:
    if not path.exists():
        beside = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
        raise FileNotFoundError(f"no such file or folder: {path}{did_you_mean(path.name, beside)}")
    if not path.is_dir():
        return _open_hdf5(path)
    if any((path / name).exists() for name in (".zgroup", "zarr.json", ".zattrs")):
        return _open_zarr(path)
    if _find(path, "matrix.mtx") is not None:
        return _open_mtx(path)
    raise ValueError(
        f"{path} is neither an AnnData .zarr store nor a 10x folder (matrix.mtx, barcodes.tsv and features.tsv)"
    )


def _open_hdf5(path: Path) -> Opened:
    import h5py

    if not h5py.is_hdf5(path):
        raise ValueError(
            f"{path} is not an HDF5 file, so neither .h5ad nor 10x .h5 (download broken, or another kind of file?)"
        )
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} is damaged or cut short ({_first_line(error)}); copy or download it again") from None
    if "obs" in file and "var" in file:
        return _open_store(path, file)
    try:
        if "matrix" in file and "barcodes" in file["matrix"]:
            return _read_10x(path, file["matrix"], "features")
        genomes = [name for name in file if isinstance(file[name], h5py.Group) and "gene_names" in file[name]]
        if len(genomes) == 1:
            return _read_10x(path, file[genomes[0]])
        if genomes:
            raise ValueError(f"{path} holds several genomes ({', '.join(genomes)}); export one of them")
        if "mod" in file:
            raise ValueError(f"{path} is a MuData file ({', '.join(file['mod'])}); write one modality as .h5ad first")
        raise ValueError(f"{path} is HDF5 but neither .h5ad nor 10x .h5; it holds {', '.join(sorted(file)[:5])}")
    finally:
        file.close()


def damaged(path: Path | str, error: Exception) -> ValueError:
    """Return the error that names a file whose bytes are not what they should be."""
    return ValueError(f"{path} is damaged ({_first_line(error)}); copy or download it again")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _open_zarr(path: Path) -> Opened:
    try:
        import zarr
    except ImportError:
        raise ValueError(f"{path} is a zarr store; install zarr to read it: pip install zarr") from None
    try:
        root = zarr.open_group(str(path), mode="r")
    except _DAMAGE as error:
        raise damaged(path, error) from None
    if "obs" not in root or "var" not in root:
        raise ValueError(f"{path} is a zarr store but not an AnnData one (no obs and var in it)")
    return _open_store(path, root)


def _open_store(path: Path, root: Any) -> Opened:
    """Open the AnnData layout, the same in HDF5 and zarr."""
    from anndata.io import read_elem

    close = getattr(root, "close", lambda: None)
    try:
        if not all(hasattr(root[name], "keys") for name in ("obs", "var")):
            close()
            return _read_old_h5ad(path)
        obs, var = read_elem(root["obs"]), read_elem(root["var"])
        names = {"X": "X"} | {name: f"layers/{name}" for name in root["layers"]} if "layers" in root else {"X": "X"}
        raw_var = None
        if hasattr(root.get("raw"), "keys") and "X" in root["raw"]:
            names["raw"], raw_var = "raw/X", read_elem(root["raw/var"])
        stored = {name: root[at] for name, at in names.items() if at in root}
        matrices = {
            name: _matrix(element)
            for name, element in stored.items()
            if element.attrs.get("encoding-type") != "null"  # how anndata 0.12 may store an absent X
        }
    except _DAMAGE as error:
        close()
        raise damaged(path, error) from None
    return Opened(name=str(path), obs=obs, var=var, matrices=matrices, raw_var=raw_var, close=close)


def _read_old_h5ad(path: Path) -> Opened:
    """Read a file of anndata before 0.7 (tables as compound arrays) through anndata, whole."""
    import anndata

    opened = _from_anndata(anndata.read_h5ad(path))
    return Opened(**{name: getattr(opened, name) for name in ("obs", "var", "matrices", "raw_var")}, name=str(path))


def _matrix(element: Any) -> Any:
    if not hasattr(element, "keys"):
        return element  # a dense array, sliced on disk
    layout = element.attrs.get("encoding-type", element.attrs.get("h5sparse_format", ""))
    shape = element.attrs.get("shape", element.attrs.get("h5sparse_shape"))
    kind = DiskCSR if str(layout).startswith("csr") else DiskCSC
    return kind(element, (int(shape[0]), int(shape[1])))


def _lent(matrix: Any) -> Any:
    """Read anndata's backed sparse matrices as our own: theirs depend on how scipy looks inside."""
    return _matrix(matrix.group) if hasattr(matrix, "group") else matrix


def _text(values: Any) -> list[str]:
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values[:]]


def _read_10x(path: Path, group: Any, features: str | None = None) -> Opened:
    """Read a Cell Ranger file: version 3 has a table of features, version 2 one group a genome."""
    ids, symbols = ("id", "name") if features else ("genes", "gene_names")
    try:
        table = group[features] if features else group
        num_genes, num_cells = (int(size) for size in group["shape"][:])
        parts = (group["data"][:], _checked(group["indices"][:], num_genes), _checked_indptr(group, num_cells))
        barcodes, kinds = _text(group["barcodes"]), _text(table["feature_type"]) if "feature_type" in table else None
        columns = {"gene_symbol": _text(table[symbols]), "gene_ids": _text(table[ids])}
        return _genes_only(
            path, sp.csr_matrix(parts, shape=(num_cells, num_genes)), barcodes=barcodes, columns=columns, kinds=kinds
        )
    except _DAMAGE as error:
        raise damaged(path, error) from None


def _find(folder: Path, *names: str) -> Path | None:
    """Return the first of the files that exists, plain or gzipped."""
    found = (folder / f"{name}{suffix}" for name in names for suffix in ("", ".gz"))
    return next((path for path in found if path.exists()), None)


def _open_mtx(folder: Path) -> Opened:
    """Read a 10x folder: genes.tsv is version 2, features.tsv version 3."""
    from scipy.io import mmread

    barcodes_at, genes_at = _find(folder, "barcodes.tsv"), _find(folder, "features.tsv", "genes.tsv")
    if barcodes_at is None or genes_at is None:
        missing = "barcodes.tsv" if barcodes_at is None else "features.tsv (or genes.tsv)"
        raise ValueError(f"{folder} has a matrix.mtx but no {missing}")
    barcodes = [line.split("\t")[0] for line in _lines(barcodes_at)]
    rows = [line.split("\t") for line in _lines(genes_at)]
    matrix_at = _find(folder, "matrix.mtx")
    try:
        counts_ng = sp.csr_matrix(mmread(matrix_at).T)
    except _DAMAGE as error:
        raise damaged(matrix_at, error) from None
    if counts_ng.shape != (len(barcodes), len(rows)):
        raise ValueError(
            f"{folder}: matrix.mtx has {counts_ng.shape[1]} genes x {counts_ng.shape[0]} cells, "
            f"{genes_at.name} has {len(rows)} lines and {barcodes_at.name} {len(barcodes)}"
        )
    columns = {
        "gene_symbol": [row[min(1, len(row) - 1)] for row in rows],
        "gene_ids": [row[0] for row in rows],
    }
    kinds = [row[2] for row in rows] if all(len(row) > 2 for row in rows) else None
    return _genes_only(folder, counts_ng, barcodes=barcodes, columns=columns, kinds=kinds)


def _lines(path: Path) -> list[str]:
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as handle:
            return [line.rstrip("\r\n") for line in handle if line.strip()]
    except _DAMAGE as error:
        raise damaged(path, error) from None


def _genes_only(
    path: Path,
    counts_ng: sp.csr_matrix,
    *,
    barcodes: list[str],
    columns: Mapping[str, list[str]],
    kinds: list[str] | None,
) -> Opened:
    """Put antibodies, peaks and other features that are not genes apart."""
    import pandas as pd

    var, others = pd.DataFrame(dict(columns), index=pd.Index(columns["gene_symbol"], name=None)), None
    if kinds is not None and len(set(kinds)) > 1 and "Gene Expression" in kinds:
        is_gene_g = np.array(kinds) == "Gene Expression"
        others = counts_ng[:, ~is_gene_g], var.assign(feature_types=kinds)[~is_gene_g]
        counts_ng, var = counts_ng[:, is_gene_g], var[is_gene_g]
    obs = pd.DataFrame(index=pd.Index(barcodes))
    return Opened(name=str(path), obs=obs, var=var, matrices={"X": counts_ng}, is_anndata=False, others=others)
