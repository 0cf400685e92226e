"""Whole runs as data, and the one function that puts their parts together.

A recipe names a family and size, an objective, an optimiser and a length; with the commit and the data's hash it is
the run. `RECIPES` is the list; ``--set train.max_steps=50`` changes any field on the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from cellwright.config import Config, did_you_mean
from cellwright.models import FAMILIES, InputConfig, Model, new_model
from cellwright.objectives import TERMS, VIEWS, Objective
from cellwright.protocols import Family, View
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


class ObjectiveConfig(Config):
    """What the model is trained for, by names of the tables in `cellwright.objectives`."""

    view: str = "generative_split"
    """Key of VIEWS."""
    view_options: dict[str, Any] = {}
    """Options of the view."""
    terms: dict[str, float] = {"masked_value": 1.0, "cell_value": 1.0, "prompted_value": 1.0}
    """Key of TERMS -> weight."""
    term_options: dict[str, dict[str, Any]] = {}
    """Key of TERMS -> options of the term; those of a term without weight say nothing."""


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


def scmulan_tiny() -> Recipe:
    """ScMulan's pre-training at teaching size: two layers of width 64, sentences of the metadata that there are."""
    return Recipe(
        name="scmulan_tiny",
        family="scmulan",
        size="tiny",
        model=_architecture("scmulan", "tiny"),
        data=DataConfig(
            num_genes=2000,
            metadata={"organ": None, "region": None, "cell_type": "cell_type", "coarse_type": None},
        ),
        objective=_SENTENCES,
        optim=OptimConfig(lr=3e-3, schedule="cosine", warmup_steps=10, **_SENTENCE_OPTIM),
        train=TrainConfig(max_epochs=10, checkpoint_every=200),
    )


def scmulan_pretrain() -> Recipe:
    """ScMulan's pre-training at the released size; rate, schedule and length are ours (none is public).

    Columns are called as in the published vocabulary.
    """
    return Recipe(
        name="scmulan_pretrain",
        family="scmulan",
        size="released",
        model=_architecture("scmulan", "released"),
        data=DataConfig(
            num_genes=2000,
            valid_fraction=0.003,
            metadata={"organ": "organ", "region": "region", "cell_type": "cell_type", "coarse_type": "MCT"},
        ),
        objective=_SENTENCES,
        optim=OptimConfig(lr=1e-4, schedule="cosine", warmup_steps=2000, **_SENTENCE_OPTIM),
        train=TrainConfig(max_epochs=6, precision="bf16-mixed", checkpoint_every=5000, keep="best"),
    )


_SENTENCES = ObjectiveConfig(
    view="c_sentence",
    terms={"next_entity": 1.0, "next_level": 1.0},
    term_options={"next_entity": {"per": "sentence"}, "next_level": {"per": "sentence"}},
)
"""Every sentence weighs the same, and errors of levels 1. Published: every asked word, and 200, which leaves telling
what a cell is 0.2 % of the first loss (decision 0011)."""
_SENTENCE_OPTIM: dict[str, Any] = {
    "optimiser": "adamw",
    "betas": (0.9, 0.95),
    "weight_decay": 0.1,
    "undecayed": ("network.entity_head",),
}
"""Published: AdamW without decay of the entity head. Its numbers are not public; these are usual for such networks."""


RECIPES: dict[str, Callable[[], Recipe]] = {
    "scgpt_tiny": scgpt_tiny,
    "scgpt_demo": scgpt_demo,
    "scgpt_pretrain": scgpt_pretrain,
    "scmulan_tiny": scmulan_tiny,
    "scmulan_pretrain": scmulan_pretrain,
}


def recipe(name: str) -> Recipe:
    """Return the recipe called ``name``; an unknown name is a ``ValueError`` that offers the nearest."""
    if name not in RECIPES:
        raise ValueError(f"no recipe {name!r}{did_you_mean(name, RECIPES) or '; recipes: ' + ', '.join(RECIPES)}")
    return RECIPES[name]()


def build_view(config: ObjectiveConfig) -> View:
    """Build the view from its name; an unknown name is an error that offers the nearest."""
    if config.view not in VIEWS:
        raise ValueError(f"no view {config.view!r}{did_you_mean(config.view, VIEWS) or f'; views: {sorted(VIEWS)}'}")
    return VIEWS[config.view].read(config.view_options, f"objective.view_options of {config.view}")


def metadata_columns(config: DataConfig, view: View, family: Family) -> dict[str, str]:
    """Return category -> column, categories by our names, of the metadata that a run reads.

    Raises
    ------
    ValueError
        When the view reads words and no column is named, or a category that it does not speak of has one.
    """
    given = {family.category(name): column for name, column in config.metadata.items() if column is not None}
    for name in given:
        if name not in view.categories:
            known = ", ".join(sorted(view.categories)) or "none"
            near = did_you_mean(name, view.categories) or f"; categories: {known}"
            raise ValueError(f"data.metadata: {type(view).__name__} says nothing of {name!r}{near}")
    if view.categories and not given:
        raise ValueError(
            f"{type(view).__name__} makes sentences of metadata, and no column is named; name at least one, such as "
            f"--set data.metadata.cell_type=COLUMN (categories: {', '.join(sorted(view.categories))})"
        )
    return given


def build_objective(config: ObjectiveConfig, view: View | None = None) -> Objective:
    """Build view (unless given) and terms from their names; unknown names are errors that offer the nearest."""
    view = build_view(config) if view is None else view
    for name in config.term_options:
        if name not in TERMS:
            near = did_you_mean(name, TERMS) or f"; terms: {sorted(TERMS)}"
            raise ValueError(f"objective.term_options: no loss term {name!r}{near}")
    terms = {}
    for name, weight in config.terms.items():
        if name not in TERMS:
            raise ValueError(f"no loss term {name!r}{did_you_mean(name, TERMS) or f'; terms: {sorted(TERMS)}'}")
        if not issubclass(TERMS[name], Config):
            raise ValueError(f"the term {name!r} needs classes, so it belongs to a task, not to a pre-training recipe")
        options = config.term_options.get(name, {})
        terms[name] = (weight, TERMS[name].read(options, f"objective.term_options of {name}"))
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
    view = build_view(recipe.objective)
    if metadata := metadata_columns(recipe.data, view, family):
        view = view.narrowed(metadata)
    objective = build_objective(recipe.objective, view)
    source = open_together(
        data,
        specials=family.specials,
        accepts=family.accepts,
        num_genes=recipe.data.num_genes,
        min_cells=recipe.data.min_cells,
        layer=recipe.data.layer,
        assume=recipe.data.assume,
        metadata=metadata,
    )
    if metadata:
        check_usable(view, source)
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
    if metadata:
        model.origin["pretraining"]["sentences"] = view.lines()
    model.save(folder)
    return model, result


def check_usable(view: Any, source: Any) -> None:
    """Refuse cells that a view of sentences cannot use: those without the words of any sentence."""
    is_usable_n = view.is_usable({name: source.codes(name) for name in view.categories})
    if not is_usable_n.all():
        row, num = int(np.argmin(is_usable_n)), int((~is_usable_n).sum())
        raise ValueError(
            f"{num} of {len(source)} cells lack the words of every sentence ({'; '.join(view.lines())}), the first at "
            f"row {row}; drop such cells, or fill their columns"
        )
