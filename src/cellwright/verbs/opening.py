"""Opening what verbs are given: models by path or name, cells as a model needs them, folders. Nothing is printed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import field_validator

from cellwright.config import Config, some_of
from cellwright.models import Model, load

if TYPE_CHECKING:
    from cellwright.data.cells import Cells
    from cellwright.tasks.inference import InferenceOptions

STATES = ("raw", "normalised", "log1p", "binned", "unknown")
"""States of a matrix that can be described at all."""


class ReadOptions(Config):
    """How cells are read."""

    layer: str | None = None
    """Matrix to read: X, raw, or a layer's name; unset = counts where there are any."""
    assume: str | None = None
    """What the values are, overriding what is detected: raw | normalised | log1p."""
    genes: Literal["harmonise", "exact"] = "harmonise"
    """How gene names are matched: harmonise (aliases, Ensembl ids, versions) | exact (as published tools do)."""
    backed: bool = False
    """Leave the matrix on disk and read it in blocks."""
    tech_batch: str | None = None
    """Column of obs with the sequencing batches, for networks that were trained with them (integrate)."""
    tech_batch_as: dict[str, str] | None = None
    """Batches that the model has not seen, and the known ones they are treated as: new=known, separated by commas."""

    def of_matrix(self) -> dict[str, Any]:
        """Return what `cellwright.data.cells.open_cells` is told; the rest is between cells and a model."""
        return self.model_dump(exclude={"tech_batch", "tech_batch_as"})

    @field_validator("tech_batch_as", mode="before")
    @classmethod
    def _read_pairs(cls, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        pairs = [pair.partition("=") for pair in given.split(",")]
        if not all(new.strip() and known.strip() for new, _, known in pairs):
            raise ValueError("write new=known, several separated by commas")
        return {new.strip(): known.strip() for new, _, known in pairs}


class ModelOptions(Config):
    """Which model of a published file is opened, and with which vocabulary."""

    key: str | None = None
    """Which model of a published file that holds several (scFoundation: cell | rde | gene); unset = the first."""
    vocab: str | None = None
    """Published vocabulary file, where it does not lie beside the weights (scMulan: meta_info.pt)."""


def open_model(model: Model | str | Path, vocab: str | Path | None = None, *, key: str | None = None) -> Model:
    """Return ``model``, loaded first where a path or a shipped name was given; ``vocab`` and ``key`` as in `load`."""
    return model if isinstance(model, Model) else load(model, vocab=vocab, key=key)


def open_data(
    data: Any,
    model: Model,
    read: ReadOptions | None = None,
    *,
    accepts: Sequence[str] | None = None,
    run: InferenceOptions | None = None,
) -> Cells:
    """Open cells for a model: its vocabulary, the states of values that its family accepts (or ``accepts``).

    Where it is said how the model is going to be run (``run``), the contract also tells of genes that find no room.
    """
    from cellwright.data.cells import open_cells

    read = read or ReadOptions()
    _check_tech_batch(model, read)
    source = open_cells(
        data,
        model.vocab,
        accepts=accepts or model.family.accepts,
        **read.of_matrix(),
    )
    source = with_tech_batches(source, model, read) if model.tech_batches else source
    return source if run is None else with_left_out(source, model, run)


def with_left_out(source: Cells, model: Model, run: InferenceOptions) -> Cells:
    """Return the cells; where some have more genes than the model is fed when it is run so, their contract says it."""
    from cellwright.tasks.left_out import left_out_of

    found = left_out_of(model, source, run)
    return source if found is None else source.with_warning(found.line())


def with_tech_batches(source: Cells, model: Model, read: ReadOptions) -> Cells:
    """Return the cells with the codes of their sequencing batches, as the model was trained with them."""
    from cellwright.data.tech_batches import TECH_BATCH, tech_batch_codes

    names = model.tech_batches
    return source.with_obs(
        {TECH_BATCH: tech_batch_codes(source.obs, read.tech_batch, names, instead=read.tech_batch_as)}
    )


def _check_tech_batch(model: Model, read: ReadOptions) -> None:
    names = model.tech_batches
    if names and read.tech_batch is None:
        known = model.origin.get("tech_batches", {}).get("column")
        raise ValueError(
            f"the network needs each cell's sequencing batch ({some_of([repr(name) for name in names])}"
            + (f", {known!r} in training" if known else "")
            + "); name the column of obs that holds it (tech_batch, --tech-batch COLUMN)"
        )
    if not names and (read.tech_batch is not None or read.tech_batch_as is not None):
        raise ValueError(
            "the network takes no sequencing batches; leave tech_batch out (--tech-batch, --tech-batch-as), or "
            "fine-tune it for integration"
        )


def check_new(out: str | Path) -> None:
    """Refuse a place where no new folder can be made: a folder that holds files, a file, no permission to write."""
    from cellwright.data.write import check_place

    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        what = "holds files" if out.is_dir() else "is a file"
        raise ValueError(f"{out} {what}; choose a folder that is new or empty")
    check_place(out)
