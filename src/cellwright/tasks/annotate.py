"""Cell-type annotation: fine-tune a class head (with or without the network), then label cells.

Source: scGPT's annotation recipe (clean input, cross entropy on the cell embedding, Adam 1e-4 falling by 0.9 an
epoch, model of the lowest validation loss). Baselines that must stand beside any result are in
`cellwright.baselines.annotation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import Field

from cellwright.data.cells import Cells
from cellwright.objectives import Objective
from cellwright.objectives.cell import Label
from cellwright.objectives.views import Clean, RandomMask
from cellwright.protocols import CellSource
from cellwright.tasks.embed import check_vocab
from cellwright.tasks.finetuning import FinetuneConfig, Rows, cell_loaders, fit_objective, new_class_head, to_finetune
from cellwright.tasks.inference import InferenceOptions, choose_device, in_use, run_network

if TYPE_CHECKING:
    from cellwright.tasks.answers import Answers
    from cellwright.tasks.smooth import SmoothedLabels

UNASSIGNED = "unassigned"
HEAD = "label"
HIGHEST_WEIGHT = 50.0
"""How many cells of the commonest class a cell may weigh (published scFoundation)."""


class AnnotateConfig(FinetuneConfig):
    """How a model is fine-tuned to label cells."""

    hidden_fraction: float = Field(0.0, ge=0, lt=1)
    """Part of each cell's values hidden in training (published: 0); augments small data."""
    class_weight: Literal["none", "balanced", "capped"] = "none"
    """balanced: every class weighs the same in the loss, however many cells it has. capped: the same, but no cell
    weighs more than fifty of the commonest class (scFoundation's, as it was meant)."""
    num_layers: int | None = Field(None, ge=1)
    """Layers of the class head; unset = as published (scGPT 3, scFoundation 2)."""
    is_standardised: bool | None = None
    """Whether each channel of the cell embedding comes to the class head with mean 0 and variance 1 over cells;
    unset = as published (scFoundation's does)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """Labels of cells."""

    classes: tuple[str, ...]
    prob_nk: np.ndarray
    """float32 ``[n, k]``, rows sum to 1."""
    threshold: float
    """Cells whose highest probability lies under it are unassigned."""
    answers: Answers | None = None
    """Broader answers along a hierarchy, where they were asked for; classes and probabilities are as without."""
    smoothed: SmoothedLabels | None = None
    """Labels after the vote of neighbouring cells, where it was asked for."""

    @property
    def prob_n(self) -> np.ndarray:
        """float32 ``[n]``: probability of the most likely class."""
        return self.prob_nk.max(1)

    @property
    def code_n(self) -> np.ndarray:
        """int64 ``[n]``: most likely class, -1 where unassigned."""
        return np.where(self.prob_n >= self.threshold, self.prob_nk.argmax(1), -1)

    @property
    def label_n(self) -> np.ndarray:
        """Class names ``[n]``, "unassigned" under the threshold."""
        return np.array([*self.classes, UNASSIGNED], dtype=object)[self.code_n]


def train_annotator(
    model: Any,
    source: Cells,
    rows: Rows,
    classes: Sequence[str],
    *,
    config: AnnotateConfig,
    folder: Path,
    is_progress_shown: bool = False,
) -> tuple[Any, Any]:
    """Fine-tune a copy of ``model`` on the cells of ``rows.train`` and save it into ``folder``.

    Parameters
    ----------
    model
        A `cellwright.models.Model`; it is not changed.
    source
        Cells with codes under ``label`` (see `Cells.with_obs`), -1 nowhere in ``rows``.
    rows
        Which cells are for what.
    classes
        Names of the codes, in order; at least two.

    Returns
    -------
    The fine-tuned model (with its class head and names), and the `cellwright.train.run.FitResult`.
    """
    check_vocab(model, source)
    if len(classes) < 2:
        raise ValueError(f"only one class ({', '.join(classes)}); annotation needs cells of at least two")
    tuned = to_finetune(model, config)
    asked = {"num_layers": config.num_layers, "is_standardised": config.is_standardised}
    options = {**tuned.family.class_head, **{name: value for name, value in asked.items() if value is not None}}
    head = new_class_head(tuned.network.width, len(classes), seed=config.train.seed, **options)
    view = RandomMask(fraction=config.hidden_fraction) if config.hidden_fraction else Clean()
    weight = None
    if config.class_weight != "none":
        most = HIGHEST_WEIGHT if config.class_weight == "capped" else np.inf
        weight = class_weights(source, rows.train, len(classes), most)
    objective = Objective(view, {HEAD: (1.0, Label(head, weight))})
    loaders = cell_loaders(source, rows, config)
    result = fit_objective(tuned, objective, loaders, config=config, folder=folder, is_progress_shown=is_progress_shown)
    tuned.heads = {HEAD: head.eval()}
    tuned.classes = {HEAD: tuple(classes)}
    tuned.save(folder)
    return tuned, result


def class_weights(source: Cells, rows: np.ndarray, num_classes: int, most: float = np.inf) -> list[float]:
    """Return the weight of each class: inverse of its share among ``rows``, mean 1 over cells; absent classes 1.

    A class that weighs more than ``most`` times the commonest weighs that much.
    """
    count_k = np.bincount(source.codes(HEAD)[rows], minlength=num_classes)
    weight_k = np.minimum(count_k.max() / np.maximum(count_k, 1), most)
    weight_k *= len(rows) / (weight_k @ count_k)
    return np.where(count_k > 0, weight_k, 1.0).tolist()


def annotate_cells(
    model: Any, source: CellSource, options: InferenceOptions | None = None, *, threshold: float = 0.0
) -> Annotation:
    """Label every cell of ``source``.

    Parameters
    ----------
    model
        A model with a trained ``label`` head.
    threshold
        Cells whose highest probability is below stay unassigned, 0 .. 1.

    Raises
    ------
    ValueError
        When the model has no trained label head, or the threshold is out of range.
    """
    options = options or InferenceOptions()
    check_vocab(model, source)
    classes = head_classes(model)
    check_threshold(threshold)
    prob_nk = np.empty((len(source), len(classes)), np.float32)
    head = model.heads[HEAD]
    with in_use([model.network, head], choose_device(options.device)):
        for at_n, out in run_network(model, source, options, what="annotate"):
            prob_nk[at_n] = torch.softmax(head(out.cell_nd.float()), 1).cpu().numpy()
    if not np.isfinite(prob_nk).all():
        raise ValueError("class probabilities are not finite; the checkpoint is damaged or precision too low")
    return Annotation(classes=classes, prob_nk=prob_nk, threshold=threshold)


def head_classes(model: Any) -> tuple[str, ...]:
    """Return the classes of a model's label head, or refuse one that has no trained head."""
    classes = model.classes.get(HEAD, ())
    if HEAD not in model.heads or len(classes) < 2:
        raise ValueError(
            f"{model.report.source} has no trained label head; fine-tune it first: "
            "cellwright finetune annotate MODEL DATA --label COLUMN -o RUN"
        )
    return tuple(classes)


def check_threshold(threshold: float) -> None:
    """Refuse what is no probability."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}; it is a probability, 0 .. 1")
