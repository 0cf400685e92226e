"""The command that puts sequencing batches into one space."""

from __future__ import annotations

from pathlib import Path

from cellwright.commands.saying import say, warnings_of
from cellwright.tasks.inference import InferenceOptions
from cellwright.tasks.integration_options import IntegrationScoring
from cellwright.verbs import ModelOptions, ReadOptions


class WayOptions(ModelOptions):
    """Which model, and what is done with it."""

    label: str | None = None
    """Column of obs with cell types, for scores only; training never sees them."""
    mode: str = "zero_shot"
    """zero_shot: the model as it is. Fine-tuned here by scGPT's recipe: full | lora | probe | blocks | scratch."""
    slot: str | None = None
    """Slot of obsm to write instead of X_<family>."""


def integrate(
    model: str,
    data: Path,
    *,
    out: Path,
    set_: list[str] | None = None,
    way: WayOptions,
    how: IntegrationScoring,
    read: ReadOptions,
    run: InferenceOptions,
) -> None:
    """Embed cells of several sequencing batches (--tech-batch) in one space, scored beside simple ways to do so.

    Parameters
    ----------
    model
        Official checkpoint folder or file, cellwright checkpoint or run folder, or the name of a shipped model.
    data
        Cells: .h5ad, 10x .h5 or matrix folder, .zarr.
    out
        Folder to make: integrated.h5ad (DATA with the embedding), model (when trained), report.html, results.jsonl.
    set
        Change an option of fine-tuning: --set train.max_epochs=5; may be repeated.
    """
    from cellwright import verbs

    if read.tech_batch is None:
        raise ValueError("integrate needs the column of obs with the sequencing batches (--tech-batch COLUMN)")
    done = verbs.integrate(
        data,
        verbs.open_model(model, way.vocab, key=way.key),
        tech_batch=read.tech_batch,
        label=way.label,
        mode=way.mode,
        out=out,
        changes=tuple(set_ or ()),
        config=verbs.IntegrateOptions(**how.model_dump(), slot=way.slot, reading=read),
        run=run,
    )
    from cellwright.evaluate.comparison import table_text

    key = done.model.key if way.slot is None else way.slot
    n, d = done.embedding_nd.shape
    lines = [table_text(done.evaluation), "", *done.evaluation.summary, *warnings_of(done.evaluation)]
    lines.append(f'wrote {out / "integrated.h5ad"}: obsm["{key}"] {n} x {d}')
    if done.fit is not None:
        lines.append(f"model: {out / 'model'}")
    say([*lines, f"report: {out / 'report.html'}"])
