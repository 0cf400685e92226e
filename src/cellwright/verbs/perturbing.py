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
from cellwright.tasks.screen import ScreenOptions
from cellwright.verbs.perturb_methods import MethodSource, PerturbConfig, methods_of
from cellwright.verbs.using import model_record, open_model

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

    from cellwright.baselines.perturbation import Known
    from cellwright.data.gene_graphs import GeneGraph
    from cellwright.data.perturbation_splits import PerturbationSplit
    from cellwright.evaluate.evaluation import Evaluation
    from cellwright.evaluate.perturbation_tables import PerturbationScores
    from cellwright.tasks.gene_features import GeneTable
    from cellwright.tasks.lessons import Screen
    from cellwright.tasks.perturb import PerturbModel, Predictions
    from cellwright.tasks.perturb_saved import SavedPerturb


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
    use: Literal["genes", "cells", "both"] = "genes"
    """What a model is for: genes = its gene embeddings feed a second graph model | cells = it is itself fine-tuned to
    turn controls into perturbed cells | both."""
    graph: bool = True
    """Also train the graph model that is fed by no cell model, to compare with."""
    per_cell: bool = False
    """Read context gene embeddings of a model cell by cell, in place of their mean over controls."""
    cell_scores: bool = True
    """Also compare predicted with real cells; takes the most time of scoring."""
    keep_model: bool = False
    """Train the last method on the whole screen too, and keep it (predict-perturbation asks it of new conditions)."""
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
    saved: SavedPerturb | None
    """The last method trained on the whole screen, where conditions were asked for or it is to be kept."""
    model: Model | None
    """The model that a method leans on, where there is one."""
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

    def evaluation(self) -> Evaluation:
        """Return scores, figures and tables as one record, which a report is written from."""
        from cellwright.evaluate.perturbation_report import PerturbationStudy, evaluate_perturbations
        from cellwright.verbs.perturb_files import joint_sha256

        name = self.screen.contract.title
        return evaluate_perturbations(
            PerturbationStudy(
                title=f"Perturbations of {name}",
                dataset=name,
                screen=self.screen,
                predictions=self.predictions,
                scores=self.scores,
                split=self.splits[0].by,
                main=list(self.predictions.effect_eg)[-1],
                model=self.model,
                split_sha256=joint_sha256(self.record["split_sha256"]),
                notes=self.record["notes"],
                warnings=self.screen.contract.warnings,
            )
        )

    def save(self, folder: str | Path) -> Evaluation:
        """Write all of it into ``folder`` (see ``docs/tasks/perturb.md``), and return the record of the report."""
        from cellwright.verbs.perturb_files import write_run

        return write_run(self, Path(folder))


def perturb(
    adata: Any,
    *,
    options: PerturbOptions | None = None,
    screen: ScreenOptions | None = None,
    gene_sets: str | Path | Mapping[str, Sequence[str]] | None = None,
    model: Model | str | Path | None = None,
    embedding: str | Path | GeneTable | None = None,
    predict: Sequence[str] = (),
    config: PerturbConfig | None = None,
    run: InferenceOptions | None = None,
) -> PerturbResult:
    """Predict what perturbations do, on perturbations that were held out, beside every baseline.

    A graph model in the GEARS manner is trained for each fold, unless ``options.graph`` is off; with ``model`` or
    ``embedding`` a second one that is fed by these gene embeddings. All methods learn from the same profiles and are
    scored on the same cells.

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
        A model (loaded, path or shipped name): its context gene embeddings feed a graph model, or it is fine-tuned
        itself, or both, as ``options.use`` says. It is not changed.
    embedding
        Gene embedding of any other origin: ``.npz`` of ``genes`` and ``values``, or a table; not together with
        ``model``.
    predict
        Further conditions to predict (``"A+B"``), by a model trained on the whole screen.
    config
        How graph models and the fine-tuned model are trained.
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
    config = config or PerturbConfig()
    if model is not None and embedding is not None:
        raise ValueError("model and embedding both give gene embeddings; give one of them (--model, --embedding)")
    if options.per_cell and (model is None or options.use == "cells"):
        raise ValueError("per_cell reads a model's gene embeddings cell by cell; give the model (--model, --use genes)")
    if options.per_cell and options.keep_model and options.use == "genes":
        raise ValueError("a graph model fed cell by cell cannot be kept without the cells; leave out per_cell")
    if not options.graph and model is None and embedding is None:
        raise ValueError("without the graph model nothing is trained; give a model or an embedding, or leave out graph")
    if options.use != "genes" and model is None:
        raise ValueError(f"use = {options.use!r} fine-tunes a model; give one (model=, --model)")
    opened = open_screen(adata, read, seed=options.seed)
    _check_asked(opened, predict)
    splits = split_perturbations(
        opened.profiles, options.split, num_folds=options.folds, valid=options.valid, seed=options.seed
    )
    loaded = None if model is None else open_model(model)
    known, graph, methods, notes = methods_of(
        opened,
        options,
        config,
        gene_sets,
        MethodSource(model=loaded, embedding=embedding, adata=adata, run=run, read=read),
    )
    predictions = predict_folds(opened, splits, methods, known=known)
    scores = score_predictions(
        opened,
        predictions,
        split=options.split,
        has_cell_scores=options.cell_scores,
        on_collapse=options.on_collapse,
    )
    saved = _whole(opened, methods[-1], known, options) if predict or options.keep_model else None
    record = {
        "options": options.record() | {"screen": read.record(), "methods": config.record()},
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
        new={} if saved is None else saved.predict(predict),
        saved=saved,
        model=loaded,
        record=record,
    )


def _check_asked(screen: Screen, predict: Sequence[str]) -> None:
    """Read the further conditions before anything is trained."""
    from cellwright.data.perturbations import parse_condition

    for name in predict:
        if not parse_condition(name, screen.perturbations.control):
            raise ValueError(f"{name!r} is the control; name a perturbation to predict (predict=, --predict)")


def _whole(screen: Screen, method: PerturbModel, known: Known, options: PerturbOptions) -> SavedPerturb:
    """Train a method on the whole screen."""
    from cellwright.tasks.lessons import whole_lesson
    from cellwright.tasks.perturb_saved import SavedPerturb

    fitted = method.fit(whole_lesson(screen, known, valid=options.valid))
    return SavedPerturb.of(fitted, screen, method.what)


def predict_perturbation(
    model: SavedPerturb | str | Path, conditions: Sequence[str], *, device: str | None = None
) -> AnnData:
    """Ask a kept model what conditions would do that nobody measured.

    Parameters
    ----------
    model
        Folder that `perturb` wrote with ``keep_model``, or its folder ``model``; or the model itself.
    conditions
        ``"A"`` or ``"A+B"``; parts that the model does not know have no effect, and ``obs["unknown"]`` names them.
    device
        Where to run, for a fine-tuned cell model: auto | cpu | cuda | mps; ``None`` = as it was trained.

    Returns
    -------
    AnnData
        A row a condition and context; X = change of mean log expression, layer ``profile`` = the mean after it.

    Raises
    ------
    FileNotFoundError, ValueError
        No such model; a condition that is the control; none asked for.
    """
    from cellwright.tasks.perturb_saved import SavedPerturb
    from cellwright.verbs.perturb_files import conditions_anndata, open_saved

    found = model if isinstance(model, SavedPerturb) else open_saved(Path(model), device)
    if not conditions:
        raise ValueError("no condition is asked for; name one or more, A or A+B (conditions=, --predict)")
    return conditions_anndata(found, conditions)
