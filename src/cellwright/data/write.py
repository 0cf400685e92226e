"""Write OUT = DATA with additions: everything that DATA holds stays, the new elements are put beside it.

An .h5ad on disk is copied as a file and added to, so that its matrices are never loaded. OUT appears whole or not
at all. Values that an .h5ad cannot hold are brought into a form that it can; see `storable`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from cellwright.data.sources import Opened, open_source, read_anndata
from cellwright.files import atomic_path

_MAPPINGS = ("obsm", "varm", "obsp", "varp", "layers", "uns")
_SLOTS = ("X", "obs", "var", "raw", *_MAPPINGS)


def write_h5ad(
    source: str | Path | Any,
    out: str | Path,
    *,
    obsm: Mapping[str, Any] | None = None,
    obs: Mapping[str, Any] | None = None,
    uns: Mapping[str, Any] | None = None,
    layers: Mapping[str, Any] | None = None,
) -> None:
    """Write a data set with further elements; neither ``source`` nor an object given is changed.

    Parameters
    ----------
    source
        What `open_cells` takes. AnnData, .h5ad and AnnData .zarr keep everything they hold; 10x data become an
        AnnData with counts in X.
    out
        A path ending in ``.h5ad`` or ``.zarr``; parent folders are made, an existing file is replaced at the end.
    obsm, layers
        Name -> array ``[n, ...]`` or matrix ``[n, g]``.
    obs
        Column -> ``[n]`` values (a DataFrame works too, if it has the same cells); text becomes categorical.
    uns
        Name -> value, made storable. A mapping is added to one of the same name, so that earlier records stay.

    Otherwise an element of the same name is replaced.

    Raises
    ------
    ValueError
        ``out`` is the source itself or has another suffix; an element does not have one entry a cell.
    """
    out = check_out(source, out)
    opened = open_source(source)
    opened.close()
    elements = _elements(opened, {"obsm": obsm, "obs": obs, "layers": layers})
    elements["uns"] = {check_key("uns", name): storable(value) for name, value in (uns or {}).items()}
    with atomic_path(out) as draft:
        draft.parent.mkdir(parents=True, exist_ok=True)
        try:
            _copy(source, draft)
            _add(draft, elements)
        except (KeyError, RuntimeError) as error:  # from HDF5; parts that no one has read until here
            raise ValueError(f"{opened.name} is damaged ({error}); copy or download it again") from None


def check_out(source: str | Path | Any, out: str | Path) -> Path:
    """Return ``out`` as a path, or raise ``ValueError`` when `write_h5ad` could not write there: before a long run."""
    out = Path(out)
    if out.suffix not in (".h5ad", ".zarr"):
        raise ValueError(f"{out} must end in .h5ad or .zarr")
    check_place(out)
    if isinstance(source, str | Path) and out.resolve() == Path(source).resolve():
        raise ValueError(f"{out} is the input; choose another name, the input is never overwritten")
    if out.exists() and out.is_dir() != (out.suffix == ".zarr"):
        raise ValueError(f"{out} exists and is {'a folder' if out.is_dir() else 'a file'}; choose another name")
    return out


def check_place(path: str | Path) -> None:
    """Raise ``ValueError`` when nothing can be made at ``path``; folders that do not exist yet can be made."""
    path = Path(path).absolute()
    above = next(folder for folder in path.parents if folder.exists())
    if not above.is_dir():
        raise ValueError(f"{path} cannot be written: {above} is a file, not a folder")
    if not os.access(above, os.W_OK):
        raise ValueError(f"{path} cannot be written: no permission to write into {above}")


def storable(value: Any) -> Any:
    """Return a value in a form that survives a round trip through .h5ad.

    Text, numbers, booleans and numeric arrays stay; integers beyond 64 bits become text. None inside a mapping is left
    out. Lists and tuples of numbers or of text become arrays, other lists JSON text; a mapping whose keys contain
    ``/`` becomes JSON text, since HDF5 would read the slash as a path. Anything else becomes its text.
    """
    if isinstance(value, Mapping):
        kept = {str(key): item for key, item in value.items() if item is not None}
        if any("/" in key or not key for key in kept):
            return json.dumps(kept, default=str)
        return {key: storable(item) for key, item in kept.items()}
    if isinstance(value, int) and value.bit_length() > 63:
        return str(value)
    if isinstance(value, bool | int | float | str | np.bool_ | np.number):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return value
    if isinstance(value, list | tuple | np.ndarray):
        items = list(value)
        if items and all(isinstance(item, str) for item in items):
            return np.array(items, dtype=object)
        if items and all(isinstance(item, bool | int | float | np.number) for item in items):
            return np.array(items)
        return json.dumps(items, default=str)
    return str(value)


def check_key(place: str, name: str) -> str:
    """Return ``name``, or raise ``ValueError`` when it cannot name an element of ``obsm``, ``obs`` or ``uns``."""
    if not name or "/" in name:
        raise ValueError(f"{place} key {name!r}: a key must not be empty or contain '/'")
    return name


def _elements(opened: Opened, given: Mapping[str, Mapping[str, Any] | None]) -> dict[str, dict[str, Any]]:
    """Check the new elements against the source and bring them into writable form."""
    import pandas as pd

    n = len(opened.obs)
    out: dict[str, dict[str, Any]] = {}
    for place, items in given.items():
        if isinstance(items, pd.DataFrame) and not items.index.equals(opened.obs.index):
            raise ValueError(f"{place} has other cells, or another order, than {opened.name}")
        out[place] = {}
        for name, value in items.items() if items is not None else ():
            if not (sp.issparse(value) or isinstance(value, pd.DataFrame | pd.Series | pd.Categorical)):
                value = np.asarray(value)
            shape = tuple(value.shape)
            wanted = (n, len(opened.var)) if place == "layers" else (n,)
            if shape[: len(wanted)] != wanted or (place == "obs" and len(shape) > 1):
                raise ValueError(f"{place}[{name!r}] has shape {shape}, {opened.name} needs {wanted}")
            out[place][check_key(place, str(name))] = _column(value) if place == "obs" else value
    return out


def _column(value: Any) -> Any:
    import pandas as pd

    values = value.array if isinstance(value, pd.Series) else value
    if isinstance(values, pd.Categorical):
        return values
    if isinstance(value, pd.Series) and isinstance(value.dtype, np.dtype):
        values = value.to_numpy()
    # text in any of its dress (object, numpy or pandas strings) is stored as categories, as anndata does
    is_text = getattr(values.dtype, "kind", "O") in "OUS" or isinstance(values.dtype, pd.StringDtype)
    return pd.Categorical(pd.Series(values).astype(object)) if is_text else values


def _copy(source: Any, draft: Path) -> None:
    """Put the source under the draft's name, unchanged in content."""
    from anndata.io import write_elem

    if isinstance(source, str | Path) and _is_current_store(Path(source), draft):
        (shutil.copytree if Path(source).is_dir() else shutil.copyfile)(source, draft)
        return
    adata = read_anndata(source)
    adata = adata.to_memory() if adata.isbacked else adata
    # slot by slot: AnnData.write_h5ad would turn text columns of the caller's object into categories, and the writer
    # for whole objects stores empty slots in a form that anndata before 0.12 cannot read
    with _opened(draft, "w") as root:
        root.attrs["encoding-type"], root.attrs["encoding-version"] = "anndata", "0.1.0"
        for slot in _SLOTS:
            element = getattr(adata, slot)
            if element is not None:
                write_elem(root, slot, dict(element) if slot in _MAPPINGS else element)


def _is_current_store(path: Path, draft: Path) -> bool:
    """Whether the source can be copied as it is: the same format, and tables of today's layout."""
    if path.is_dir() or draft.suffix == ".zarr":
        return path.is_dir() and draft.suffix == ".zarr" and (path / "obs").is_dir()
    import h5py

    with h5py.File(path, "r") as file:
        return "obs" in file and "var" in file and file["obs"].attrs.get("encoding-version") == "0.2.0"


@contextmanager
def _opened(draft: Path, mode: str) -> Iterator[Any]:
    """Open an HDF5 file or zarr folder for writing (``w`` = new, ``r+`` = add)."""
    if draft.suffix == ".h5ad":
        import h5py

        with h5py.File(draft, mode) as root:
            yield root
        return
    import zarr

    # format 2 is what every anndata in use reads; older zarr writes nothing else
    new = {"zarr_format": 2} if mode == "w" and int(zarr.__version__.split(".")[0]) >= 3 else {}
    yield zarr.open_group(str(draft), mode=mode, **new)


def _forget_consolidated(folder: Path) -> None:
    """Remove the summary of all metadata that a zarr store may carry: it would not list what is added."""
    (folder / ".zmetadata").unlink(missing_ok=True)
    root = folder / "zarr.json"
    if root.exists() and (record := json.loads(root.read_text())).pop("consolidated_metadata", None):
        root.write_text(json.dumps(record))


def _add(draft: Path, elements: Mapping[str, Mapping[str, Any]]) -> None:
    from anndata.io import write_elem

    if draft.suffix == ".zarr":
        _forget_consolidated(draft)
    with _opened(draft, "r+") as root:
        for place, items in elements.items():
            if not items:
                continue
            if place not in root:
                write_elem(root, place, {})
            group = root[place]
            for name, value in items.items():
                _put(group, name, value, is_merged=place == "uns")
            if place == "obs":
                known = [str(column) for column in group.attrs["column-order"]]
                columns = known + [name for name in items if name not in known]
                group.attrs["column-order"] = columns if draft.suffix == ".zarr" else np.array(columns, dtype=object)


def _put(group: Any, name: str, value: Any, *, is_merged: bool) -> None:
    """Write one element in the place of an older one; a mapping that ``is_merged`` keeps the older one's other keys."""
    from anndata.io import write_elem

    if is_merged and name in group and isinstance(value, Mapping) and hasattr(group[name], "keys"):
        for key, item in value.items():
            _put(group[name], key, item, is_merged=False)
        return
    if name in group:
        del group[name]
    write_elem(group, name, value)
