"""What contexts of genes are worth to the graph model of perturbations: a small scFoundation, and real cells.

A small scFoundation is pre-trained on the controls that models may see and on other cells (lung cancer lines, blood,
retina), all brought to the genes of the screen. The graph model then learns held-out combinations and single genes of
Norman et al. in five ways, everything else being the same:

- ``graph``: a vector a gene, learnt from the screen alone;
- ``graph_table``: beside it the vectors that the pre-trained network gives genes before it sees a cell;
- ``graph_context``: the decoder's states of genes, mean over the controls (what ``perturb --model`` does);
- ``graph_cells``: these states control by control (what ``perturb --model --per-cell`` does);
- ``graph_untrained``: as ``graph_context``, by a network with its weights newly drawn.

    python studies/perturb_contexts.py --data FOLDER -o studies/results

FOLDER holds ``norman2019_k562_crispra``, ``celllines_sc_mixology``, ``pbmc_hao2021_1k`` and ``retina_1k`` (``.h5ad``,
counts) and gene sets in ``reference/genesets``. Nothing is chosen by test scores. Takes about four minutes on one
thread; graph models are half as wide as by default and see at most 100 passes.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from common import QUIET, Record, figure, for_steps, markdown
from finetune_modes import Files, read, some
from perturb import NORMAN

from cellwright.data.cells import open_cells
from cellwright.data.gene_graphs import GeneGraph, gene_set_features, gene_set_graph, read_gene_sets
from cellwright.data.perturbation_splits import split_perturbations
from cellwright.evaluate.perturbation import score_predictions
from cellwright.evaluate.perturbation_tables import ALL, SHOWN, PerturbationScores, table_lines
from cellwright.metrics import percentiles
from cellwright.recipes import pretrain_model, recipe
from cellwright.tasks.gene_features import GeneTable, ModelContexts, model_gene_table
from cellwright.tasks.lessons import Screen
from cellwright.tasks.perturb import predict_folds
from cellwright.tasks.perturb_graph import GraphConfig, GraphPerturb, joined_tables
from cellwright.tasks.screen import open_screen

if TYPE_CHECKING:
    from anndata import AnnData

    from cellwright.models import Model

SCREEN, OTHERS = "norman2019_k562_crispra", ("celllines_sc_mixology", "pbmc_hao2021_1k", "retina_1k")
SPLITS = ("double", "single")
COMPARED = ("pearson_delta", "nmse", "pds_cosine")
OTHER_SIDE = ("graph", "additive")
FEWEST_GENES = 3
"""Norman's panel is sparse: cells express 15 of its 500 genes, in the median."""
GRAPH = GraphConfig(width=32, max_epochs=100, patience=20, cells_per_profile=2, cells_to_predict=16)
"""Smaller and shorter than the defaults, so that all of it takes minutes."""


class KeptContexts:
    """Contexts of the controls that may be seen, read once (a `CellContexts`)."""

    def __init__(self, contexts: ModelContexts, rows: np.ndarray):
        self.width, self.genes = contexts.width, contexts.genes
        self._place = {row: at for at, row in enumerate(rows.tolist())}
        self._kept_ngd = contexts.read(rows)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return the states of genes in these cells."""
        return self._kept_ngd[[self._place[row] for row in rows.tolist()]]


def pretraining_cells(
    folder: Path, adata: AnnData, screen: Screen, num: int, others: Sequence[str] = OTHERS
) -> list[AnnData]:
    """Return the seen controls and ``num`` cells of each other study, over genes of the screen alone."""
    wanted = {*screen.genes, *screen.perturbations.all_parts}
    found = [adata[np.flatnonzero(screen.is_seen_n)]]
    found += [some(read(folder, name), num) for name in others]
    found = [cells[:, [gene for gene in cells.var_names if gene in wanted]] for cells in found]
    return [cells[np.asarray((cells.X > 0).sum(axis=1)).ravel() >= FEWEST_GENES].copy() for cells in found]


def pretrained(cells: list[AnnData], steps: int, seed: int) -> tuple[Model, float]:
    """Pre-train ``scfoundation_tiny`` on all genes of the cells; return it and its last validation loss."""
    changes = ["data.num_genes=null", "optim.warmup_steps=20", *for_steps(steps, seed=seed)]
    with TemporaryDirectory() as folder:
        model, fit = pretrain_model(recipe("scfoundation_tiny").override(changes), cells, Path(folder) / "run")
    return model, fit.best_loss


def ways(screen: Screen, adata: AnnData, model: Model, gene_sets: dict, seed: int) -> list[GraphPerturb]:
    """Return the graph models that are compared."""
    parts = screen.perturbations.all_parts
    nodes = tuple(dict.fromkeys([*parts, *screen.genes]))
    graph = gene_set_graph(nodes, gene_sets)
    sets = GeneTable(graph.genes, gene_set_features(graph.genes, gene_sets).astype(np.float32), "gene sets")
    seen = np.flatnonzero(screen.is_seen_n)
    names = tuple(dict.fromkeys([*screen.genes, *parts]))
    contexts = {}
    for name, network in (("graph_context", model), ("graph_untrained", model.fresh(seed))):
        cells = open_cells(adata, network.vocab, accepts=network.family.accepts)
        contexts[name] = ModelContexts(network, cells, names, QUIET)
    tables = {"graph_table": model_gene_table(model)} | {name: found.mean(seen) for name, found in contexts.items()}
    by_cell = KeptContexts(ModelContexts(model, contexts["graph_context"].source, screen.genes, QUIET), seen)
    fed = _graph_model("graph_cells", graph, [sets, tables["graph_context"]], contexts=by_cell)
    return [
        _graph_model("graph", graph, [sets]),
        *(_graph_model(name, graph, [sets, table], gene_features=table) for name, table in tables.items()),
        fed,
    ]


def _graph_model(name: str, graph: GeneGraph, tables: list[GeneTable], **more: Any) -> GraphPerturb:
    features = joined_tables(tables, graph.genes)
    return GraphPerturb(name=name, what=name, config=GRAPH, node_graph=graph, node_features=features, **more)


def add(record: Record, scores: PerturbationScores, where: dict[str, Any], seconds: dict[str, float]) -> None:
    """Add the scores of every method and group, and differences on the same draws of perturbations."""
    for group in dict.fromkeys(row.group for row in scores.rows):
        for method in dict.fromkeys(row.method for row in scores.rows):
            mine = [row for row in scores.rows if (row.group, row.method) == (group, method) and row.metric in SHOWN]
            values = {
                row.metric: {key: round(getattr(row, key), 5) for key in ("value", "low", "high")} for row in mine
            }
            key = {"what": "score", **where, "group": group, "method": method}
            spent = round(seconds[method], 1) if method in seconds else None
            record.add(key, scores=values, num_profiles=mine[0].num_profiles, seconds=spent)
    drawn = {name: tally.resampled(1000, 0) for name, tally in scores.tallies.items()}
    for method, other in itertools.product((name for name in scores.tallies if name.startswith("graph")), OTHER_SIDE):
        found = {}
        for metric in COMPARED if method != other else ():
            value = scores.value(method, metric) - scores.value(other, metric)
            low, high = percentiles(drawn[method][metric] - drawn[other][metric])
            found[metric] = {"value": round(value, 5), "low": round(low, 5), "high": round(high, 5)}
        if found:
            record.add({"what": "difference", **where, "method": method, "other": other}, scores=found)


def table(rows: list[dict[str, Any]]) -> str:
    """Return two tables a split and seed: all profiles, and differences on the same perturbations."""
    parts = []
    for seed, split in itertools.product(sorted({row["seed"] for row in rows}), SPLITS):
        mine = [row for row in rows if (row.get("split"), row["seed"]) == (split, seed)]
        lines = [[row["method"], *shown(row)] for row in mine if row.get("group") == ALL]
        parts.append(f"Held out: {split}, seed {seed}\n\n{markdown(['method', *COMPARED], lines)}")
        lines = [[f"{row['method']} - {row['other']}", *shown(row)] for row in mine if row["what"] == "difference"]
        parts.append(markdown(["difference", *COMPARED], lines))
    return "\n\n".join(parts)


def shown(row: dict[str, Any]) -> list[str]:
    """Return the scores of a row with their intervals."""
    return [figure(row["scores"][metric]) for metric in COMPARED]


def main() -> None:
    """Run both splits and save their rows."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--data", type=Path, required=True, help="folder of the .h5ad files")
    options.add_argument("-o", "--out", type=Path, required=True, help="folder for the rows and the table")
    options.add_argument("--steps", type=int, default=300, help="steps of pre-training")
    options.add_argument("--cells", type=int, default=600, help="cells of each other study")
    options.add_argument("--folds", type=int, default=5)
    options.add_argument("--seeds", type=int, nargs="+", default=[0], help="of screen, splits and all training")
    asked = options.parse_args()
    hashes = {name: file_sha256(asked.data / f"{name}.h5ad") for name in (SCREEN, *OTHERS)}
    record = Record("perturb_contexts", asked, Files(hashes))
    gene_sets: dict = {}
    for path in sorted((asked.data / "reference" / "genesets").glob("*.gmt")):
        gene_sets |= read_gene_sets(path)
    for seed in asked.seeds:
        run_seed(record, asked, gene_sets, seed)
        record.save(table)


def run_seed(record: Record, asked: argparse.Namespace, gene_sets: dict, seed: int) -> None:
    """Pre-train, run both splits and add their rows."""
    adata = read(asked.data, SCREEN)
    screen = open_screen(adata, NORMAN, seed=seed)
    start = time.perf_counter()
    cells = pretraining_cells(asked.data, adata, screen, asked.cells)
    model, loss = pretrained(cells, asked.steps, seed)
    made = {"cells": [cell.n_obs for cell in cells], "genes": len(model.vocab.genes), "loss": loss}
    record.add({"what": "pre-training", "seed": seed}, **made, seconds=round(time.perf_counter() - start))
    methods = ways(screen, adata, model, gene_sets, seed)
    for split in SPLITS:
        folds = split_perturbations(screen.profiles, split, num_folds=asked.folds, seed=seed)
        predictions = predict_folds(screen, folds, methods)
        scores = score_predictions(screen, predictions, split=split, has_cell_scores=False)
        print(f"== {split}, seed {seed}", *table_lines(scores), sep="\n", flush=True)
        add(record, scores, {"split": split, "seed": seed}, dict(predictions.seconds))


def file_sha256(path: Path) -> str:
    """Return the hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
