"""Commands that score a model: each leaves a folder with the report, the figures and the rows of results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cellwright.commands.making import pairs
from cellwright.commands.saying import say
from cellwright.commands.using import listed
from cellwright.config import Config
from cellwright.tasks.generate import GenerateConfig
from cellwright.tasks.inference import InferenceOptions, MachineOptions
from cellwright.tasks.mapping import IndexConfig
from cellwright.verbs import ModelOptions, ReadOptions, ScoreConfig

if TYPE_CHECKING:
    from cellwright.verbs import ScoreResult


class AnswerOptions(Config):
    """What given labels are held against."""

    group: str | None = None
    """Column of obs with donors or studies, resampled whole for intervals; refused when one is in TRAIN too."""
    category: str | None = None
    """Category of the model's words that the labels are; unset = a label head where there is one, else cell_type."""


class ThinOptions(Config):
    """How far cells are thinned, and what a model stands beside."""

    train: str | None = None
    """Deep cells that baselines learn from; unset = baselines know the thinned cells alone."""
    label: str | None = None
    """Column of obs with cell types that clusters are held against; unset = clusters of the deep cells."""
    group: str | None = None
    """Column of obs with donors or studies, resampled whole for intervals; refused when one is in --train too."""
    shares: str = ",".join(f"{share:g}" for share in ScoreConfig.model_fields["shares"].default)
    """Parts of the molecules that are kept, separated by commas."""
    further: str | None = None
    """Baselines that need a package of their own, separated by commas: magic, scvi (minutes)."""
    num_resamples: int = ScoreConfig.model_fields["num_resamples"].default
    """Bootstrap resamples of each interval."""

    def scoring(self) -> dict[str, object]:
        """Return the options that are `ScoreConfig`'s too."""
        shares = [number(word, "--shares") for word in listed(self.shares, "--shares")]
        further = listed(self.further, "--further") if self.further else []
        return {"group": self.group, "shares": shares, "further": further, "num_resamples": self.num_resamples}


def number(word: str, option: str) -> float:
    """Return a word as a number."""
    try:
        return float(word)
    except ValueError:
        raise ValueError(f"{option}: {word!r} is no number") from None


class MadeOptions(ModelOptions, MachineOptions):
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

    def scoring(self) -> dict[str, object]:
        """Return the options that are `ScoreConfig`'s too."""
        kept = self.model_dump(include={"category", "group", "max_genes", "num_real", "num_resamples"})
        return kept | {"words": pairs(self.words, "--words") if self.words else {}}


class MappedOptions(ModelOptions):
    """Which model places cells, and what their labels hang together by."""

    group: str | None = None
    """Column of obs with donors or studies, resampled whole for intervals; refused when one is in both files."""


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
    show(result)


def evaluate_denoise(
    model: str,
    data: Path,
    *,
    out: Path,
    num_cells: int = ScoreConfig.model_fields["num_query"].default,
    which: ModelOptions,
    what: ThinOptions,
    read: ReadOptions,
    run: InferenceOptions,
) -> None:
    """Thin real cells, score what a model and simple ways to denoise make of the rest, and write a report.

    Parameters
    ----------
    model
        Official checkpoint folder or file, cellwright checkpoint or run folder, of a family that knows read depth.
    data
        Deep cells with raw counts that the model has not seen: .h5ad, 10x .h5 or matrix folder, .zarr.
    out
        Folder to make.
    num_cells
        Most cells that are thinned, drawn at random.
    """
    from cellwright import verbs

    asked = what.scoring() | {"num_query": num_cells, "seed": run.seed, "reading": read.record()}
    config = ScoreConfig.read(asked, "bad option")
    opened = verbs.open_model(model, which.vocab, key=which.key)
    result = verbs.score(
        data, opened, task="denoise", label=what.label, out=out, train=what.train, config=config, run=run
    )
    show(result)


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
    opened = verbs.open_model(model, what.vocab, key=what.key)
    run = InferenceOptions(**what.model_dump(include=set(MachineOptions.model_fields)))
    result = verbs.score(
        heldout, opened, task="generate", label=label, out=out, train=train, made=what.made, config=config, run=run
    )
    show(result)


def evaluate_map_reference(
    model: str,
    reference: Path,
    query: Path,
    *,
    label: str,
    out: Path,
    which: MappedOptions,
    how: IndexConfig,
    read: ReadOptions,
    run: InferenceOptions,
) -> None:
    """Score the labels that QUERY gets from its neighbours in REFERENCE, beside baselines, and write a report.

    Parameters
    ----------
    model
        Official checkpoint folder or file, cellwright checkpoint or run folder, or the name of a shipped model.
    reference
        Labelled cells: .h5ad, 10x .h5 or matrix folder, .zarr. Each type is taken out of them in turn.
    query
        Labelled cells of another study or other donors.
    label
        Column of obs with the cell types, in both files.
    out
        Folder to make.
    """
    from cellwright import verbs

    opened = verbs.open_model(model, which.vocab, key=which.key)
    config = ScoreConfig(group=which.group, index=how, seed=run.seed, reading=read)
    result = verbs.score(
        query, opened, task="map_reference", label=label, out=out, train=reference, config=config, run=run
    )  # fmt: skip
    show(result)


def show(result: ScoreResult) -> None:
    """Print the comparison, what a reader must know, and where the report lies."""
    from cellwright.evaluate.report import table_text

    evaluation = result.evaluation
    notes = evaluation.summary
    warnings = [line for part in evaluation.contracts for line in part.lines if line.startswith("warning: ")]
    say(["", table_text(evaluation), "", *notes, *warnings, f"report: {result.report}"])
