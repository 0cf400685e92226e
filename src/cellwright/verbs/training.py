"""Pre-training a new model, and what all verbs that leave a run folder share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellwright.config import did_you_mean
from cellwright.models import FAMILIES, Model
from cellwright.recipes import Recipe, pretrain_model
from cellwright.recipes import recipe as find_recipe

if TYPE_CHECKING:
    from cellwright.evaluate.evaluation import Evaluation
    from cellwright.train.run import FitResult


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainResult:
    """A pre-trained model and how its training went."""

    model: Model
    fit: FitResult
    folder: Path


def pretrain(
    data: Any,
    *,
    recipe: str | Recipe = "scgpt_tiny",
    out: str | Path,
    changes: Sequence[str] = (),
    resume: bool = False,
    is_progress_shown: bool = False,
) -> PretrainResult:
    """Pre-train a new model.

    Parameters
    ----------
    data
        One AnnData or path, or a list of them; their genes make the vocabulary.
    recipe
        Name of a recipe, or one of your own.
    out
        Run folder to make; it is a model.
    changes
        Changes to the recipe such as ``"train.max_steps=100"``.
    resume
        Continue the interrupted run in ``out``.
    is_progress_shown
        Show progress bars on standard error.

    Raises
    ------
    ValueError
        When an option, the data or the folder cannot be used.
    """
    chosen = (find_recipe(recipe) if isinstance(recipe, str) else recipe).override(changes)
    if chosen.family not in FAMILIES:
        near = did_you_mean(chosen.family, FAMILIES)
        raise ValueError(f"no model family {chosen.family!r}{near}; known: {', '.join(FAMILIES)}")
    sources = list(data) if isinstance(data, list | tuple) else [data]
    folder = Path(out)
    with removed_if_futile(folder):
        model, fit = pretrain_model(chosen, sources, folder, resume=resume, is_progress_shown=is_progress_shown)
    return PretrainResult(model=model, fit=fit, folder=folder)


@contextmanager
def removed_if_futile(folder: Path, signs: Sequence[str] = ("**/checkpoints",)) -> Iterator[None]:
    """Take away a run folder that was new when the block began and failed before its first checkpoint.

    A run with a checkpoint (one of ``signs``, patterns of paths) stays, since it can be looked into and resumed; so
    does one that the user interrupts.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    is_new = bool(made) or (folder.is_dir() and not any(folder.iterdir()))
    try:
        yield
    except Exception:
        is_futile = folder.is_dir() and not any(any(folder.glob(sign)) for sign in signs)
        if is_new and is_futile:
            for item in folder.iterdir():
                shutil.rmtree(item) if item.is_dir() else item.unlink()
            for place in made:
                if not any(place.iterdir()):
                    place.rmdir()
        raise


def publish(evaluation: Evaluation, folder: Path) -> Path:
    """Save an evaluation, its scores as rows and its report into a run folder; return the report's path."""
    from cellwright.evaluate.report import write_report
    from cellwright.evaluate.results import RESULTS_FILE, write_results

    evaluation.save(folder)
    write_results(evaluation, folder / RESULTS_FILE)
    report = folder / "report.html"
    write_report(evaluation, report)
    return report
