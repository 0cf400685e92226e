"""Opening what verbs are given: models by path or name, and cells as a model needs them. Nothing is printed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cellwright.config import Config
from cellwright.models import Model, load

if TYPE_CHECKING:
    from cellwright.data.cells import Cells

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
    data: Any, model: Model, read: ReadOptions | None = None, *, accepts: Sequence[str] | None = None
) -> Cells:
    """Open cells for a model: its vocabulary, the states of values that its family accepts (or ``accepts``)."""
    from cellwright.data.cells import open_cells

    read = read or ReadOptions()
    return open_cells(
        data,
        model.vocab,
        accepts=accepts or model.family.accepts,
        layer=read.layer,
        assume=read.assume,
        genes=read.genes,
        backed=read.backed,
    )
