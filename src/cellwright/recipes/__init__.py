"""Whole runs as data, and the one function that puts their parts together.

A recipe names a family and size, an objective, an optimiser and a length; with the commit and the data's hash it is
the run. `RECIPES` is the list; ``--set train.max_steps=50`` changes any field on the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cellwright.config import Config, did_you_mean
from cellwright.models import FAMILIES, InputConfig, Model, new_model
from cellwright.objectives.config import build_objective, build_view
from cellwright.protocols import Family, View
from cellwright.recipes.config import DataConfig, Recipe
from cellwright.recipes.scfoundation import scfoundation_pretrain, scfoundation_tiny
from cellwright.recipes.scgpt import scgpt_demo, scgpt_pretrain, scgpt_tiny
from cellwright.recipes.scmulan import scmulan_pretrain, scmulan_tiny

RECIPES: dict[str, Callable[[], Recipe]] = {
    "scgpt_tiny": scgpt_tiny,
    "scgpt_demo": scgpt_demo,
    "scgpt_pretrain": scgpt_pretrain,
    "scmulan_tiny": scmulan_tiny,
    "scmulan_pretrain": scmulan_pretrain,
    "scfoundation_tiny": scfoundation_tiny,
    "scfoundation_pretrain": scfoundation_pretrain,
}


def recipe(name: str) -> Recipe:
    """Return the recipe called ``name``; an unknown name is a ``ValueError`` that offers the nearest."""
    if name not in RECIPES:
        raise ValueError(f"no recipe {name!r}{did_you_mean(name, RECIPES) or '; recipes: ' + ', '.join(RECIPES)}")
    return RECIPES[name]()


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
    from cellwright.data.gene_annotations import read_gene_annotations
    from cellwright.data.joined import open_together
    from cellwright.data.loader import CellLoader
    from cellwright.data.splits import split_cells
    from cellwright.tasks.left_out import training_notes
    from cellwright.train.plan import TrainPlan
    from cellwright.train.run import fit, open_run

    family, seed = FAMILIES[recipe.family], recipe.train.seed
    architecture = family.config.read(recipe.model, "model")
    view = build_view(recipe.objective)
    if metadata := metadata_columns(recipe.data, view, family):
        view = view.narrowed(metadata)
    build_objective(recipe.objective, view, width=1)  # wrong names are said before cells are read
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
    inputs = recipe.inputs
    if columns := recipe.data.gene_annotations:
        tables = read_gene_annotations(data, columns, source.vocab, layer=recipe.data.layer)
        architecture, inputs = with_conditions(architecture, inputs, tables)
    model = new_model(recipe.family, source.vocab, architecture, seed=seed, inputs=inputs)
    split = split_cells(source.obs, by="cells", valid=recipe.data.valid_fraction, seed=seed)
    open_run(
        folder,
        recipe.record() | {"sources": source.record(), "split": split.record()},
        resume=resume,
    )
    objective = build_objective(recipe.objective, view, width=model.network.width, seed=seed)
    plan = TrainPlan(model.network.train(), objective, model.tokenizer(), optim=recipe.optim, seed=seed)
    loaders = [CellLoader(source, split.train, recipe.batch_size, seed=seed, drop_last=True)]
    if len(split.valid):
        loaders.append(CellLoader(source, split.valid, recipe.batch_size, seed=seed, shuffle=False))
    result = fit(
        plan, *loaders, config=recipe.train, folder=folder, resume=resume,
        notes=training_notes(plan.tokenize, loaders[0]), is_progress_shown=is_progress_shown,
    )  # fmt: skip
    model.network.eval()
    model.heads |= {name: term.head.eval() for name, term in objective.heads.items()}
    model.origin["pretraining"] = {"recipe": recipe.record(), "data": source.record(), "steps": result.num_steps}
    if metadata:
        model.origin["pretraining"] |= {"sentences": view.lines(), "questions": view.questions()}
        if (hierarchy := told_hierarchy(model, source, split.train)) is not None:
            model.origin["pretraining"]["hierarchy"] = hierarchy
    model.save(folder)
    return model, result


def with_conditions(
    architecture: Config, inputs: InputConfig, tables: Mapping[str, Mapping[str, str]]
) -> tuple[Config, InputConfig]:
    """Return architecture and inputs with conditions that genes have whatever the cell: kind -> gene -> category.

    Raises
    ------
    ValueError
        When the family takes no conditions, or conditions are set beside.
    """
    if "num_conditions" not in type(architecture).model_fields:
        raise ValueError(f"data.gene_annotations: a {type(architecture).__name__} takes no conditions of genes")
    if architecture.num_conditions or inputs.conditions:
        raise ValueError("data.gene_annotations sets num_conditions and inputs.conditions; leave them out")
    first, *more = (1 + len(set(table.values())) for table in tables.values())
    changes = [f"num_conditions={first}", "condition_pad=0", f"more_conditions={more}"]
    conditions = {kind: dict(table) for kind, table in tables.items()}
    return architecture.override(changes), InputConfig.read(inputs.record() | {"conditions": conditions}, "inputs")


def told_hierarchy(model: Model, source: Any, rows: np.ndarray) -> dict[str, list[str]] | None:
    """Return fine word -> coarse words that the training cells had with it; ``None`` when they lack one of the two."""
    from cellwright.tasks.hierarchy import told_together

    pair = next((asked for asked in model.family.questions.values() if len(asked) == 2), None)
    if pair is None or not all(model.vocab.categories.get(name) for name in pair):
        return None
    return told_together(*(source.codes(name)[rows] for name in pair), *(model.vocab.categories[name] for name in pair))


def check_usable(view: Any, source: Any) -> None:
    """Refuse cells that a view of sentences cannot use: those without the words of any sentence."""
    is_usable_n = view.is_usable({name: source.codes(name) for name in view.categories})
    if not is_usable_n.all():
        row, num = int(np.argmin(is_usable_n)), int((~is_usable_n).sum())
        raise ValueError(
            f"{num} of {len(source)} cells lack the words of every sentence ({'; '.join(view.lines())}), the first at "
            f"row {row}; drop such cells, or fill their columns"
        )
