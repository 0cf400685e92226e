"""Commands that place cells on a reference."""

from __future__ import annotations

from pathlib import Path

from cellwright.commands.saying import say
from cellwright.commands.using import listed
from cellwright.tasks.inference import InferenceOptions
from cellwright.tasks.mapping import IndexConfig
from cellwright.verbs import ModelOptions, ReadOptions


def index(
    model: str,
    reference: Path,
    *,
    label: str = "",
    out: Path,
    which: ModelOptions,
    how: IndexConfig,
    read: ReadOptions,
    run: InferenceOptions,
) -> None:
    """Embed the cells of REFERENCE with a model and index them, for map-reference.

    Parameters
    ----------
    model
        Official checkpoint folder or file, cellwright checkpoint or run folder, or the name of a shipped model.
    reference
        Cells: .h5ad, 10x .h5 or matrix folder, .zarr.
    label
        Columns of obs that mapped cells shall be given, separated by commas (cell_type,donor).
    out
        Folder to write: new, empty, or an index to replace.
    """
    from cellwright import verbs

    columns = listed(label, "--label")
    verbs.check_index_place(out)
    opened = verbs.open_model(model, which.vocab, key=which.key)
    source = verbs.open_deep(reference, opened, read, run=run)
    made = verbs.indexing(opened, source, columns, how, run)
    made.save(out)
    say(source.contract.lines())
    say([f"wrote {out}: {len(made)} cells, labels: {', '.join(columns) or 'none'}"])


def map_reference(
    model: str,
    data: Path,
    *,
    reference: Path,
    out: Path,
    threshold: float = 0.0,
    which: ModelOptions,
    read: ReadOptions,
    run: InferenceOptions,
) -> None:
    """Place the cells of DATA among those of an indexed reference, and write DATA with their labels to OUT.

    Parameters
    ----------
    model
        The model that embedded the reference.
    data
        Cells: .h5ad, 10x .h5 or matrix folder, .zarr.
    reference
        Index written by "cellwright index".
    out
        File to write: DATA with obs["<label>_pred"], obs["<label>_prob"], obs["reference_outside"] and the embedding.
    threshold
        Cells with a smaller share of votes are "unassigned", 0 .. 1.
    """
    from cellwright import verbs
    from cellwright.data.write import check_out, write_h5ad
    from cellwright.tasks.annotate import check_threshold

    check_out(data, out)
    check_threshold(threshold)
    opened = verbs.open_model(model, which.vocab, key=which.key)
    index = verbs.open_index(reference, opened)
    source = verbs.open_deep(data, opened, read, run=run)
    mapped, embedding_nd = verbs.mapping(opened, source, index, run)
    columns = verbs.mapping_columns(mapped, threshold)
    record = verbs.mapping_record(opened, source, index, run) | {"threshold": threshold}
    write_h5ad(data, out, obs=columns, obsm={opened.key: embedding_nd}, uns={"cellwright": {"reference": record}})
    say(source.contract.lines())
    for name in mapped.votes:
        say([f"{count:8d}  {word}" for word, count in columns[f"{name}_pred"].value_counts().items()])
    far = float((mapped.outside_n > 0.99).mean())
    say([f"{far:.1%} of the cells lie farther out than 99 % of the reference"])
    say([f"wrote {out}: " + ", ".join(f'obs["{name}"]' for name in columns) + f', obsm["{opened.key}"]'])
