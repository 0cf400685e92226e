"""Command that scores filled-in genes."""

from __future__ import annotations

from pathlib import Path

from cellwright.commands.scoring import show
from cellwright.commands.using import listed
from cellwright.tasks.inference import InferenceOptions
from cellwright.verbs import FillScoring, ModelOptions, ReadOptions, ScoreConfig


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
    show(result)
