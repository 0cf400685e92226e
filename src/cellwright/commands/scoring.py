"""Commands that score a model: each leaves a folder with the report, the figures and the rows of results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cellwright.commands.making import pairs
from cellwright.commands.saying import say
from cellwright.commands.using import listed
from cellwright.config import Config
from cellwright.tasks.generate import GenerateConfig
from cellwright.tasks.inference import InferenceOptions
from cellwright.verbs import FillScoring, ModelOptions, ReadOptions, ScoreConfig

if TYPE_CHECKING:
    from cellwright.verbs import ScoreResult


class AnswerOptions(Config):
    """What given labels are held against."""

    group: str | None = None
    """Column of obs with donors or studies, resampled whole for intervals; refused when one is in TRAIN too."""
    category: str | None = None
    """Category of the model's words that the labels are; unset = a label head where there is one, else cell_type."""


class MadeOptions(ModelOptions):
    """What is made, and what it is held against."""

    made: str | None = None
    """File of "cellwright generate" to score instead of making cells."""
    words: str | None = None
    """Further words of the prompt and the columns of HELDOUT that say them: organ=tissue."""
    category: str | None = None
    """Category of the model's words that the labels are; unset = cell_type."""
    group: str | None = None
    """Column of obs with donors or studies; refused when one of them is in TRAIN and HELDOUT."""
    max_genes: int | None = None
    """Most genes written a cell; unset = what the model was built for."""
    num_real: int = ScoreConfig.model_fields["num_real"].default
    """Most held-out cells of a type that are compared with."""
    num_resamples: int = ScoreConfig.model_fields["num_resamples"].default
    """Bootstrap resamples of each interval."""
    device: str = "auto"
    """Where to run: auto | cpu | cuda | cuda:N | mps."""

    def scoring(self) -> dict[str, object]:
        """Return the options that are `ScoreConfig`'s too."""
        kept = self.model_dump(exclude={"made", "words", "key", "vocab", "device"})
        return kept | {"words": pairs(self.words, "--words") if self.words else {}}


def evaluate_annotate(
    model: str,
    data: Path,
    *,
    label: str,
    out: Path,
    train: Path | None = None,
    which: ModelOptions,
    what: AnswerOptions,
    read: ReadOptions,
    run: InferenceOptions,
) -> None:
    """Score the labels that a model gives to labelled cells, beside baselines trained on --train, and write a report.

    Parameters
    ----------
    model
        Run folder of "finetune annotate", another model with a label head, or a model that writes sentences.
    data
        Labelled held-out cells: .h5ad, 10x .h5 or matrix folder, .zarr.
    label
        Column of obs with the true types; those that the model cannot say are counted and named.
    out
        Folder to make.
    train
        Labelled cells that baselines learn from; without them no baseline is run.
    """
    from cellwright import verbs

    opened = verbs.open_model(model, which.vocab, key=which.key)
    config = ScoreConfig(**what.model_dump(), seed=run.seed, reading=read)
    result = verbs.score(data, opened, task="annotate", label=label, out=out, train=train, config=config, run=run)
    _say(result)


def evaluate_generate(
    model: str,
    train: Path,
    heldout: Path,
    *,
    label: str,
    out: Path,
    num_cells: int = ScoreConfig.model_fields["num_cells"].default,
    what: MadeOptions,
    how: GenerateConfig,
    read: ReadOptions,
) -> None:
    """Make cells of every type of HELDOUT, score them beside simple ways to make cells, and write a report.

    Parameters
    ----------
    model
        Official checkpoint folder or file, or cellwright checkpoint or run folder, that was trained to make cells.
    train
        Labelled cells with raw counts that baselines learn from and copies are looked for among: those that the model
        was trained on.
    heldout
        Labelled cells that neither the model nor a baseline has seen, from other donors where there are some.
    label
        Column of obs with the cell types, in both files.
    out
        Folder to make.
    num_cells
        Cells of each type, at least 10.
    """
    from cellwright import verbs

    asked = what.scoring() | {
        "num_cells": num_cells,
        "making": how.record(),
        "seed": how.seed,
        "reading": read.record(),
    }
    config = ScoreConfig.read(asked, "bad option")
    opened, run = verbs.open_model(model, what.vocab, key=what.key), InferenceOptions(device=what.device)
    result = verbs.score(
        heldout, opened, task="generate", label=label, out=out, train=train, made=what.made, config=config, run=run
    )
    _say(result)


class FilledOptions(ModelOptions):
    """What is filled in, and what it is held against."""

    label: str | None = None
    """Column of obs with the cell types, in both files, for the baseline that is told them and --start type."""
    group: str | None = None
    """Column of obs with donors or studies; refused when one is in TRAIN and HELDOUT, resampled whole from five on."""
    start: str = FillScoring.model_fields["start"].default
    """What cells start from: genes (a random part) | embedding (of the whole cell) | type (its mean embedding)."""
    known_fraction: float = FillScoring.model_fields["known_fraction"].default
    """Known part of the genes, 0 .. 1."""
    steps: str = "2,3,4,8"
    """Numbers of steps that are compared with one pass, with commas between."""
    shown: int = FillScoring.model_fields["shown"].default
    """The one of them that stands in the comparison."""
    orders: str | None = None
    """Orders that are compared, with commas between; unset = all that the model can give."""
    num_real: int = ScoreConfig.model_fields["num_real"].default
    """Most held-out cells, drawn at random."""
    max_train: int = FillScoring.model_fields["max_train"].default
    """Most training cells that baselines learn from, drawn at random."""
    num_resamples: int = ScoreConfig.model_fields["num_resamples"].default
    """Bootstrap resamples of each interval."""

    def scoring(self) -> dict[str, object]:
        """Return the options that are `ScoreConfig`'s too."""
        filling = self.model_dump(include={"start", "known_fraction", "shown", "max_train"})
        filling["steps"] = [_number(text) for text in listed(self.steps, "--steps")]
        filling["orders"] = listed(self.orders, "--orders") if self.orders is not None else ()
        return self.model_dump(include={"group", "num_real", "num_resamples"}) | {"filling": filling}


def _number(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"--steps: {text!r} is no number of steps; give numbers with commas between, such as 2,3,8")
    return int(text)


def evaluate_unmask(
    model: str,
    train: Path,
    heldout: Path,
    *,
    out: Path,
    what: FilledOptions,
    read: ReadOptions,
    run: InferenceOptions,
) -> None:
    """Fill in unknown genes of HELDOUT by steps and orders, score them beside simple ways, and write a report.

    Parameters
    ----------
    model
        Official checkpoint folder or file, or cellwright checkpoint or run folder, that fills in unknown genes.
    train
        Cells that baselines learn from: those that the model was trained on.
    heldout
        Cells that neither the model nor a baseline has seen, from other donors where there are some.
    out
        Folder to make.
    """
    from cellwright import verbs

    config = ScoreConfig.read(what.scoring() | {"seed": run.seed, "reading": read.record()}, "bad option")
    opened = verbs.open_model(model, what.vocab, key=what.key)
    result = verbs.score(heldout, opened, task="unmask", label=what.label, out=out, train=train, config=config, run=run)
    _say(result)


def _say(result: ScoreResult) -> None:
    """Print the comparison, what a reader must know, and where the report lies."""
    from cellwright.evaluate.report import table_text

    evaluation = result.evaluation
    notes = evaluation.summary
    warnings = [line for part in evaluation.contracts for line in part.lines if line.startswith("warning: ")]
    say(["", table_text(evaluation), "", *notes, *warnings, f"report: {result.report}"])
