"""Verbs that place cells on a reference: index the reference once, map any number of queries onto it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellwright.config import did_you_mean
from cellwright.models import Model
from cellwright.tasks.inference import InferenceOptions
from cellwright.verbs.depths import open_deep
from cellwright.verbs.opening import ReadOptions, open_model
from cellwright.verbs.using import embedding, may_be_filled, note, provenance

if TYPE_CHECKING:
    import pandas as pd

    from cellwright.data.cells import Cells
    from cellwright.tasks.mapping import IndexConfig, Labels, MappedCells, ReferenceIndex

OUTSIDE = "reference_outside"


def index_reference(
    adata: Any,
    model: Model | str | Path,
    *,
    labels: Sequence[str] = (),
    out: str | Path | None = None,
    config: IndexConfig | None = None,
    read: ReadOptions | None = None,
    run: InferenceOptions | None = None,
) -> ReferenceIndex:
    """Embed reference cells and index them with their labels.

    Parameters
    ----------
    adata
        AnnData or path, see `embed`.
    model
        The model that queries will be embedded with too.
    labels
        Columns of obs to carry over, such as ``("cell_type",)``; cells without a label do not vote.
    out
        Folder to write the index to, new or an older index that it replaces.
    config
        Distance, kind of search, number of neighbours.
    read, run
        How the cells are read, and the model is run.

    Returns
    -------
    The index; give it, or its folder, to `map_reference`.

    Raises
    ------
    ValueError
        When a column is not there or empty, there are too few cells, or ``out`` holds something else.

    Examples
    --------
    >>> cellwright.index_reference(atlas, model, labels=["cell_type"], out="atlas.index")  # doctest: +SKIP
    >>> mapped = cellwright.map_reference(adata, model, "atlas.index")  # doctest: +SKIP
    """
    if out is not None:
        check_index_place(out)
    model, run = open_model(model), run or InferenceOptions()
    index = indexing(model, open_deep(adata, model, read, run=run), labels, config, run)
    if out is not None:
        index.save(out)
    return index


def indexing(
    model: Model, source: Cells, labels: Sequence[str], config: IndexConfig | None, run: InferenceOptions
) -> ReferenceIndex:
    """Index the cells of an opened source; see `index_reference`."""
    from cellwright.tasks.mapping import build_index

    carried = {column: read_labels(source.obs, column) for column in labels}
    return build_index(embedding(model, source, run), carried, config=config, origin=provenance(model, source, run))


def check_index_place(out: str | Path) -> None:
    """Refuse a place that holds something else than an index."""
    out = Path(out)
    if out.exists() and not (out / "index.json").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} holds something else than an index; choose a folder that is new or empty")


def read_labels(obs: pd.DataFrame, column: str) -> Labels:
    """Read a column as labels; missing ones are -1."""
    import pandas as pd

    from cellwright.tasks.mapping import Labels

    if column not in obs:
        near = did_you_mean(column, obs.columns) or f"; columns: {', '.join(map(str, obs.columns)) or 'none'}"
        raise ValueError(f"the cells have no column {column!r}{near}")
    code_m, names = pd.factorize(obs[column].astype("string"), sort=True)
    return Labels(code_m=code_m.astype("int64"), names=tuple(map(str, names)))


def map_reference(
    adata: Any,
    model: Model | str | Path,
    reference: ReferenceIndex | str | Path,
    *,
    threshold: float = 0.0,
    key_added: bool = False,
    read: ReadOptions | None = None,
    run: InferenceOptions | None = None,
) -> MappedCells:
    """Place cells among those of a reference, and give them the labels of their neighbours.

    Parameters
    ----------
    adata
        AnnData or path, see `embed`.
    model
        The model that embedded the reference.
    reference
        An index or its folder.
    threshold
        Share of votes below which a cell stays "unassigned" in the columns filled, 0 .. 1.
    key_added
        Also fill the columns of `mapping_columns` and ``adata.uns["cellwright"]["reference"]``; needs an AnnData.
    read, run
        How the cells are read, and the model is run.

    Returns
    -------
    `cellwright.tasks.mapping.MappedCells`: votes by column, neighbours, distances, and how far outside each cell is.

    Raises
    ------
    ValueError
        When the index was made with another model, or is damaged.
    """
    is_kept = may_be_filled(adata, "reference" if key_added else None)
    model, run = open_model(model), run or InferenceOptions()
    index = open_index(reference, model)
    source = open_deep(adata, model, read, run=run)
    mapped, _ = mapping(model, source, index, run)
    if is_kept:
        for name, column in mapping_columns(mapped, threshold).items():
            adata.obs[name] = column
        note(adata, "reference", mapping_record(model, source, index, run) | {"threshold": threshold})
    return mapped


def open_index(reference: ReferenceIndex | str | Path, model: Model) -> ReferenceIndex:
    """Open an index and check that this model made it."""
    from cellwright.tasks.mapping import ReferenceIndex, load_index

    index = reference if isinstance(reference, ReferenceIndex) else load_index(reference)
    made_by, mine = index.origin.get("model", {}), model.sha256()
    if made_by and made_by["sha256"] != mine:
        raise ValueError(
            f"the reference was embedded by {made_by['source']} ({made_by['sha256'][:12]}), not by "
            f"{model.report.source} ({mine[:12]}); use that model, or index the reference with this one"
        )
    return index


def mapping(model: Model, source: Cells, index: ReferenceIndex, run: InferenceOptions) -> tuple[MappedCells, Any]:
    """Map the cells of an opened source; return the embedding too."""
    from cellwright.tasks.mapping import map_cells

    embedding_nd = embedding(model, source, run)
    return map_cells(index, embedding_nd), embedding_nd


def mapping_record(model: Model, source: Cells, index: ReferenceIndex, run: InferenceOptions) -> dict[str, Any]:
    """Return what a mapping depends on."""
    return provenance(model, source, run) | {"index": index.config.record(), "reference": index.origin}


def mapping_columns(mapped: MappedCells, threshold: float = 0.0) -> dict[str, Any]:
    """Return columns of obs: ``<column>_pred`` (categorical) and ``_prob`` for each label, ``reference_outside``."""
    import pandas as pd

    columns: dict[str, Any] = {}
    for name, votes in mapped.votes.items():
        columns |= {f"{name}_pred": pd.Categorical(votes.label_n(threshold)), f"{name}_prob": votes.prob_n}
    return columns | {OUTSIDE: mapped.outside_n}
