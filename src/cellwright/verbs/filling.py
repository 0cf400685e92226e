"""Cells made by filling in unknown genes: from known genes, from cell embeddings, from cells of a kind. Prints nothing.

This is `cellwright.generate` for families that unmask; those that write sentences have `cellwright.verbs.making`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from cellwright.config import Config, did_you_mean, some_of
from cellwright.models import Model
from cellwright.tasks.inference import InferenceOptions, MachineOptions
from cellwright.tasks.known_genes import Question, ask, cell_prompts, draw_known, fed_ids, named_genes
from cellwright.tasks.unmask import FilledCells, UnmaskConfig, check_unmasks, unmask_cells
from cellwright.tasks.unmask_orders import order_of
from cellwright.verbs.opening import ReadOptions, open_data
from cellwright.verbs.using import provenance

if TYPE_CHECKING:
    from anndata import AnnData

    from cellwright.data.cells import Cells

VALUES = "bins 0 .. {top:g}, ranks within a cell: known as given, others as predicted; not counts"


class FillConfig(Config):
    """What unknown genes are filled in from, and how."""

    known_genes: tuple[str, ...] = ()
    """Genes that are known of every cell of the data; all others are filled in."""
    known_fraction: float | None = None
    """Known part of each cell's genes, 0 .. 1, drawn at random, in the place of names."""
    from_embedding: bool = False
    """Start from the embedding of each cell of the data, and no gene."""
    start: Literal["mean", "cells"] = "mean"
    """What cells of a kind start from: the mean embedding of the data's cells of that kind, or those of single cells,
    drawn at random."""
    only: tuple[str, ...] = ()
    """Genes to fill in; empty = all of the model's that are not known."""
    steps: int = Field(1, ge=1)
    """Steps K: in each, 1/K of the unknown genes join the known ones. 1 = all at once."""
    order: str = "confident"
    """Which join first: confident | agreement | gate | random | fixed."""
    reading: ReadOptions = ReadOptions()
    """How the data are read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FillRequest:
    """What `cellwright.generate` was asked for."""

    kinds: Sequence[Mapping[str, str]]
    """Column -> value, of cells of a kind; empty = the data's own cells."""
    num_cells: int
    seed: int
    force: Mapping[str, int]
    config: FillConfig
    run: MachineOptions


def fill(model: Model, data: Any, asked: FillRequest) -> AnnData:
    """Fill in the unknown genes of cells; see `cellwright.generate`."""
    has_prompt = bool(asked.kinds) or asked.config.from_embedding
    check_unmasks(model, has_cell_prompt=has_prompt)
    _check(asked)
    how = UnmaskConfig(steps=asked.config.steps, order=asked.config.order, seed=asked.seed)
    if how.steps > 1:
        order_of(how.order, model, seed=how.seed)
    if data is None:
        raise ValueError(
            f"{model.family.title} fills in the genes of cells; give the data that they, or cells of that kind, are in"
        )
    run = _run(asked)
    is_embedded = bool(asked.kinds) or asked.config.from_embedding  # else no gene is left out
    source = open_data(data, model, asked.config.reading, run=run if is_embedded else None)
    gene_ids = fed_ids(model)
    question, obs = _of_kinds(model, source, asked, run) if asked.kinds else _of_cells(model, source, asked, run)
    question = _only(model, _forced(model, question, asked.force), asked.config.only)
    kept_g = (question.is_known_ng | question.is_asked_ng).any(0)
    filled = unmask_cells(model, question, how, options=run)
    record = provenance(model, source, run) | {
        "values": VALUES.format(top=filled.top) if filled.top is not None else "values as the model is fed them",
        "start": _start(asked),
        "force": dict(asked.force),
        "how": how.record(),
    }
    return _as_anndata(model, filled, obs, gene_ids, kept_g, record)


def _run(asked: FillRequest) -> InferenceOptions:
    if isinstance(asked.run, InferenceOptions):
        return asked.run
    return InferenceOptions(**asked.run.record(), seed=asked.seed)


def _check(asked: FillRequest) -> None:
    """Refuse starts that do not go together."""
    config = asked.config
    starts = {
        "prompt": bool(asked.kinds),
        "known_genes": bool(config.known_genes),
        "known_fraction": config.known_fraction is not None,
        "from_embedding": config.from_embedding,
    }
    given = [name for name, is_given in starts.items() if is_given]
    if len(given) != 1:
        what = f"{' and '.join(given)} do not go together" if given else "it is not said what cells start from"
        raise ValueError(f"{what}; give one of {', '.join(starts)}")
    if not asked.kinds and asked.num_cells != 1:
        raise ValueError(f"num_cells = {asked.num_cells}: every cell of the data is filled in once; leave it out")
    if config.start != "mean" and not asked.kinds:
        raise ValueError(f"start = {config.start!r} is for cells of a kind (prompt); leave it out")
    if asked.kinds and config.start == "mean" and asked.num_cells != 1:
        raise ValueError(
            f"num_cells = {asked.num_cells}: cells from one mean embedding are all the same; take start = cells"
        )


def _of_cells(model: Model, source: Cells, asked: FillRequest, run: InferenceOptions) -> tuple[Question, Any]:
    """Ask for the unknown genes of the data's own cells."""
    config, gene_ids = asked.config, fed_ids(model)
    is_there_g = np.isin(gene_ids, source.contract.genes.id_g)
    is_known_ng = np.zeros((len(source), len(gene_ids)), bool)
    cell_nd = None
    if config.from_embedding:
        cell_nd = cell_prompts(model, source, run)
    elif config.known_genes:
        is_named_g = named_genes(model, config.known_genes, gene_ids)
        if (is_named_g & ~is_there_g).any():
            absent = [model.vocab.tokens[i] for i in gene_ids[is_named_g & ~is_there_g]]
            raise ValueError(
                f"{len(absent)} known genes are not in {source.contract.source}: {some_of(absent, 3)}; their values "
                "are not known"
            )
        is_known_ng[:] = is_named_g
    else:
        is_known_ng[:, is_there_g] = draw_known(
            len(source), int(is_there_g.sum()), config.known_fraction, seed=asked.seed
        )
    question = ask(model, source, is_known_ng, gene_ids=gene_ids, cell_nd=cell_nd, options=run)
    return question, source.obs


def _of_kinds(model: Model, source: Cells, asked: FillRequest, run: InferenceOptions) -> tuple[Question, Any]:
    """Ask for all genes of cells that start from the embeddings of the data's cells of each kind."""
    import pandas as pd

    prompts, words = [], []
    generator = np.random.default_rng(asked.seed)
    for kind in asked.kinds:
        rows = _rows_of(source, kind)
        if asked.config.start == "cells":
            is_short = asked.num_cells > len(rows)  # then some start from the same cell
            rows = np.sort(generator.choice(rows, asked.num_cells, replace=is_short))
        kind_nd = cell_prompts(model, source.select(rows), run)
        prompts.append(kind_nd.mean(0, keepdims=True) if asked.config.start == "mean" else kind_nd)
        words += [dict(kind)] * len(prompts[-1])
    cell_nd = np.concatenate(prompts).astype(np.float32)
    gene_ids = fed_ids(model)
    none_ng = np.zeros((len(cell_nd), len(gene_ids)), bool)
    question = Question(
        gene_ids=gene_ids,
        value_ng=np.zeros(none_ng.shape, np.float32),
        is_known_ng=none_ng,
        is_asked_ng=~none_ng,
        row_n=np.arange(len(cell_nd)),
        cell_nd=cell_nd,
    )
    obs = pd.DataFrame(words, index=[f"made_{i}" for i in range(len(cell_nd))], dtype=object)
    return question, obs.apply(pd.Categorical)


def _rows_of(source: Cells, kind: Mapping[str, str]) -> np.ndarray:
    obs, is_own_n = source.obs, np.ones(len(source), bool)
    for column, value in kind.items():
        if column not in obs.columns:
            near = did_you_mean(column, list(obs.columns)) or f"; it has {some_of([str(c) for c in obs.columns])}"
            raise ValueError(f"{source.contract.source} has no column {column!r}{near}")
        own = obs[column]
        known = sorted({str(name) for name in own.dropna()})
        if str(value) not in known:
            near = did_you_mean(str(value), known) or f"; there are {some_of(known)}"
            raise ValueError(f"no cell of {source.contract.source} has {column} = {value!r}{near}")
        is_own_n &= (own.astype(str) == str(value)).to_numpy() & own.notna().to_numpy()
    if not is_own_n.any():
        words = ", ".join(f"{column} = {value!r}" for column, value in kind.items())
        raise ValueError(f"no cell of {source.contract.source} has {words} at once")
    return np.flatnonzero(is_own_n)


def _forced(model: Model, question: Question, force: Mapping[str, int]) -> Question:
    """Return the question with genes known to have given values in every cell."""
    if not force:
        return question
    top = getattr(model.config, "num_bins", None)
    value_ng, is_known_ng = question.value_ng.copy(), question.is_known_ng.copy()
    for gene, level in force.items():
        is_it_g = named_genes(model, [gene], question.gene_ids)
        if top is not None and not 0 <= level < top:
            raise ValueError(f"{gene} is given the value {level}; values are bins, 0 .. {top - 1}")
        value_ng[:, is_it_g], is_known_ng[:, is_it_g] = level, True
    return replace(
        question, value_ng=value_ng, is_known_ng=is_known_ng, is_asked_ng=question.is_asked_ng & ~is_known_ng
    )


def _only(model: Model, question: Question, names: Sequence[str]) -> Question:
    if not names:
        return question
    is_asked_ng = question.is_asked_ng & named_genes(model, names, question.gene_ids)
    if not is_asked_ng.any():
        raise ValueError("all genes of only are known; there is nothing to fill in")
    return replace(question, is_asked_ng=is_asked_ng)


def _start(asked: FillRequest) -> dict[str, Any]:
    config = asked.config
    if asked.kinds:
        return {
            "from": f"embeddings of cells of a kind ({config.start})",
            "kinds": [dict(kind) for kind in asked.kinds],
        }
    if config.from_embedding:
        return {"from": "embedding of each cell"}
    if config.known_genes:
        return {"from": "known genes", "genes": list(config.known_genes)}
    return {"from": "known genes, drawn at random", "fraction": config.known_fraction}


def _as_anndata(
    model: Model, filled: FilledCells, obs: Any, gene_ids: np.ndarray, kept_g: np.ndarray, record: dict[str, Any]
) -> AnnData:
    import pandas as pd
    from anndata import AnnData

    from cellwright.data.write import storable

    value_ng = np.clip(filled.value_ng, 0, filled.top)[:, kept_g].astype(np.float32)
    layers = {"is_known": filled.step_ng[:, kept_g] == 0, "step": filled.step_ng[:, kept_g]}
    if filled.error_ng is not None:
        layers["expected_error"] = filled.error_ng[:, kept_g]
    var = pd.DataFrame(index=[model.vocab.tokens[i] for i in gene_ids[kept_g]])
    return AnnData(value_ng, obs=obs, var=var, layers=layers, uns={"cellwright": {"generated": storable(record)}})
