"""Whole runs as data, and the one function that puts their parts together.

A recipe names a family and size, an objective, an optimiser and a length; with the commit and the data's hash it is
the run. `RECIPES` is the list; ``--set train.max_steps=50`` changes any field on the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from cellwright.config import Config, did_you_mean
from cellwright.models import FAMILIES, InputConfig, Model, new_model
from cellwright.objectives import TERMS, VIEWS, Objective
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


class ObjectiveConfig(Config):
    """What the model is trained for, by names of the tables in `cellwright.objectives`."""

    view: str = "generative_split"
    """Key of VIEWS."""
    view_options: dict[str, Any] = {}
    """Options of the view."""
    terms: dict[str, float] = {"masked_value": 1.0, "cell_value": 1.0, "prompted_value": 1.0}
    """Key of TERMS -> weight."""


class Recipe(Config):
    """One pre-training run."""

    name: str
    """How it is called."""
    family: str
    """Key of FAMILIES."""
    size: str
    """Size of the family that ``model`` began from."""
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


def _architecture(family: str, size: str, **changes: Any) -> dict[str, Any]:
    return FAMILIES[family].sizes[size].record() | changes


def scgpt_tiny() -> Recipe:
    """ScGPT's pre-training at teaching size: two layers of width 64, minutes on a laptop."""
    return Recipe(
        name="scgpt_tiny",
        family="scgpt",
        size="tiny",
        model=_architecture("scgpt", "tiny"),
        data=DataConfig(num_genes=2000),
        optim=OptimConfig(lr=1e-3, schedule="cosine", warmup_steps=20),
        train=TrainConfig(max_epochs=3, checkpoint_every=200),
    )


def scgpt_demo() -> Recipe:
    """ScGPT's pre-training as the demo runs it: two layers of width 64 on 1,200 variable genes."""
    return Recipe(
        name="scgpt_demo",
        family="scgpt",
        size="tiny",
        model=_architecture("scgpt", "tiny", dropout=0.0),
        data=DataConfig(num_genes=1200),
        optim=OptimConfig(lr=2e-3, schedule="cosine", warmup_steps=20),
        train=TrainConfig(max_epochs=4, checkpoint_every=500),
    )


def scgpt_pretrain() -> Recipe:
    """ScGPT's published pre-training: released size, Adam 1e-4, 10,000 warm-up steps, cosine, 6 epochs."""
    return Recipe(
        name="scgpt_pretrain",
        family="scgpt",
        size="released",
        model=_architecture("scgpt", "released"),
        data=DataConfig(valid_fraction=0.003),
        optim=OptimConfig(lr=1e-4, schedule="cosine", warmup_steps=10_000),
        train=TrainConfig(max_epochs=6, precision="bf16-mixed", checkpoint_every=5000, keep="best"),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "scgpt_tiny": scgpt_tiny,
    "scgpt_demo": scgpt_demo,
    "scgpt_pretrain": scgpt_pretrain,
}


def recipe(name: str) -> Recipe:
    """Return the recipe called ``name``; an unknown name is a ``ValueError`` that offers the nearest."""
    if name not in RECIPES:
        raise ValueError(f"no recipe {name!r}{did_you_mean(name, RECIPES) or '; recipes: ' + ', '.join(RECIPES)}")
    return RECIPES[name]()


def build_objective(config: ObjectiveConfig) -> Objective:
    """Build view and terms from their names; unknown names are errors that offer the nearest."""
    if config.view not in VIEWS:
        raise ValueError(f"no view {config.view!r}{did_you_mean(config.view, VIEWS) or f'; views: {sorted(VIEWS)}'}")
    view = VIEWS[config.view].read(config.view_options, f"objective.view_options of {config.view}")
    terms = {}
    for name, weight in config.terms.items():
        if name not in TERMS:
            raise ValueError(f"no loss term {name!r}{did_you_mean(name, TERMS) or f'; terms: {sorted(TERMS)}'}")
        if not issubclass(TERMS[name], Config):
            raise ValueError(f"the term {name!r} needs classes, so it belongs to a task, not to a pre-training recipe")
        terms[name] = (weight, TERMS[name]())
    return Objective(view, terms)


def pretrain_model(
    recipe: Recipe, data: Sequence[Any], folder: Path, *, resume: bool = False, is_progress_shown: bool = False
) -> tuple[Model, Any]:
    """Pre-train a new model on data sets and leave a run folder that is itself a model.

    Parameters
    ----------
    recipe
        The run.
    data
        Paths or AnnData; their genes make the vocabulary.
    folder
        Run folder.
    resume
        Continue an interrupted run with the same recipe and data; otherwise the folder must be new or empty.

    Returns
    -------
    The trained model and the `cellwright.train.run.FitResult`.
    """
    from cellwright.data.joined import open_together
    from cellwright.data.loader import CellLoader
    from cellwright.data.splits import split_cells
    from cellwright.train.plan import TrainPlan
    from cellwright.train.run import fit, open_run

    family, seed = FAMILIES[recipe.family], recipe.train.seed
    architecture = family.config.read(recipe.model, "model")
    objective = build_objective(recipe.objective)
    source = open_together(
        data,
        specials=family.specials,
        accepts=family.accepts,
        num_genes=recipe.data.num_genes,
        min_cells=recipe.data.min_cells,
        layer=recipe.data.layer,
        assume=recipe.data.assume,
    )
    model = new_model(recipe.family, source.vocab, architecture, seed=seed, inputs=recipe.inputs)
    split = split_cells(source.obs, by="cells", valid=recipe.data.valid_fraction, seed=seed)
    open_run(
        folder,
        recipe.record() | {"sources": source.record(), "split": split.record()},
        resume=resume,
    )
    plan = TrainPlan(model.network.train(), objective, model.tokenizer(), optim=recipe.optim, seed=seed)
    loaders = [CellLoader(source, split.train, recipe.batch_size, seed=seed, drop_last=True)]
    if len(split.valid):
        loaders.append(CellLoader(source, split.valid, recipe.batch_size, seed=seed, shuffle=False))
    result = fit(plan, *loaders, config=recipe.train, folder=folder, resume=resume, is_progress_shown=is_progress_shown)
    model.network.eval()
    model.origin["pretraining"] = {"recipe": recipe.record(), "data": source.record(), "steps": result.num_steps}
    model.save(folder)
    return model, result
