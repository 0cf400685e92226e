"""What `tasks.py` measures: for every task a piece of work on real cells, through its public verb.

A case opens its data and builds its network, and hands back what it is going to do as a `Job`. Networks are drawn anew,
or trained for a few steps where a verb asks for a trained one: neither time nor memory depends on what weights say.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd

import cellwright
from cellwright.models import FAMILIES, Model, new_model
from cellwright.tasks.perturb_cells import CellPerturbConfig
from cellwright.tasks.perturb_graph import GraphConfig
from cellwright.verbs import CellColumns, NetworkOptions, ResponseColumns

RUN = cellwright.InferenceOptions(progress=False, device="cpu")
NORMAN = cellwright.ScreenOptions(perturbation="perturbation", tech_batch="batch", total="total_counts_all_genes")
BASELINES = ("pca", "centred_pca", "harmony")
KNOWN = {
    "SPI1": ["CD14", "CSF1R", "LYZ", "CST3", "FCGR3A", "TYROBP", "FCER1G", "S100A8", "S100A9", "ITGAM"],
    "STAT1": ["ISG15", "IFI6", "IFIT1", "IFIT2", "IFIT3", "MX1", "OAS1", "IRF1", "CXCL10", "GBP1"],
    "IRF8": ["CD74", "HLA-DRA", "CST3", "IRF1", "CIITA", "CTSS", "TLR4", "IL12B", "CYBB", "ISG15"],
}
MAKE = {"word": "generate", "given": ["cell_type"], "asks_genes": True}
Stages = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a case finds its data and leaves its files, and how large it is."""

    data: Path
    work: Path
    is_small: bool

    def cells(self, file: str, num: int, *, skip: int = 0, where: str | None = None) -> anndata.AnnData:
        """Return so many cells of a file, evenly spaced, a tenth of them where the case is to be small.

        ``skip`` = begin at this cell; ``where`` = leave out cells that have False or no value in this column.
        """
        adata = anndata.read_h5ad(self.data / f"{file}.h5ad")
        if where is not None:
            values = adata.obs[where]
            adata = adata[(values if values.dtype == bool else values.notna()).to_numpy()]
        rows = np.arange(skip, adata.n_obs)[:: max(1, (adata.n_obs - skip) // self.num(num))][: self.num(num)]
        return adata[rows].copy()

    def num(self, full: int, small: int | None = None) -> int:
        """Return a number of cells, epochs or steps, a tenth of it where the case is to be small."""
        return full if not self.is_small else max(1, full // 10) if small is None else small


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is timed, and what it is."""

    what: Mapping[str, Any]
    """Data, cells, genes, network, length of training."""
    call: Callable[[], Stages]
    """Do it; returns seconds by stage, as far as the verb tells them."""


def network(family: str, genes: Any, size: str = "tiny", **changes: Any) -> Model:
    """Return a network of these genes with weights newly drawn."""
    chosen = FAMILIES[family]
    config = chosen.config.read(chosen.sizes[size].record() | changes, size)
    return new_model(family, cellwright.GeneVocab.from_genes(list(genes), chosen.specials), config)


def about(adata: anndata.AnnData, file: str, model: Model | None, **more: Any) -> dict[str, Any]:
    """Return what a row says of data and network."""
    found: dict[str, Any] = {"data": file, "cells": adata.n_obs, "genes": adata.n_vars}
    if model is not None:
        found |= {"network": f"{model.family.title}, {model.num_parameters:,} parameters"}
    return found | more


def cost_of(evaluation: Any) -> Stages:
    """Return the seconds that an evaluation says its stages took."""
    return dict(evaluation.cost.seconds)


def seconds_of_saving(result: Any, place: Place) -> Stages:
    """Write a result and return how long that took."""
    begin = time.perf_counter()
    result.save(place.work / "run")
    return {"drawing and writing": time.perf_counter() - begin}


def embed(place: Place) -> Job:
    """Embed whole cells, zero-shot."""
    adata = place.cells("pbmc3k", 500)
    model = network("scgpt", adata.var_names, "tiny" if place.is_small else "small")

    def call() -> Stages:
        cellwright.embed(adata, model, run=RUN)
        return {}

    return Job(what=about(adata, "pbmc3k", model), call=call)


def pretrain(place: Place) -> Job:
    """Pre-train a new network."""
    adata, steps = place.cells("pbmc_facs_zheng", 2000), place.num(60)
    changes = [f"train.max_steps={steps}", "train.max_epochs=null", "data.num_genes=1200", "train.accelerator=cpu"]

    def call() -> Stages:
        cellwright.pretrain(adata, recipe="scgpt_tiny", out=place.work / "run", changes=changes)
        return {}

    about_it = about(adata, "pbmc_facs_zheng", None, network="recipe scgpt_tiny, 1,200 genes", steps=steps)
    return Job(what=about_it, call=call)


def annotate(place: Place) -> Job:
    """Fine-tune for cell types, score beside baselines, report; then label other cells."""
    adata = place.cells("kang2018_ctrl_8donors", 2000, where="cell_type")
    others = place.cells("kang2018_ctrl_8donors", 2000, skip=3)
    model, epochs = network("scgpt", adata.var_names), place.num(3, 1)
    changes = [f"train.max_epochs={epochs}", "train.accelerator=cpu"]

    def call() -> Stages:
        done = cellwright.finetune(
            adata, model, label="cell_type", split_by="donor", out=place.work / "run", changes=changes, run=RUN
        )
        cellwright.annotate(others, done.model, run=RUN)
        return cost_of(done.evaluation)

    return Job(what=about(adata, "kang2018_ctrl_8donors", model, epochs=epochs, labelled=others.n_obs), call=call)


def _integrate(place: Place, mode: str) -> Job:
    adata = place.cells("pbmc_multistudy_integration", 1500)
    model, epochs, genes = network("scgpt", adata.var_names, max_length=1200), place.num(1, 1), place.num(300)
    options = cellwright.IntegrateOptions(baselines=BASELINES, unlabelled="unknown")
    changes = [f"train.max_epochs={epochs}", f"num_genes={genes}", "train.accelerator=cpu"]

    def call() -> Stages:
        done = cellwright.integrate(
            adata, model, tech_batch="batch", label="cell_type_coarse", mode=mode, out=place.work / "run",
            changes=[] if mode == "zero_shot" else changes, config=options, run=RUN,
        )  # fmt: skip
        return cost_of(done.evaluation)

    more = {} if mode == "zero_shot" else {"epochs": epochs, "genes_fed": genes}
    return Job(what=about(adata, "pbmc_multistudy_integration", model, **more), call=call)


def integrate_zero_shot(place: Place) -> Job:
    """Embed several studies as the model is, score beside baselines, report."""
    return _integrate(place, "zero_shot")


def integrate_fine_tuned(place: Place) -> Job:
    """Fine-tune on several studies, score beside baselines, report."""
    return _integrate(place, "full")


def multiome(place: Place) -> Job:
    """Train on genes beside proteins, embed, tell proteins, score, report."""
    adata = place.cells("cite_malt_2k", 500, where="has_protein")
    model, epochs, genes = network("scgpt", adata.var_names), place.num(3, 1), place.num(300, 50)
    changes = [f"train.max_epochs={epochs}", f"num_genes={genes}", "train.accelerator=cpu"]

    def call() -> Stages:
        done = cellwright.multiome(
            adata, model, out=place.work / "run", columns=CellColumns(label="cell_type"), changes=changes, run=RUN
        )
        return cost_of(done.evaluation)

    about_it = about(adata, "cite_malt_2k", model, epochs=epochs, genes_fed=genes)
    return Job(what=about_it, call=call)


def _screen(place: Place) -> tuple[anndata.AnnData, Model, cellwright.PerturbConfig]:
    adata = anndata.read_h5ad(place.data / "norman2019_k562_crispra.h5ad")[:: 4 if place.is_small else 2].copy()
    config = cellwright.PerturbConfig(
        graph=GraphConfig(max_epochs=place.num(10)),
        cells=CellPerturbConfig(max_epochs=place.num(2, 1), cells_per_profile=8, pool=place.num(100, 20), device="cpu"),
    )
    parts = sorted({part for name in adata.obs["perturbation"].astype(str) for part in name.split("+")})
    return adata, network("scgpt", dict.fromkeys([*adata.var_names, *parts])), config


def perturb_graph(place: Place) -> Job:
    """Train graph models on two folds of a screen, score beside baselines, report."""
    adata, _, config = _screen(place)

    def call() -> Stages:
        options = cellwright.PerturbOptions(folds=2, split="single")
        result = cellwright.perturb(adata, options=options, screen=NORMAN, config=config, run=RUN)
        return dict(result.record["seconds"]) | seconds_of_saving(result, place)

    what = about(adata, "norman2019_k562_crispra", None, epochs=config.graph.max_epochs, folds=2)
    return Job(what=what | {"network": f"graph model of width {config.graph.width}"}, call=call)


def perturb_cells(place: Place) -> Job:
    """Fine-tune a cell model and train graph models on two folds of a screen, score, report."""
    adata, model, config = _screen(place)

    def call() -> Stages:
        options = cellwright.PerturbOptions(folds=2, split="single", use="cells")
        result = cellwright.perturb(adata, options=options, screen=NORMAN, model=model, config=config, run=RUN)
        return dict(result.record["seconds"]) | seconds_of_saving(result, place)

    what = about(adata, "norman2019_k562_crispra", model, epochs=config.cells.max_epochs, folds=2)
    return Job(what=what | {"cells_per_profile": config.cells.cells_per_profile}, call=call)


def reverse_perturb(place: Place) -> Job:
    """Rank perturbations by the states that held-out combinations leave, report."""
    adata, _, config = _screen(place)

    def call() -> Stages:
        options = cellwright.ReverseOptions(folds=2, split="double", top="1,5")
        result = cellwright.reverse_perturb(adata, options=options, screen=NORMAN, config=config, run=RUN)
        return dict(cost_of(result.evaluation)) | seconds_of_saving(result, place)

    what = about(adata, "norman2019_k562_crispra", None, epochs=config.graph.max_epochs, folds=2)
    return Job(what=what | {"network": f"graph model of width {config.graph.width}"}, call=call)


def _grn(place: Place, way: str, **options: Any) -> Job:
    adata = place.cells("pbmc3k", 1000)
    model = network("scgpt", adata.var_names, max_length=1200)
    config = NetworkOptions(from_=way, min_targets=2, **options)

    def call() -> Stages:
        done = cellwright.grn(
            adata, model, regulators=list(KNOWN), targets=KNOWN, out=place.work / "run", config=config, run=RUN
        )
        return cost_of(done.evaluation)

    return Job(what=about(adata, "pbmc3k", model, regulators=len(KNOWN), **options), call=call)


def grn_vectors(place: Place) -> Job:
    """Rank targets by vectors of genes in the context of cells, score beside baselines, report."""
    return _grn(place, "vectors")


def grn_attention(place: Place) -> Job:
    """Rank targets by attention, score beside baselines, report."""
    return _grn(place, "attention", num_cells=place.num(200), num_genes=1200)


def _reference(place: Place) -> tuple[anndata.AnnData, anndata.AnnData, Model]:
    reference = place.cells("kang2018_ctrl_8donors", 2000, where="cell_type")
    return reference, place.cells("kang2018_ctrl_8donors", 1000, skip=3), network("scgpt", reference.var_names)


def map_reference_build(place: Place) -> Job:
    """Embed reference cells and index them."""
    reference, _, model = _reference(place)

    def call() -> Stages:
        cellwright.index_reference(reference, model, labels=["cell_type"], out=place.work / "index", run=RUN)
        return {}

    return Job(what=about(reference, "kang2018_ctrl_8donors", model), call=call)


def map_reference_map(place: Place) -> Job:
    """Place cells on an index that is there."""
    reference, query, model = _reference(place)
    index = cellwright.index_reference(reference, model, labels=["cell_type"], run=RUN)

    def call() -> Stages:
        cellwright.map_reference(query, model, index, run=RUN)
        return {}

    return Job(what=about(query, "kang2018_ctrl_8donors", model, reference=reference.n_obs), call=call)


def generate_unmask(place: Place) -> Job:
    """Fill in half of the genes of cells, in three steps."""
    adata = place.cells("pbmc_facs_zheng", 300)
    changes = [
        "data.num_genes=400", "inputs.genes=panel", "objective.terms.expected_error=1", "train.max_epochs=null",
        f"train.max_steps={place.num(20, 2)}", "inputs.max_length=402", "train.accelerator=cpu", "batch_size=8",
    ]  # fmt: skip
    model = cellwright.pretrain(adata, out=place.work / "model", changes=changes).model
    config = cellwright.FillConfig(known_fraction=0.5, steps=3, order="confident")

    def call() -> Stages:
        cellwright.generate(model, adata, config=config, run=RUN)
        return {}

    return Job(what=about(adata, "pbmc_facs_zheng", model, genes_fed=400, steps=3), call=call)


def generate_make(place: Place) -> Job:
    """Write cells of a type, gene after gene."""
    adata, num = place.cells("pbmc_facs_zheng", 1000), place.num(200)
    changes = [
        "data.metadata.cell_type=cell_type_coarse", "data.num_genes=400", "train.max_epochs=null",
        f"train.max_steps={place.num(20, 2)}", "train.accelerator=cpu",
        'objective.terms={"next_entity": 1, "next_level": 0.1}',
        f"objective.view_options={json.dumps({'tasks': [MAKE]})}",
    ]  # fmt: skip
    model = cellwright.pretrain(adata, recipe="scmulan_tiny", out=place.work / "model", changes=changes).model
    kind = str(adata.obs["cell_type_coarse"].value_counts().index[0])

    def call() -> Stages:
        cellwright.generate(model, prompt={"cell_type": kind}, num_cells=num, max_genes=100, run=RUN)
        return {}

    return Job(
        what=about(adata, "pbmc_facs_zheng", model, genes_fed=400) | {"cells": num, "most_genes": 100}, call=call
    )


def denoise(place: Place) -> Job:
    """Predict every gene of cells at five times their depth."""
    adata = place.cells("pbmc3k", 60)
    model = network("scfoundation", adata.var_names)

    def call() -> Stages:
        cellwright.denoise(adata, model, depth="f5", run=RUN)
        return {}

    return Job(what=about(adata, "pbmc3k", model), call=call)


def gene_contexts(place: Place) -> Job:
    """Read the state of every gene in every cell, block by block; nothing is kept."""
    adata = place.cells("pbmc3k", 60)
    model = network("scfoundation", adata.var_names)

    def call() -> Stages:
        for _, block_ngd in cellwright.gene_contexts(adata, model, run=RUN):
            del block_ngd
        return {}

    return Job(what=about(adata, "pbmc3k", model), call=call)


def drug_response(place: Place) -> Job:
    """Train a network of ln IC50, lines held out, score beside baselines, report."""
    folder, lines = place.data / "papers", place.num(150, 20)
    cells = anndata.read_h5ad(folder / "gdsc_tgsa_cell_lines.h5ad")
    pairs = pd.read_csv(folder / "gdsc_tgsa_ic50.csv.gz")
    kept = cells.obs_names[:lines]
    cells, pairs = cells[kept].copy(), pairs[pairs["depmap_id"].isin(kept)].copy()
    columns, epochs = ResponseColumns(line="depmap_id", smiles="isomeric_smiles"), place.num(2, 1)
    changes = [f"train.max_epochs={epochs}", "train.accelerator=cpu"]

    def call() -> Stages:
        done = cellwright.drug_response(
            pairs, cells, drugs=folder / "gdsc_tgsa_drugs.csv", out=place.work / "run", changes=changes, columns=columns
        )
        return cost_of(done.evaluation)

    what = about(cells, "papers/gdsc_tgsa", None, pairs=len(pairs), epochs=epochs)
    return Job(what=what | {"network": "drug graphs beside expression"}, call=call)


CASES: dict[str, Callable[[Place], Job]] = {
    case.__name__: case
    for case in (
        embed, pretrain, annotate, integrate_zero_shot, integrate_fine_tuned, multiome, perturb_graph, perturb_cells,
        reverse_perturb, grn_vectors, grn_attention, map_reference_build, map_reference_map, generate_unmask,
        generate_make, denoise, gene_contexts, drug_response,
    )
}  # fmt: skip
