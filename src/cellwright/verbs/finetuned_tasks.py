"""Tasks of `cellwright.finetune` that have verbs of their own: what was asked, in the words of those verbs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cellwright.tasks.screen import ScreenOptions
from cellwright.verbs.finetuning import FinetuneAsk, FinetuneResult
from cellwright.verbs.integrating import IntegrateOptions, integrate
from cellwright.verbs.multiome import CellColumns, RnaOptions, multiome
from cellwright.verbs.opening import check_new
from cellwright.verbs.perturbing import PerturbConfig, PerturbOptions, perturb

REPORT = "report.html"


def finetune_integrate(asked: FinetuneAsk) -> FinetuneResult:
    """Fine-tune for integration; the model is in the folder ``model`` of the run."""
    if asked.read.tech_batch is None:
        raise ValueError(
            "integrate needs the column of obs with the sequencing batches (read.tech_batch, --tech-batch)"
        )
    _refuse(asked, "split_by", "integration is trained on all cells")
    mode, changes = _mode_of(asked.changes)
    done = integrate(
        asked.adata,
        asked.model,
        tech_batch=asked.read.tech_batch,
        label=asked.label,
        mode=mode,
        out=asked.folder,
        changes=changes,
        config=IntegrateOptions(reading=asked.read, baselines=None if asked.has_rivals else ("pca",)),
        run=asked.run,
    )
    return _result(asked.folder, model=done.model, fit=done.fit, evaluation=done.evaluation)


def finetune_multiome(asked: FinetuneAsk) -> FinetuneResult:
    """Fine-tune on several modalities."""
    if asked.read.backed:
        raise ValueError("several modalities are read into memory; leave out backed (--backed)")
    columns = {"label": asked.label, "tech_batch": asked.read.tech_batch, "split_by": asked.split_by or "cells"}
    columns["split_seed"] = asked.split_seed
    done = multiome(
        asked.adata,
        asked.model,
        out=asked.folder,
        columns=CellColumns(**columns),
        changes=asked.changes,
        rna=RnaOptions(layer=asked.read.layer, assume=asked.read.assume, genes=asked.read.genes),
        run=asked.run,
    )
    return _result(asked.folder, model=done.model, fit=done.fit, evaluation=done.evaluation)


def finetune_perturb(asked: FinetuneAsk) -> FinetuneResult:
    """Fine-tune to predict perturbed cells; the model of all cells is kept in the folder ``model`` of the run."""
    _refuse(asked, "split_by", "perturbations are held out, not groups of cells (see perturb)")
    check_new(asked.folder)
    done = perturb(
        asked.adata,
        options=PerturbOptions(use="cells", keep_model=True, seed=asked.run.seed, graph=asked.has_rivals),
        screen=screen_options(asked),
        model=asked.model,
        config=PerturbConfig().override([f"cells.{change}" for change in asked.changes]),
        run=asked.run,
    )
    evaluation = done.save(asked.folder)
    return _result(asked.folder, model=done.saved.fitted.feed.model, fit=None, evaluation=evaluation)


def screen_options(asked: FinetuneAsk) -> ScreenOptions:
    """Return how a screen is read."""
    read = asked.read
    return ScreenOptions(perturbation=asked.label, layer=read.layer, assume=read.assume, tech_batch=read.tech_batch)


def _mode_of(changes: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Take the mode out of the changes; unset = all weights."""
    modes = [change.partition("=")[2] for change in changes if change.startswith("mode=")]
    return modes[-1] if modes else "full", tuple(change for change in changes if not change.startswith("mode="))


def _refuse(asked: FinetuneAsk, option: str, why: str) -> None:
    if getattr(asked, option) is not None:
        raise ValueError(f"{option} = {getattr(asked, option)!r}: {why}; leave it out")


def _result(folder: Path, **made: Any) -> FinetuneResult:
    return FinetuneResult(folder=folder, report=folder / REPORT if (folder / REPORT).is_file() else None, **made)
