"""Scoring of filled-in genes, the half of `cellwright.score` that opens and checks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cellwright.data.cells import Cells, open_cells
from cellwright.data.splits import label_codes
from cellwright.evaluate.apart import check_apart, seen_in_training
from cellwright.evaluate.evaluation import Evaluation
from cellwright.evaluate.filling import FillingStudy
from cellwright.evaluate.filling_report import Framing, evaluate_filling
from cellwright.tasks.unmask import check_unmasks
from cellwright.verbs.scoring import Asked
from cellwright.verbs.using import open_data

LEAST_GROUPS = 5
"""Donors or studies from which on they are resampled whole."""


def evaluate_unmask(asked: Asked) -> tuple[Evaluation, None]:
    """Score genes that were filled in beside simple ways to fill them in."""
    model, config, how = asked.model, asked.config, asked.config.filling
    check_unmasks(model, has_cell_prompt=how.start != "genes")
    if asked.made is not None:
        raise ValueError("made cells belong to the task generate; unmask fills in the genes of real ones")
    if asked.train is None:
        raise ValueError("filled-in genes are scored beside baselines, which need training cells; give train (TRAIN)")
    train = open_cells(asked.train, model.vocab, accepts=model.family.accepts, **config.reading.of_matrix())
    run = None if how.start == "genes" else asked.run  # cells are embedded whole otherwise
    held_out = open_data(asked.held_out, model, config.reading, run=run)
    apart = check_apart(train, held_out, config.group)
    train, num_train = _some(train, how.max_train, config.seed), len(train)
    held_out, num_held_out = _some(held_out, config.num_real, config.seed), len(held_out)
    labels: tuple[np.ndarray | None, np.ndarray | None] = (None, None)
    if asked.label is not None:
        labels = _codes((train, held_out), asked.label)
    groups_n = None
    if config.group is not None:
        code_n, names = label_codes(held_out.obs, config.group)
        groups_n = code_n if len(names) >= LEAST_GROUPS else None
    study = FillingStudy(
        model=model,
        train=train,
        held_out=held_out,
        train_label_m=labels[0],
        label_n=labels[1],
        groups_n=groups_n,
        start=how.start,
        known_fraction=how.known_fraction,
        steps=how.steps,
        shown=how.shown,
        orders=how.orders,
        num_resamples=config.num_resamples,
        seed=config.seed,
        run=asked.run,
    )
    sizes = (
        f"{len(held_out):,} of {num_held_out:,} held-out cells; baselines learn from {len(train):,} of {num_train:,}."
    )
    framing = Framing(
        notes=(sizes, *apart.notes),
        limitations=seen_in_training(model, held_out),
        split_sha256=apart.sha256,
    )
    return evaluate_filling(study, framing), None


def _some(cells: Cells, most: int, seed: int) -> Cells:
    """Return so many cells drawn at random, in their order; all where there are fewer."""
    if len(cells) <= most:
        return cells
    return cells.select(np.sort(np.random.default_rng(seed).permutation(len(cells))[:most]))


def _codes(sources: Sequence[Cells], label: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the codes of the labels of both sets of cells, numbered together."""
    found = [label_codes(cells.obs, label) for cells in sources]
    at = {name: code for code, name in enumerate(sorted({name for _, names in found for name in names}))}
    first, second = (np.array([at[name] for name in names], np.int64)[code_n] for code_n, names in found)
    return first, second
