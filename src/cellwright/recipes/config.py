"""What a recipe is: a record of data, family and size, objective, optimiser and length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from pydantic import Field

from cellwright.config import Config, did_you_mean
from cellwright.models import FAMILIES, InputConfig
from cellwright.objectives.config import ObjectiveConfig
from cellwright.train.config import TrainConfig
from cellwright.train.optim import OptimConfig


class DataConfig(Config):
    """Which part of the data a run sees."""

    num_genes: int | None = Field(None, ge=10)
    """Keep the most variable genes as vocabulary; ``None`` = every gene seen in ``min_cells`` cells."""
    min_cells: int = Field(3, ge=1)
    """Genes seen in fewer cells do not enter a new vocabulary."""
    valid_fraction: float = Field(0.05, ge=0, lt=1)
    """Share of cells kept out of training to watch the loss."""
    layer: str | None = None
    """Matrix to read: X, raw, or a layer's name; null = counts where there are any."""
    assume: str | None = None
    """What the values are, overriding what is detected: raw | normalised | log1p."""
    metadata: dict[str, str | None] = {}
    """Category of words -> column of obs, for views that read words; null = the data have none. Sentences leave out
    the categories without a column."""
    gene_annotations: dict[str, str] = {}
    """Kind of condition -> column of var: what is known of genes whatever the cell (a pathway, a gene family), for
    families that take conditions. The network gets a table for each kind."""


class Recipe(Config):
    """One pre-training run."""

    name: str
    """How it is called."""
    family: str
    """Key of FAMILIES."""
    size: str
    """Size of the family that ``model`` began from; changing it by `override` changes ``model``."""
    model: dict[str, Any]
    """The architecture, every field written out."""
    inputs: InputConfig = InputConfig()
    """How cells are prepared."""
    batch_size: int = Field(32, ge=1)
    """Cells a step."""
    data: DataConfig = DataConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig

    def override(self, assignments: Sequence[str]) -> Self:
        """Return a copy with changes, see `Config.override`; a size comes first, and others change what it brought.

        What the recipe itself changes in its own size (dropout, say) it changes in the other too.
        """
        sizes = [change for change in assignments if change.partition("=")[0].strip() == "size"]
        others = [change for change in assignments if change not in sizes]
        sized = self.sized(sizes[-1].partition("=")[2].strip(' "')) if sizes else self
        return super(Recipe, sized).override(others)

    def sized(self, size: str) -> Self:
        """Return the recipe with the architecture of another size of its family."""
        known = FAMILIES[self.family].sizes
        if size not in known:
            near = did_you_mean(size, known) or f"; sizes: {', '.join(known)}"
            raise ValueError(f"size = {size!r} is none of {FAMILIES[self.family].title}{near}")
        usual = architecture(self.family, self.size)
        own = {name: value for name, value in self.model.items() if value != usual.get(name, value)}
        return self.model_copy(update={"size": size, "model": architecture(self.family, size, **own)})


def architecture(family: str, size: str, **changes: Any) -> dict[str, Any]:
    """Return the architecture of a family's size, every field written out, with changes."""
    return FAMILIES[family].sizes[size].record() | changes
