"""The verb that predicts perturbations: learn from a screen, hold some of it out, score. Nothing is printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from cellwright.config import Config, versions
from cellwright.models import Model
from cellwright.tasks.inference import InferenceOptions
from cellwright.tasks.perturb_graph import GraphConfig
from cellwright.tasks.screen import ScreenOptions
from cellwright.verbs.using import model_record, open_data, open_model

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

    from cellwright.baselines.perturbation import Known
    from cellwright.data.gene_graphs import GeneGraph
    from cellwright.data.perturbation_splits import PerturbationSplit
    from cellwright.evaluate.perturbation_tables import PerturbationScores
    from cellwright.tasks.gene_features import GeneTable
    from cellwright.tasks.perturb import PerturbModel, Predictions, Screen


class PerturbOptions(Config):
    """How a screen is divided and predictions are scored."""

    split: Literal["single", "double", "gears", "cells"] = "single"
    """What is held out: single | double | gears | cells (contexts)."""
    folds: int = Field(5, ge=2)
    """Folds; everything is held out once."""
    valid: float = Field(0.2, ge=0, lt=1)
    """Share of what is left for training that is held out to choose by."""
    seed: int = Field(0, ge=0)
    """Of everything random."""
    num_neighbors: int = Field(20, ge=1)
    """Neighbours of each perturbed gene in the perturbation graph."""
    per_cell: bool = False
    """Read context gene embeddings of a model cell by cell, in place of their mean over controls."""
    cell_scores: bool = True
    """Also compare predicted with real cells; takes the most time of scoring."""
    on_collapse: Literal["warn", "stop"] = "warn"
    """When a model predicts the same for everything: warn | stop."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PerturbResult:
    """What came out."""

    screen: Screen
    splits: tuple[PerturbationSplit, ...]
    predictions: Predictions
    scores: PerturbationScores
    graph: GeneGraph
    new: Mapping[str, np.ndarray]
    """Condition that was asked for -> predicted effect in every context, ``[contexts, g]``."""
    record: dict[str, Any]
    """What the numbers depend on."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should look at."""
        return (*self.screen.contract.warnings, *self.screen.notes, *self.record["notes"], *self.scores.warnings)

    def lines(self) -> list[str]:
        """Return the outcome as text: what was read, scores of every method and group, warnings."""
        from cellwright.evaluate.perturbation_tables import table_lines

        lines = [*self.screen.perturbations.lines()[:1]]
        for group in dict.fromkeys(row.group for row in self.scores.rows):
            sizes = next((row.num_profiles, row.num_perturbations) for row in self.scores.rows if row.group == group)
            lines += ["", f"{group}: {sizes[0]} test profiles of {sizes[1]} perturbations", ""]
            lines += table_lines(self.scores, group)
        lines += ["", "* best between floor (technical) and roof (replicate)"]
        return [*lines, *(f"warning: {warning}" for warning in self.warnings)]

    def save(self, folder: str | Path) -> None:
        """Write scores, predictions, splits, figures and the record into ``folder``; see ``docs/tasks/perturb.md``."""
        from cellwright.verbs.perturb_files import write_run

        write_run(self, Path(folder))


def perturb(
    adata: Any,
    *,
    options: PerturbOptions | None = None,
    screen: ScreenOptions | None = None,
    gene_sets: str | Path | Mapping[str, Sequence[str]] | None = None,
    model: Model | str | Path | None = None,
    embedding: str | Path | GeneTable | None = None,
    predict: Sequence[str] = (),
    config: GraphConfig | None = None,
    run: InferenceOptions | None = None,
) -> PerturbResult:
    """Predict what perturbations do, on perturbations that were held out, beside every baseline.

    A graph model in the GEARS manner is trained for each fold; with ``model`` or ``embedding`` a second one that is fed
    by these gene embeddings. All methods learn from the same profiles and are scored on the same cells.

    Parameters
    ----------
    adata
        AnnData or path of cells with known perturbations and controls.
    options
        Split, folds, seed, scoring.
    screen
        Which columns say what was done, where, and how cells are read.
    gene_sets
        ``.gmt`` file (or name -> genes) that the perturbation graph is built from; without it co-expression among the
        controls, which knows nothing of genes outside the panel.
    model
        A model whose context gene embeddings feed the graph model (loaded, path or shipped name).
    embedding
        Gene embedding of any other origin: ``.npz`` of ``genes`` and ``values``, or a table; not together with
        ``model``.
    predict
        Further conditions to predict (``"A+B"``), by a model trained on the whole screen.
    config
        The graph model.
    run
        How ``model`` is run.

    Returns
    -------
    `PerturbResult`; its ``scores.rows`` are what a table is made of.

    Raises
    ------
    ValueError
        When the data cannot be used or divided so, with the remedy; when a model collapses and that is to stop.

    Examples
    --------
    >>> result = cellwright.perturb("norman.h5ad", gene_sets="go.gmt")  # doctest: +SKIP
    """
    from cellwright.data.perturbation_splits import split_perturbations
    from cellwright.evaluate.perturbation import score_predictions
    from cellwright.tasks.perturb import predict_folds
    from cellwright.tasks.screen import open_screen

    options, read, run = options or PerturbOptions(), screen or ScreenOptions(), run or InferenceOptions()
    if model is not None and embedding is not None:
        raise ValueError("model and embedding both give gene embeddings; give one of them (--model, --embedding)")
    if options.per_cell and model is None:
        raise ValueError("per_cell reads a model's gene embeddings cell by cell; give the model (--model)")
    opened = open_screen(adata, read, seed=options.seed)
    asked = _asked(opened, predict)
    splits = split_perturbations(
        opened.profiles, options.split, num_folds=options.folds, valid=options.valid, seed=options.seed
    )
    loaded = None if model is None else open_model(model)
    known, graph, methods, notes = _methods(
        opened,
        options,
        config or GraphConfig(),
        gene_sets,
        _Source(model=loaded, embedding=embedding, adata=adata, run=run, read=read),
    )
    predictions = predict_folds(opened, splits, methods, known=known)
    scores = score_predictions(
        opened,
        predictions,
        split=options.split,
        has_cell_scores=options.cell_scores,
        on_collapse=options.on_collapse,
    )
    record = {
        "options": options.record() | {"screen": read.record(), "graph_model": (config or GraphConfig()).record()},
        "screen": opened.record(),
        "perturbation_graph": graph.record(),
        "model": None if loaded is None else model_record(loaded),
        "notes": [*notes, *predictions.notes],
        "split_sha256": [split.sha256(opened.obs_names.tolist(), opened.profile_n) for split in splits],
        "seconds": dict(predictions.seconds),
        "versions": versions(),
    }
    return PerturbResult(
        screen=opened,
        splits=tuple(splits),
        predictions=predictions,
        scores=scores,
        graph=graph,
        new=_predict_new(opened, methods[-1], known, asked, options),
        record=record,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """Where gene embeddings come from."""

    model: Model | None
    embedding: Any
    adata: Any
    run: InferenceOptions
    read: ScreenOptions


def _methods(
    screen: Screen, options: PerturbOptions, config: GraphConfig, gene_sets: Any, source: _Source
) -> tuple[Known, GeneGraph, list[PerturbModel], list[str]]:
    """Return what is known of genes, the perturbation graph, the models to train and what there is to say."""
    import numpy as np

    from cellwright.baselines.perturbation import Known
    from cellwright.data.gene_graphs import gene_set_features, read_gene_sets
    from cellwright.tasks.gene_features import GeneTable
    from cellwright.tasks.perturb_graph import GraphPerturb, joined_tables

    parts = screen.perturbations.all_parts
    sets = read_gene_sets(gene_sets) if isinstance(gene_sets, str | Path) else gene_sets
    graph, notes = _graph(screen, sets, options.num_neighbors)
    features, tables = {}, []
    if sets is not None:
        value_pd = gene_set_features(graph.genes, sets)
        if value_pd.shape[1]:
            tables.append(GeneTable(graph.genes, value_pd.astype(np.float32), "gene sets"))
            features["gene_sets"] = {p: v for p, v in tables[0].by_name(parts).items() if v.any()}
    methods: list[PerturbModel] = [
        GraphPerturb(config=config, node_graph=graph, node_features=joined_tables(tables, graph.genes))
    ]
    table, contexts = _embedding(screen, options, source)
    if table is not None:
        features["model"] = dict(table.by_name(parts))
        covered = int(table.aligned(screen.genes)[1].sum())
        notes.append(
            f"gene embedding: {table.what}; {covered} of {len(screen.genes)} genes and {len(features['model'])} of "
            f"{len(parts)} perturbed genes have one"
        )
        methods.append(
            GraphPerturb(
                name="graph_context",
                what=f"graph model fed by {table.what}{', cell by cell' if contexts is not None else ''}",
                config=config,
                node_graph=graph,
                node_features=joined_tables([*tables, table], graph.genes),
                gene_features=None if contexts is not None else table,
                contexts=contexts,
            )
        )
    return Known(genes=screen.genes, panel_at=screen.panel_at, features=features), graph, methods, notes


def _graph(screen: Screen, sets: Any, num_neighbors: int) -> tuple[GeneGraph, list[str]]:
    """Build the perturbation graph over perturbed genes and the panel."""
    import numpy as np

    from cellwright.data.gene_graphs import coexpression_graph, gene_set_graph

    parts = screen.perturbations.all_parts
    nodes = tuple(dict.fromkeys([*parts, *screen.genes]))
    if sets is not None:
        graph = gene_set_graph(nodes, sets, num_neighbors=num_neighbors)
    else:
        graph = coexpression_graph(
            screen.genes, screen.log_ng[np.flatnonzero(screen.is_seen_n)], num_neighbors=num_neighbors
        ).over(nodes, {part: screen.genes[at] for part, at in screen.panel_at.items()})
    alone = [name for name in graph.isolated if name in parts]
    if not alone:
        return graph, []
    remedy = "" if sets is not None else "; gene sets (gene_sets=, --gene-sets) know genes outside the panel"
    what = f"{len(alone)} of {len(parts)} perturbations have no neighbour in the perturbation graph ({graph.what})"
    return graph, [f"{what}: {', '.join(alone[:8])}{' ...' if len(alone) > 8 else ''}{remedy}"]


def _embedding(screen: Screen, options: PerturbOptions, source: _Source) -> tuple[Any, Any]:
    """Return the gene embedding (mean over the controls that may be seen), and its reading cell by cell if wanted."""
    import numpy as np

    from cellwright.tasks.gene_features import GeneTable, ModelContexts, read_gene_table
    from cellwright.verbs.using import ReadOptions

    if source.embedding is not None:
        given = source.embedding
        return (given if isinstance(given, GeneTable) else read_gene_table(given)), None
    if source.model is None:
        return None, None
    reading = ReadOptions(layer=source.read.layer, assume=source.read.assume)
    cells = open_data(source.adata, source.model, reading)
    names = tuple(dict.fromkeys([*screen.genes, *screen.perturbations.all_parts]))
    table = ModelContexts(source.model, cells, names, source.run).mean(np.flatnonzero(screen.is_seen_n))
    per_cell = ModelContexts(source.model, cells, screen.genes, source.run) if options.per_cell else None
    return table, per_cell


def _asked(screen: Screen, predict: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read the further conditions before anything is trained."""
    from cellwright.data.perturbations import parse_condition

    asked = {name: parse_condition(name, screen.perturbations.control) for name in predict}
    if empty := [name for name, parts in asked.items() if not parts]:
        raise ValueError(f"{empty[0]!r} is the control; name a perturbation to predict (predict=, --predict)")
    return asked


def _predict_new(
    screen: Screen,
    method: PerturbModel,
    known: Known,
    asked: Mapping[str, tuple[str, ...]],
    options: PerturbOptions,
) -> dict[str, np.ndarray]:
    """Predict further conditions by a model of the whole screen."""
    from cellwright.tasks.perturb import whole_lesson

    if not asked:
        return {}
    fitted = method.fit(whole_lesson(screen, known, valid=options.valid))
    return {name: fitted.predict(screen.asked_anew(parts)).effect_ug for name, parts in asked.items()}


def predictions_anndata(result: PerturbResult) -> AnnData:
    """Return predictions as AnnData: one row a test profile and fold, or a further condition in a context.

    X: predicted effects (change of mean log expression) of the last model; layers: those of every method, and
    ``observed`` for test profiles (NaN elsewhere). obs: ``condition``, ``context``, ``group``, ``fold`` (-1 = further).
    """
    import numpy as np
    import pandas as pd
    from anndata import AnnData

    screen, made = result.screen, result.predictions
    title = [screen.perturbations.names[screen.perturbations.parts.index(screen.profiles.parts[u])] for u in made.at_e]
    rows = {
        "condition": title + [name for name in result.new for _ in screen.contexts],
        "context": [screen.profiles.context[u] for u in made.at_e] + list(screen.contexts) * len(result.new),
        "group": [*made.group_e, *["new"] * (len(result.new) * len(screen.contexts))],
        "fold": [*made.fold_e.tolist(), *[-1] * (len(result.new) * len(screen.contexts))],
    }
    new_ng = np.concatenate(list(result.new.values())) if result.new else np.zeros((0, len(screen.genes)))
    nothing_ng = np.full(new_ng.shape, np.nan)
    main = list(made.effect_eg)[-1]
    layers = {
        name: np.concatenate([effect_eg, new_ng if name == main else nothing_ng]).astype(np.float32)
        for name, effect_eg in made.effect_eg.items()
    }
    observed_eg = screen.observed_effects(made.at_e)
    layers["observed"] = np.concatenate([observed_eg, nothing_ng]).astype(np.float32)
    obs = pd.DataFrame(rows, index=[f"profile_{i}" for i in range(len(rows["fold"]))])
    return AnnData(layers[main].copy(), obs=obs, var=pd.DataFrame(index=list(screen.genes)), layers=layers)
