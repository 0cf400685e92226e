"""Which methods the verbs of perturbation train, what feeds them, and what baselines are told of genes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellwright.config import Config, some_of
from cellwright.models import Model
from cellwright.tasks.inference import InferenceOptions
from cellwright.tasks.perturb_cells import ADAPTED, CellPerturb, CellPerturbConfig, begin_unchanged
from cellwright.tasks.perturb_graph import GraphConfig
from cellwright.tasks.screen import ScreenOptions
from cellwright.verbs.using import open_data

if TYPE_CHECKING:
    from cellwright.baselines.perturbation import Known
    from cellwright.data.gene_graphs import GeneGraph
    from cellwright.models.adapt import Adapted
    from cellwright.tasks.lessons import Screen
    from cellwright.tasks.perturb import PerturbModel
    from cellwright.verbs.perturbing import PerturbOptions


LABELS = "perturbation"
"""Category of the words that stand for perturbations that are no genes."""


class PerturbConfig(Config):
    """How the trained methods are built and trained."""

    graph: GraphConfig = GraphConfig()
    """The graph models."""
    cells: CellPerturbConfig = CellPerturbConfig()
    """The fine-tuned cell model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodSource:
    """What methods are fed beside the screen."""

    model: Model | None
    embedding: Any
    adata: Any
    run: InferenceOptions
    read: ScreenOptions


def methods_of(
    screen: Screen, options: PerturbOptions, config: PerturbConfig, gene_sets: Any, source: MethodSource
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
    methods: list[PerturbModel] = []
    if options.graph:
        features_of = joined_tables(tables, graph.genes)
        methods.append(GraphPerturb(config=config.graph, node_graph=graph, node_features=features_of))
    table, contexts, said = _embedding(screen, options, source)
    notes += said
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
                config=config.graph,
                node_graph=graph,
                node_features=joined_tables([*tables, table], graph.genes),
                gene_features=None if contexts is not None else table,
                contexts=contexts,
            )
        )
    if source.model is not None and options.use in ("cells", "both"):
        method, said = cell_method(screen, source.model, config.cells)
        methods.append(method)
        notes += said
    return Known(genes=screen.genes, panel_at=screen.panel_at, features=features), graph, methods, notes


def cell_method(screen: Screen, model: Model, config: CellPerturbConfig) -> tuple[CellPerturb, list[str]]:
    """Return the method that fine-tunes a model, and what there is to say.

    The network is given an affine head and condition flags where it lacks them, and a word for each perturbation that
    is no gene; what it has learnt is kept.
    """
    from cellwright.models.adapt import adapted
    from cellwright.tasks.perturb_tokens import Feed

    where, parts = model.report.source, screen.perturbations.all_parts
    architecture = model.config.record()
    if lacking := sorted(set(ADAPTED) - set(architecture)):
        raise ValueError(
            f"{where} ({model.family.title}) cannot be fine-tuned to predict perturbed cells: its family has no "
            f"{lacking[0]}; feed a graph model with its gene embeddings instead (use='genes', --use genes)"
        )
    changes: dict[str, Any] = {"dropout": 0.0}  # as published
    if architecture["value_head"] != "affine":
        changes["value_head"] = "affine"
    if architecture["num_conditions"] < ADAPTED["num_conditions"]:
        changes |= {name: ADAPTED[name] for name in ("num_conditions", "condition_pad")}
    words = parts if screen.perturbations.kind == "labels" else ()
    vocab = model.vocab.extended(categories={LABELS: words}) if words else None
    seed = screen.seed if config.seed is None else config.seed
    found = adapted(model, changes, vocab=vocab, seed=seed)
    if any(name.startswith("value_head.") for name in found.fresh):
        begin_unchanged(found.model.network)
    feed = Feed(found.model, screen.genes, config.flag)
    unknown = [part for part in parts if feed.token(part) < 0]
    notes = [
        f"{model.family.title} is fed {len(feed.fed_k)} of {len(screen.genes)} genes, the others are predicted as "
        f"unchanged; {len(parts) - len(unknown)} of {len(parts)} perturbations have a token"
    ]
    if unknown:
        notes.append(f"perturbed genes that {where} does not know have no effect in its answers: {some_of(unknown)}")
    what = f"{model.family.title} fine-tuned ({config.mode}) to turn controls into perturbed cells"
    return CellPerturb(model=found.model, what=what, config=config, new_rows=_new_rows(model, found)), notes


def _new_rows(model: Model, found: Adapted) -> dict[str, int]:
    """Return the tensors that hold numbers which no training has seen -> the first row of each that does."""
    old, new = model.network.state_dict(), found.model.network.state_dict()
    first = {name: len(old[name]) if old[name].shape[1:] == new[name].shape[1:] else 0 for name in found.grown}
    return dict.fromkeys(found.fresh, 0) | first


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


def _embedding(screen: Screen, options: PerturbOptions, source: MethodSource) -> tuple[Any, Any, list[str]]:
    """Return the gene embedding (mean over controls that may be seen), its reading cell by cell if wanted, notes."""
    import numpy as np

    from cellwright.tasks.gene_features import GeneTable, ModelContexts, read_gene_table
    from cellwright.verbs.using import ReadOptions

    if source.embedding is not None:
        given = source.embedding
        return (given if isinstance(given, GeneTable) else read_gene_table(given)), None, []
    if source.model is None or options.use == "cells":
        return None, None, []
    reading = ReadOptions(layer=source.read.layer, assume=source.read.assume)
    cells = open_data(source.adata, source.model, reading)
    names = tuple(dict.fromkeys([*screen.genes, *screen.perturbations.all_parts]))
    contexts, rows = ModelContexts(source.model, cells, names, source.run), np.flatnonzero(screen.is_seen_n)
    left_out = contexts.left_out(rows)
    per_cell = ModelContexts(source.model, cells, screen.genes, source.run) if options.per_cell else None
    return contexts.mean(rows), per_cell, [] if left_out is None else [f"gene embedding: {left_out.line()}"]
