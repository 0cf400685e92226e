"""Integration: fine-tune a network so that sequencing batches lie together and cell types stay apart.

Source: scGPT's integration recipe (Nature Methods 21:1470; published ``Tutorial_Integration`` and
``examples/finetune_integration.py``). Values of a part of the genes are hidden and predicted, from their tokens and
from the cell embedding (GEP, GEPC), each with a gate for zeros; cells of a minibatch are pushed to be alike or apart
(ECS); a head finds the batch while the network learns to hide it (DAR); the input is normalised by batch (DSBN); the
heads, not the transformer, are told the batch. A family whose network lacks a part trains with the terms it can
answer. No cell type is used.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field

from cellwright.config import some_of
from cellwright.data.cells import Cells
from cellwright.data.loader import CellLoader
from cellwright.data.tech_batches import TECH_BATCH
from cellwright.nn.embed import DomainBatchNorm
from cellwright.nn.heads import ClassHead
from cellwright.objectives import Objective
from cellwright.objectives.cell import Domain, Similarity
from cellwright.objectives.published import scgpt_integration
from cellwright.objectives.value import CellValue, CellZeroGate, MaskedValue, ZeroGate
from cellwright.objectives.views import Clean, RandomMask
from cellwright.protocols import Loader, Term
from cellwright.tasks.finetuning import FinetuneConfig, Rows, fit_objective, new_class_head, to_finetune
from cellwright.train.config import TrainConfig
from cellwright.types import Draw

HEAD = "domain"
LEAST_CELLS = 10
"""Cells of a sequencing batch below which its statistics are not worth having."""
_PUBLISHED = scgpt_integration()


class IntegrateConfig(FinetuneConfig):
    """How a model is fine-tuned for integration; the defaults are the published ones but for ``train.keep``."""

    batch_size: int = Field(64, ge=2)
    """Cells a step."""
    num_genes: int = Field(1200, ge=10)
    """Genes that vary most within batches; the network is fed these alone, silent ones included where it can be."""
    hidden_fraction: float = Field(_PUBLISHED.view_options["fraction"], gt=0, lt=1)
    """Part of each cell's values that is hidden in training."""
    weights: dict[str, float] = dict(_PUBLISHED.terms)
    """Term -> weight: masked_value, zero_gate, cell_value, cell_zero_gate, similarity, domain; 0 = without."""
    similarity_threshold: float = Field(_PUBLISHED.term_options["similarity"]["threshold"], ge=0, le=1)
    """Cosine at which two cells are rather pushed together than apart."""
    num_layers: int = Field(3, ge=1)
    """Layers of the head that finds the batch."""
    valid_fraction: float = Field(0.1, ge=0, le=0.5)
    """Part of each batch whose losses are only watched."""
    parts: dict[str, Any] = {}
    """Changes to the architecture beyond the parts that the family has for integration: input_norm=batch, say."""
    is_settled: bool = True
    """After training, take the statistics of batch norms anew over all training cells, nothing hidden. Published: those
    that training ran up, a tenth from each step, on cells with hidden values."""
    redraw: tuple[str, ...] = ()
    """Tensors newly drawn that could be kept. Published: value_head.net.0.weight and cell_value_head.project, which
    did not fit once batches were added; here they are kept, and what is added to them begins at zero."""
    train: TrainConfig = TrainConfig(max_epochs=15)
    """Length, precision, checkpoints."""


def check_config(config: IntegrateConfig) -> None:
    """Refuse weights of no term, and a choice of weights that the adversarial term would spoil."""
    for name in config.weights:
        if name not in _PUBLISHED.terms:
            raise ValueError(f"weights.{name}: no such term; there are {', '.join(_PUBLISHED.terms)}")
    if config.train.keep == "best" and config.weights.get("domain", 0) > 0:
        raise ValueError(
            "train.keep = 'best' goes by a loss that falls when batches are easy to tell apart (domain); keep the last "
            "weights, or set weights.domain = 0"
        )


def integration_objective(network: Any, head: ClassHead | None, config: IntegrateConfig) -> Objective:
    """Return the recipe's terms that a network can answer, and the view that asks them.

    Parameters
    ----------
    head
        Finds the sequencing batch, its gradient reversed; ``None`` = without.
    """
    terms: dict[str, Term] = {
        "masked_value": MaskedValue(),
        "zero_gate": ZeroGate(),
        "cell_value": CellValue(),
        "cell_zero_gate": CellZeroGate(),
    }
    terms = {name: term for name, term in terms.items() if term.needs <= network.produces and config.weights.get(name)}
    view = RandomMask(fraction=config.hidden_fraction) if terms else Clean()
    terms["similarity"] = Similarity(threshold=config.similarity_threshold)
    if head is not None:
        terms["domain"] = Domain(head)
    return Objective(view, {name: (config.weights.get(name, 0.0), term) for name, term in terms.items()})


def train_integrator(
    model: Any,
    source: Cells,
    names: Sequence[str],
    genes: Sequence[str],
    *,
    config: IntegrateConfig,
    folder: Path,
    unlearnt: Collection[str] = (),
    is_progress_shown: bool = False,
) -> tuple[Any, Any]:
    """Fine-tune a copy of ``model`` for integration; it is not saved.

    Parameters
    ----------
    model
        A `cellwright.models.Model`, with the parts for sequencing batches where its family has any; not changed.
    source
        Cells with codes under ``tech_batch``.
    names
        Names of the codes.
    genes
        Genes that the network is fed.
    unlearnt
        See `cellwright.tasks.finetuning.fit_objective`.

    Returns
    -------
    The fine-tuned model, and the `cellwright.train.run.FitResult`.

    Raises
    ------
    ValueError
        When a sequencing batch has too few cells, or an option cannot be used.
    """
    check_config(config)
    code_n = source.codes(TECH_BATCH)
    check_batches(code_n, names)
    silent = {"genes": "panel"} if model.family.has_silent_genes else {}
    panel = {"panel": tuple(genes), "max_length": len(genes) + 4}  # and the special tokens of any family
    config = config.model_copy(update={"inputs": {**silent, **panel, **config.inputs}})
    tuned = to_finetune(model, config)
    head = None
    if config.weights.get("domain"):
        head = new_class_head(
            tuned.network.width, len(names), seed=config.train.seed, num_layers=config.num_layers, kind="domain"
        )
    objective = integration_objective(tuned.network, head, config)
    loaders = batch_loaders(tuned.network, source, config)
    result = fit_objective(
        tuned, objective, loaders, config=config, folder=folder, unlearnt=unlearnt, is_progress_shown=is_progress_shown
    )
    if config.is_settled:
        settle_norms(tuned, loaders[0])
    tuned.heads = {} if head is None else {HEAD: head.eval()}
    tuned.classes = {} if head is None else {HEAD: tuple(names)}
    return tuned, result


def settle_norms(tuned: Any, loader: Loader) -> None:
    """Let every batch norm have the mean and variance of the cells as they will be embedded: whole, by final weights.

    What training runs up is a mean over its last dozen steps of the batch: after a short training, half of the start
    (mean 0, variance 1) is still in it, and each batch is then normalised otherwise.
    """
    norms = [module for module in tuned.network.modules() if isinstance(module, torch.nn.BatchNorm1d)]
    if not norms:
        return
    tokenize, device = tuned.tokenizer(), next(tuned.network.parameters()).device
    momentum = {norm: norm.momentum for norm in norms}
    tuned.network.eval()  # no dropout: as cells are embedded
    for norm in norms:
        norm.train().reset_running_stats()
        norm.momentum = None  # the mean over all minibatches, which are of like size
    try:
        with torch.no_grad():
            for cells in loader:
                tuned.network(tokenize(cells, Draw(0)).to(device), ())
    finally:
        for norm in norms:
            norm.eval().momentum = momentum[norm]


def check_batches(code_n: np.ndarray, names: Sequence[str]) -> None:
    """Refuse cells of one sequencing batch, and batches of too few cells."""
    count_k = np.bincount(code_n, minlength=len(names))
    if (count_k > 0).sum() < 2:
        raise ValueError(
            f"all cells are of the sequencing batch {names[int(count_k.argmax())]!r}; nothing to integrate"
        )
    if small := [f"{names[k]!r} ({count_k[k]})" for k in np.flatnonzero((count_k > 0) & (count_k < LEAST_CELLS))]:
        raise ValueError(
            f"sequencing batches of fewer than {LEAST_CELLS} cells: {some_of(small)}; leave these cells out, or join "
            "the batch with a like one"
        )


def batch_rows(code_n: np.ndarray, valid_fraction: float, seed: int) -> Rows:
    """Return cells to train on and to watch: the same part of each batch, of which at least two cells or none."""
    rng, valid = np.random.default_rng(seed), []
    for code in np.unique(code_n):
        rows = rng.permutation(np.flatnonzero(code_n == code))
        num = round(valid_fraction * len(rows))
        valid.append(rows[: num if num >= 2 else 0])
    held = np.sort(np.concatenate(valid)).astype(np.int64)
    return Rows(train=np.setdiff1d(np.arange(len(code_n)), held), valid=held)


def batch_loaders(network: Any, source: Cells, config: IntegrateConfig) -> list[CellLoader]:
    """Return training minibatches and those to watch.

    A network that normalises by batch gets minibatches of one sequencing batch each, as published; others mixed ones.
    """
    seed, code_n = config.train.seed, source.codes(TECH_BATCH)
    rows = batch_rows(code_n, config.valid_fraction, seed)
    is_by_batch = any(isinstance(module, DomainBatchNorm) for module in network.modules())
    # one group of all: shared evenly, so that no minibatch is left with a single cell, which no similarity can be of
    group_n = code_n if is_by_batch else np.zeros_like(code_n)
    loaders: list[CellLoader] = [
        CellLoader(source, rows.train, config.batch_size, seed=seed, groups=group_n[rows.train])
    ]
    if len(rows.valid):
        loaders.append(
            CellLoader(source, rows.valid, config.batch_size, seed=seed, shuffle=False, groups=group_n[rows.valid])
        )
    return loaders


def joined_names(known: Sequence[str], found: Sequence[str]) -> tuple[str, ...]:
    """Return the names of sequencing batches, those that a model knows first, so that their codes stay."""
    return tuple(dict.fromkeys([*known, *found]))


def architecture_changes(model: Any, num_batches: int, config: IntegrateConfig) -> Mapping[str, Any]:
    """Return the fields of the architecture record that integration changes; empty for a family without such parts."""
    parts = model.family.tech_batch_parts
    return ({} if parts is None else dict(parts(num_batches))) | config.parts
