"""Commands that train: each leaves a run folder, which is a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cellwright.commands.saying import say, warnings_of
from cellwright.commands.using import listed
from cellwright.tasks.inference import InferenceOptions
from cellwright.verbs import ModelOptions, ReadOptions


class FinetuneOptions(ModelOptions):
    """What a model is fine-tuned from, and how."""

    split_by: str | None = None
    """Column of obs whose groups are held out whole (donor, study); unset = found by name, else cells. "cells" = random
    cells."""
    mode: str = "full"
    """full | lora | probe | blocks | scratch."""


def finetune_annotate(
    model: str,
    data: Path,
    *,
    label: str,
    out: Path,
    set_: list[str] | None = None,
    how: FinetuneOptions,
    read: ReadOptions,
    run: InferenceOptions,
) -> None:
    """Fine-tune a model to label cells, score it on held-out cells beside simple baselines, and write a run folder.

    Parameters
    ----------
    model
        Official checkpoint folder or file, cellwright checkpoint or run folder, or the name of a shipped model.
    data
        Labelled cells: .h5ad, 10x .h5 or matrix folder, .zarr.
    label
        Column of obs with the cell types.
    out
        Run folder to make; it is a model that "annotate" takes.
    set
        Change any option, for instance --set train.max_epochs=3 --set optim.lr=0.001; may be repeated.
    """
    from cellwright import verbs
    from cellwright.evaluate.report import table_text

    changes = [f"mode={how.mode}", *(set_ or [])]
    opened = verbs.open_model(model, how.vocab, key=how.key)
    result = verbs.finetune(
        data, opened, label=label, out=out, split_by=how.split_by, changes=changes, read=read, run=run
    )
    warnings = warnings_of(result.evaluation)
    say(["", table_text(result.evaluation), "", *warnings, f"report: {result.report}", f"model:  {out}"])


def _for_task(task: str, text: str, *, data: str, label: str, out: str) -> Callable[..., None]:
    """Return the command of a task that has a verb of its own with more options."""

    def command(
        model: str,
        data: Path,
        *,
        label: str | None = None,
        out: Path,
        set_: list[str] | None = None,
        how: FinetuneOptions,
        read: ReadOptions,
        run: InferenceOptions,
    ) -> None:
        from cellwright import verbs
        from cellwright.evaluate.comparison import table_text

        result = verbs.finetune(
            data,
            verbs.open_model(model, how.vocab, key=how.key),
            task=task,
            label=label,
            out=out,
            split_by=how.split_by,
            changes=[f"mode={how.mode}", *(set_ or [])],
            read=read,
            run=run,
        )
        lines = [] if result.evaluation is None else ["", table_text(result.evaluation), ""]
        say([*lines, *([] if result.report is None else [f"report: {result.report}"]), f"wrote {out}"])

    command.__name__ = f"finetune_{task}"
    command.__doc__ = f"""{text}

    Parameters
    ----------
    model
        Official checkpoint folder or file, cellwright checkpoint or run folder, or the name of a shipped model.
    data
        {data}
    label
        {label}
    out
        {out}
    set
        Change any option, for instance --set train.max_epochs=3; may be repeated.
    """
    return command


finetune_integrate = _for_task(
    "integrate",
    'Fine-tune a model to put sequencing batches (--tech-batch) into one space; "integrate --mode" has more options.',
    data="Cells: .h5ad, 10x .h5 or matrix folder, .zarr.",
    label="Column of obs with cell types, for scores alone.",
    out='Folder to make: the model in "model", cells with the embedding, report.',
)
finetune_multiome = _for_task(
    "multiome",
    'Fine-tune a model on genes beside proteins or peaks; "multiome" has more options.',
    data="Cells with more than RNA: .h5ad, .h5mu, 10x .h5 or matrix folder, .zarr.",
    label="Column of obs with cell types, for scores alone.",
    out="Run folder to make, itself a model.",
)
finetune_perturb = _for_task(
    "perturb",
    'Fine-tune a model to turn controls into perturbed cells; "perturb --use cells" has more options.',
    data="Cells with known perturbations and controls: .h5ad, 10x .h5 or matrix folder, .zarr.",
    label="Column of obs that says what was done to each cell; unset = found by its name.",
    out='Folder to make: the model of the whole screen in "model", scores, predictions, report.',
)


class ComparingOptions(ModelOptions):
    """What a model is fine-tuned from and for, in which ways, how often."""

    task: str = "annotate"
    """What for: annotate | integrate (needs --tech-batch) | multiome | perturb."""
    modes: str | None = None
    """Ways of fine-tuning, with commas between: probe | blocks | lora | full | scratch; unset = all that the task has,
    but blocks."""
    seeds: int = 3
    """Training seeds of each way; the split is the same for all."""
    split_by: str | None = None
    """annotate, multiome: column of obs whose groups are held out whole (donor, study); unset = found by name for
    annotate, else cells. "cells" = random cells."""
    held_out: str | None = None
    """annotate: names of the groups of --split-by to hold out, with commas between; unset = drawn."""


def finetune_compare(
    model: str,
    data: Path,
    *,
    label: str | None = None,
    out: Path,
    set_: list[str] | None = None,
    how: ComparingOptions,
    read: ReadOptions,
    run: InferenceOptions,
) -> None:
    """Fine-tune a model for a task in several ways with several seeds, and score all on the same data beside baselines.

    Parameters
    ----------
    model
        Official checkpoint folder or file, cellwright checkpoint or run folder, or the name of a shipped model.
    data
        Cells: .h5ad, 10x .h5 or matrix folder, .zarr.
    label
        Column of obs with the cell types (annotate: needed; integrate, multiome: for scores alone), or with what was
        done to each cell (perturb; unset = found by its name).
    out
        Folder for the runs, as "finetune" leaves them, and the report. Runs that are finished there are not made again.
    set
        Change any option, for instance --set train.max_epochs=3; for one way alone with its name before, as in
        --set probe:optim.lr=0.01; may be repeated.
    """
    from cellwright import verbs
    from cellwright.evaluate.report import table_text

    chosen: dict[str, object] = {"seeds": how.seeds, "split_by": how.split_by}
    chosen["modes"] = None if how.modes is None else listed(how.modes, "--modes")
    chosen["held_out"] = listed(how.held_out or "", "--held-out")
    options = verbs.CompareOptions.read(chosen, "bad option")
    opened = verbs.open_model(model, how.vocab, key=how.key)
    result = verbs.compare_modes(
        data, opened, task=how.task, label=label, out=out, how=options, changes=set_ or [], read=read, run=run
    )
    evaluation = result.evaluation
    warnings = warnings_of(evaluation)
    say(["", table_text(evaluation), "", evaluation.headline, *warnings, f"report: {result.report}", f"runs: {out}"])


def pretrain(
    data: list[Path],
    *,
    out: Path,
    recipe: str = "scgpt_tiny",
    layer: str | None = None,
    assume: str | None = None,
    set_: list[str] | None = None,
    resume: bool = False,
    progress: bool = True,
) -> None:
    """Pre-train a new model on cells, and write a run folder that is itself a model.

    Parameters
    ----------
    data
        One or more files of cells.
    out
        Run folder to make.
    recipe
        What to train and how: scgpt_tiny, scgpt_demo, scgpt_pretrain, scmulan_tiny, scmulan_pretrain.
    layer
        Matrix to read: X, raw, or a layer's name; unset = counts where there are any.
    assume
        What the values are, overriding what is detected: raw | normalised | log1p.
    set
        Change any option of the recipe, for instance --set train.max_steps=100 --set model.width=128.
    resume
        Continue the interrupted run in OUT, with the same recipe, options and data.
    progress
        Show progress bars.
    """
    from cellwright import verbs

    read = {"data.layer": layer, "data.assume": assume}
    changes = [*(f"{name}={value}" for name, value in read.items() if value is not None), *(set_ or [])]
    result = verbs.pretrain(data, recipe=recipe, out=out, changes=changes, resume=resume, is_progress_shown=progress)
    contracts = result.model.origin["pretraining"]["data"]["contracts"]
    say(
        [
            *(f"{found['source']}: {found['state']['kind']} values" for found in contracts),
            *(f"warning: {warning}" for found in contracts for warning in found["warnings"]),
            *(f"sentences of {line}" for line in result.model.origin["pretraining"].get("sentences", ())),
            *(f"warning: {line}" for line in result.fit.notes),
            f"{result.fit.num_steps} steps in {result.fit.seconds:.0f} s, {result.fit.num_parameters:,} parameters",
            f"model: {out}",
        ]
    )


def demo(
    *,
    data: Path | None = None,
    label: str = "cell_type",
    split_by: str | None = None,
    assume: str | None = None,
    out: Path = Path("runs/demo"),
    seed: int = 0,
    set_: list[str] | None = None,
    progress: bool = True,
) -> None:
    """Do the main job end to end: pre-train a small model, fine-tune it on one study, annotate the other, report.

    Parameters
    ----------
    data
        Your labelled cells instead of the shipped ones; held-out groups of them are annotated.
    label
        Column of obs with the cell types (for --data).
    split_by
        Column of obs whose groups are held out whole (for --data); unset = found by name.
    assume
        What the values of --data are, overriding what is detected: raw | normalised | log1p.
    out
        Folder of runs and report; an earlier demo there is replaced.
    seed
        Of everything random.
    set
        Change any option: --set pretrain.train.max_epochs=1 --set finetune.optim.lr=0.001.
    progress
        Show progress bars.
    """
    from cellwright.demo import DemoConfig, OwnData, run_demo
    from cellwright.evaluate.report import table_text

    config = DemoConfig.standard(seed).override(set_ or [])
    own = None if data is None else OwnData(path=data, label=label, split_by=split_by, assume=assume)
    result = run_demo(config, out, own=own, is_progress_shown=progress)
    say(["", table_text(result.evaluation), "", f"report: {result.report}"])
