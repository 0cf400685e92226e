"""States of genes in cells on disk: a zarr folder that grows cell by cell and appears whole or not at all.

It holds ``contexts`` (float32 ``[cells, genes, width]``, a chunk a cell), ``cells`` and ``genes`` (names), and says in
its attributes what it is and what the numbers depend on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cellwright.data.write import check_place
from cellwright.files import atomic_path

KIND = "cellwright gene contexts"


def check_contexts_out(out: str | Path, others: Iterable[str | Path] = ()) -> Path:
    """Return ``out`` as a path, or raise ``ValueError`` when `save_contexts` could not write there.

    ``others`` are the places of other data, which ``out`` must not be.
    """
    out = Path(out)
    if out.suffix != ".zarr":
        raise ValueError(f"{out} must end in .zarr: states of genes are written as a zarr folder")
    check_place(out)
    if any(out.resolve() == Path(other).resolve() for other in others):
        raise ValueError(f"{out} is the place of the cells; choose another name for the states of genes")
    if out.exists() and not is_contexts(out):
        raise ValueError(f"{out} exists and holds something else than states of genes; choose another name")
    return out


def is_contexts(folder: Path) -> bool:
    """Return whether a folder was written by `save_contexts`."""
    try:
        return json.loads((folder / ".zattrs").read_text(encoding="utf-8")).get("kind") == KIND
    except (OSError, ValueError, AttributeError):
        return False


def save_contexts(
    out: Path,
    blocks: Iterable[tuple[int, np.ndarray]],
    *,
    cells: Sequence[str],
    genes: Sequence[str],
    record: Mapping[str, Any],
) -> tuple[int, int, int]:
    """Write blocks of (first row, float32 ``[rows, g, d]``) as they come, and return the shape of the whole.

    Parameters
    ----------
    out
        Folder to make; one that holds states of genes is replaced at the end.
    blocks
        In order, and together all cells.
    cells, genes
        Names along the first two axes.
    record
        What the numbers depend on.

    Raises
    ------
    ValueError
        The blocks do not fit the names.
    """
    import zarr
    from anndata.io import write_elem

    is_new = int(zarr.__version__.split(".")[0]) >= 3
    with atomic_path(out) as draft:
        # format 2 is what every anndata in use reads; older zarr writes nothing else
        root = zarr.open_group(str(draft), mode="w", **({"zarr_format": 2} if is_new else {}))
        array, num_written = None, 0
        for start, block_ngd in blocks:
            if start != num_written or block_ngd.shape[1] != len(genes) or start + len(block_ngd) > len(cells):
                raise ValueError(
                    f"a block of shape {block_ngd.shape} at row {start} does not fit {len(cells)} cells and "
                    f"{len(genes)} genes with {num_written} rows written"
                )
            if array is None:
                width = block_ngd.shape[2]
                make = root.create_array if is_new else root.create_dataset
                array = make(
                    "contexts", shape=(len(cells), len(genes), width), chunks=(1, len(genes), width), dtype="f4"
                )
            array[start : start + len(block_ngd)] = block_ngd
            num_written += len(block_ngd)
        if array is None or num_written != len(cells):
            raise ValueError(f"blocks hold {num_written} of {len(cells)} cells")
        for name, names in (("cells", cells), ("genes", genes)):
            write_elem(root, name, np.array([str(item) for item in names], dtype=object))
        root.attrs.update(
            {"kind": KIND, "axes": ["cells", "genes", "width"], "record": json.loads(json.dumps(record, default=str))}
        )
        return tuple(array.shape)
