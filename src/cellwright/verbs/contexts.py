"""The verb for genes in context: states of every gene in every cell, in blocks, or as a zarr folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellwright.models import Model
from cellwright.protocols import CellSource
from cellwright.tasks.inference import InferenceOptions
from cellwright.verbs.denoising import asked_ids
from cellwright.verbs.depths import DepthOptions, depth_options, open_deep, prepared
from cellwright.verbs.opening import ReadOptions, open_model

if TYPE_CHECKING:
    from cellwright.data.cells import Cells
    from cellwright.tasks.gene_contexts import GeneContexts


def gene_contexts(
    adata: Any,
    model: Model | str | Path,
    *,
    depth: DepthOptions | str | None = None,
    only: Sequence[str] = (),
    together: bool = False,
    read: ReadOptions | None = None,
    run: InferenceOptions | None = None,
) -> GeneContexts:
    """Embed every gene of every cell in its context, a block of cells at a time.

    Parameters
    ----------
    adata
        AnnData or path, see `embed`.
    model
        A model with a decoder of all genes: of scFoundation, published for this under the key ``gene``.
    depth
        The depth to ask for, or `DepthOptions`, see `embed`.
    only
        Genes to hand on; empty = all genes of the model. The model sees all genes either way.
    together
        Run all cells in one pass, so that their states depend on each other (published ``gene_batch``).
    read, run
        How the cells are read, and the model is run.

    Returns
    -------
    `cellwright.tasks.gene_contexts.GeneContexts`: iterating gives (first row, float32 ``[rows, g, d]``), once; names of
    the genes beside.

    Examples
    --------
    >>> found = cellwright.gene_contexts(adata, cellwright.load("models.ckpt", key="gene"))  # doctest: +SKIP
    >>> for start, block_ngd in found: ...  # doctest: +SKIP
    """
    deep, model, run = depth_options(depth), open_model(model), run or InferenceOptions()
    model, cells = prepared(model, open_deep(adata, model, read, deep), deep)
    return contexts_of(model, cells, only=only, is_together=together, run=run)


def contexts_of(
    model: Model, cells: CellSource, *, only: Sequence[str] = (), is_together: bool = False, run: InferenceOptions
) -> GeneContexts:
    """Return the states of genes in the cells of an opened source; see `gene_contexts`."""
    from cellwright.tasks import gene_contexts as task

    ids = asked_ids(model, only) if only else None
    return task.gene_contexts(model, cells, gene_ids=ids, is_together=is_together, options=run)


def write_contexts(found: GeneContexts, out: Path, *, source: Cells, record: dict[str, Any]) -> tuple[int, int, int]:
    """Write states of genes with the names of cells and genes, and return their shape (cells, genes, width)."""
    from cellwright.data.contexts import save_contexts

    about = record | {"together": found.is_together}
    return save_contexts(out, found, cells=list(source.obs_names), genes=found.genes, record=about)
