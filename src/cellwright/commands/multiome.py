"""The command for several modalities in one model."""

from __future__ import annotations

from pathlib import Path

from cellwright.commands.saying import say
from cellwright.data.features import FeatureOptions
from cellwright.tasks.inference import InferenceOptions
from cellwright.verbs import CellColumns, ModelOptions, RnaOptions


class MultiomeColumns(CellColumns):
    """Which columns of obs are looked at, and which other cells."""

    query: str | None = None
    """File of a further study with proteins, never trained on: its proteins are told and scored."""


def multiome(
    model: str,
    data: list[Path],
    *,
    out: Path,
    which: ModelOptions,
    columns: MultiomeColumns,
    features: FeatureOptions,
    rna: RnaOptions,
    run: InferenceOptions,
    set_: list[str] | None = None,
) -> None:
    """Train a model on genes beside proteins or peaks, embed cells by all of them, and tell proteins from RNA.

    Parameters
    ----------
    model
        Official checkpoint folder or file, cellwright checkpoint or run folder, or the name of a shipped model.
    data
        Cells with more than RNA: .h5ad, .h5mu, 10x .h5 or matrix folder, .zarr. Several files are a mosaic of studies,
        each of which may lack a modality.
    out
        Run folder to make, itself a model: also cells.h5ad (embedding, told proteins), scores and report.html.
    set
        Change any option: --set train.max_epochs=5 --set num_genes=800 --set proteins=bins.
    """
    from cellwright import verbs
    from cellwright.evaluate.comparison import table_text

    result = verbs.multiome(
        list(data) if len(data) > 1 else data[0],
        verbs.open_model(model, which.vocab, key=which.key),
        out=out,
        columns=CellColumns(**columns.model_dump(exclude={"query"})),
        query=columns.query,
        changes=set_ or [],
        features=features,
        rna=rna,
        run=run,
    )
    lines = [*result.data.lines(), f"{result.fit.num_steps} steps in {result.fit.seconds:.0f} s"]
    if result.evaluation is not None:
        lines += ["", table_text(result.evaluation), "", f"report: {out / 'report.html'}"]
    else:
        lines.append("nothing was scored: there are neither labels (--label) nor proteins")
    say([*lines, f"model: {out}"])
