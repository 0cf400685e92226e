"""Commands that say what something is, or write it in another form."""

from __future__ import annotations

import json
from pathlib import Path

from cellwright.commands.saying import say
from cellwright.verbs import ModelOptions, ReadOptions


def inspect(
    what: str, *, model: str | None = None, json_: bool = False, which: ModelOptions, read: ReadOptions
) -> None:
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

    record, lines = verbs.inspect(what, model=model, which=which, read=read)
    say([json.dumps(record, indent=2)] if json_ else lines)


def convert(model: str, out: Path, *, to: str = "cellwright", which: ModelOptions) -> None:
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

    lines = verbs.convert(model, out, to=to, which=which)
    say(lines)


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
    say([table_text(evaluation), "", f"report: {target}"])
