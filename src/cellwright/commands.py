"""The verbs of the command line as functions of paths: read, call `cellwright.verbs`, write, print what was done.

Their signatures and docstrings are the options and help texts; see `cellwright.cli`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cellwright.tasks.inference import InferenceOptions
from cellwright.verbs import ReadOptions


def embed(
    model: str, data: Path, *, out: Path, key: str | None = None, read: ReadOptions, run: InferenceOptions
) -> None:
    """Embed cells with a model as it is, and write DATA with the embedding to OUT.

    Parameters
    ----------
    model
        Official checkpoint folder or file, cellwright checkpoint or run folder, or the name of a shipped model.
    data
        Cells: .h5ad, 10x .h5 or matrix folder, .zarr.
    out
        File to write: DATA with obsm["X_<family>"] and a record in uns["cellwright"].
    key
        Slot of obsm to write instead of X_<family>.
    """
    from cellwright import verbs
    from cellwright.data.write import check_key, check_out, write_h5ad
    from cellwright.tasks.embed import embed_cells

    check_out(data, out)
    opened = verbs.open_model(model)
    key = check_key("obsm", opened.key if key is None else key)
    source = verbs.open_data(data, opened, read)
    embedding_nd = embed_cells(opened, source, run)
    record = {key: verbs.provenance(opened, source, run)}
    write_h5ad(data, out, obsm={key: embedding_nd}, uns={"cellwright": record})
    _say(source.contract.lines())
    _say([f'wrote {out}: obsm["{key}"] {embedding_nd.shape[0]} x {embedding_nd.shape[1]}'])


def annotate(
    model: str,
    data: Path,
    *,
    out: Path,
    threshold: float = 0.0,
    key: str = "cell_type",
    read: ReadOptions,
    run: InferenceOptions,
) -> None:
    """Label cells with a fine-tuned model, and write DATA with labels and probabilities to OUT.

    Parameters
    ----------
    model
        Run folder of "finetune annotate", or another model with a label head.
    data
        Cells: .h5ad, 10x .h5 or matrix folder, .zarr.
    out
        File to write: DATA with obs["<key>_pred"] and obs["<key>_prob"].
    threshold
        Cells whose highest probability is below are "unassigned", 0 .. 1.
    key
        Beginning of the column names.
    """
    from cellwright import verbs
    from cellwright.data.write import check_key, check_out, write_h5ad
    from cellwright.tasks.annotate import annotate_cells

    check_out(data, out)
    check_key("obs", key)
    opened = verbs.open_model(model)
    source = verbs.open_data(data, opened, read)
    found = annotate_cells(opened, source, run, threshold=threshold)
    record = {key: verbs.provenance(opened, source, run) | {"threshold": threshold}}
    columns = verbs.annotation_columns(found, key)
    write_h5ad(data, out, obs=columns, uns={"cellwright": record})
    _say(source.contract.lines())
    counts = columns[f"{key}_pred"].value_counts()
    _say([f"{count:8d}  {name}" for name, count in counts.items()])
    _say([f'wrote {out}: obs["{key}_pred"], obs["{key}_prob"]'])


def inspect(what: str, *, model: str | None = None, json_: bool = False, read: ReadOptions) -> None:
    """Say what a data set or a model is.

    Parameters
    ----------
    what
        Data (state of the values, gene names, coverage) or a model (family, size, vocabulary, tensors).
    model
        For data: the model whose vocabulary the genes are matched with; without it, all known human genes.
    json
        Print one JSON object instead of text.
    """
    from cellwright import verbs

    record, lines = verbs.inspect(what, model=model, read=read)
    _say([json.dumps(record, indent=2)] if json_ else lines)


def finetune_annotate(
    model: str,
    data: Path,
    *,
    label: str,
    out: Path,
    split_by: str | None = None,
    mode: str = "full",
    set_: list[str] | None = None,
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
    split_by
        Column of obs whose groups are held out whole (donor, study); unset = found by name, else cells. "cells" =
        random cells.
    mode
        full | lora | probe | scratch.
    set
        Change any option, for instance --set train.max_epochs=3 --set optim.lr=0.001; may be repeated.
    """
    from cellwright import verbs
    from cellwright.evaluate.report import table_text

    changes = [f"mode={mode}", *(set_ or [])]
    result = verbs.finetune(data, model, label=label, out=out, split_by=split_by, changes=changes, read=read, run=run)
    warnings = [line for part in result.evaluation.contracts for line in part.lines if line.startswith("warning: ")]
    _say(["", table_text(result.evaluation), "", *warnings, f"report: {result.report}", f"model:  {out}"])


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
        What to train and how: scgpt_tiny, scgpt_demo, scgpt_pretrain.
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
    _say(
        [
            *(f"{found['source']}: {found['state']['kind']} values" for found in contracts),
            *(f"warning: {warning}" for found in contracts for warning in found["warnings"]),
            f"{result.fit.num_steps} steps in {result.fit.seconds:.0f} s, {result.fit.num_parameters:,} parameters",
            f"model: {out}",
        ]
    )


def convert(model: str, out: Path, *, to: str = "cellwright") -> None:
    """Write a model in another format: cellwright's (safetensors, JSON) or the published one of its family.

    Parameters
    ----------
    model
        Any model that can be opened.
    out
        Folder to make; it must not exist or be empty.
    to
        cellwright | released.
    """
    from cellwright import verbs

    lines = verbs.convert(model, out, to=to)
    _say(lines)


def report(run: Path, *, out: Path | None = None) -> None:
    """Write the report of a run again from its saved evaluation.

    Parameters
    ----------
    run
        Run folder with evaluation.json.
    out
        HTML file; unset = report.html in the run folder.
    """
    from cellwright.evaluate.evaluation import Evaluation
    from cellwright.evaluate.report import table_text, write_report

    evaluation = Evaluation.load(run)
    target = out or run / "report.html"
    write_report(evaluation, target)
    _say([table_text(evaluation), "", f"report: {target}"])


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
    _say(["", table_text(result.evaluation), "", f"report: {result.report}"])


COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": demo,
    "inspect": inspect,
    "embed": embed,
    "annotate": annotate,
    "pretrain": pretrain,
    "convert": convert,
    "report": report,
}
FINETUNE: dict[str, Callable[..., Any]] = {"annotate": finetune_annotate}


def _say(lines: list[str]) -> None:
    print("\n".join(lines))
