"""Commands that use a model on cells: read, call `cellwright.verbs`, write, say what was done."""

from __future__ import annotations

from pathlib import Path

from cellwright.commands.saying import say
from cellwright.config import Config
from cellwright.tasks.inference import InferenceOptions
from cellwright.verbs import AnswerOptions, DepthOptions, ModelOptions, ReadOptions


class TellOptions(AnswerOptions):
    """How cells are told by a model of a family that writes sentences, and how answers are given."""

    tell: str | None = None
    """Categories to tell, separated by commas (organ,region); unset = coarse and fine cell type."""
    faithful: bool = False
    """Tell as the published code does: genes by spelling only, every word may be said."""


class EmbedOptions(Config):
    """Whose state the embedding is."""

    pool: str | None = None
    """How tokens become the embedding: all | max (scFoundation), cls | avg-pool | w-pool (scGPT); unset = as made."""
    position: str | None = None
    """Families that write sentences: task = the asking word's state, coarse = the first told word's (published code);
    unset = the family's own."""
    faithful: bool = False
    """Families that write sentences: as published, genes by spelling only, every word may be said, position coarse."""


class WriteOptions(Config):
    """What is written: where the embedding goes, and what of genes in their context beside it."""

    slot: str | None = None
    """Slot of obsm to write instead of X_<family>."""
    contexts: str | None = None
    """Also write each gene's state in each cell to this .zarr folder (published gene, gene_batch); 39 MB a cell."""
    only: str | None = None
    """Genes whose states are written, separated by commas; unset = all of the model, which sees all either way."""
    together: bool = False
    """All cells in one pass, whose states then depend on each other (published gene_batch); a few cells only."""


def embed(
    model: str,
    data: Path,
    *,
    out: Path,
    which: ModelOptions,
    how: EmbedOptions,
    deep: DepthOptions,
    what: WriteOptions,
    read: ReadOptions,
    run: InferenceOptions,
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
    """
    from cellwright import verbs
    from cellwright.data.write import check_key, check_out, write_h5ad

    check_out(data, out)
    contexts = _context_request(what, data, out)
    opened = verbs.with_pool(verbs.open_model(model, which.vocab, key=which.key), how.pool)
    slot = check_key("obsm", opened.key if what.slot is None else what.slot)
    source = verbs.open_deep(data, opened, verbs.published_reading(read) if how.faithful else read, deep, run=run)
    opened, cells = verbs.prepared(opened, source, deep)
    found = None
    if contexts is not None:  # what cannot be written is refused before anything runs
        only = listed(what.only or "", "--only")
        found = verbs.contexts_of(opened, cells, only=only, is_together=what.together, run=run)
    embedding_nd = verbs.embedding(opened, cells, run, position=how.position, is_faithful=how.faithful)
    record = verbs.provenance(opened, source, run) | how.record() | verbs.embedding_record(opened, deep)
    lines = [f'wrote {out}: obsm["{slot}"] {embedding_nd.shape[0]} x {embedding_nd.shape[1]}']
    if contexts is not None and found is not None:
        shape = verbs.write_contexts(found, contexts, source=source, record=record)
        record |= {"contexts": str(contexts)}
        lines.append(f"wrote {contexts}: {' x '.join(map(str, shape))} (cells, genes, width)")
    write_h5ad(data, out, obsm={slot: embedding_nd}, uns={"cellwright": {slot: record}})
    say([*source.contract.lines(), *lines])


def _context_request(what: WriteOptions, data: Path, out: Path) -> Path | None:
    """Return where states of genes are to be written, if anywhere."""
    from cellwright.data.contexts import check_contexts_out

    if what.contexts is None:
        if what.only is not None or what.together:
            raise ValueError("--only and --together say how states of genes are written; name the place (--contexts)")
        return None
    return check_contexts_out(what.contexts, others=(data, out))


def annotate(
    model: str,
    data: Path,
    *,
    out: Path,
    threshold: float = 0.0,
    slot: str = "cell_type",
    which: ModelOptions,
    how: TellOptions,
    read: ReadOptions,
    run: InferenceOptions,
) -> None:
    """Label cells with a fine-tuned model or one that tells what cells are, and write DATA with labels to OUT.

    Parameters
    ----------
    model
        Run folder of "finetune annotate", another model with a label head, or a model that writes sentences.
    data
        Cells: .h5ad, 10x .h5 or matrix folder, .zarr.
    out
        File to write: DATA with obs["<slot>_pred"] and obs["<slot>_prob"]; told cells have obs["<slot>_coarse_pred"]
        too, broader answers obs["<slot>_level"].
    threshold
        Cells whose probability is below are "unassigned", 0 .. 1.
    slot
        Beginning of the column names.
    """
    from cellwright import verbs
    from cellwright.data.write import check_key, check_out, write_h5ad

    check_out(data, out)
    check_key("obs", slot)
    opened = verbs.open_model(model, which.vocab, key=which.key)
    source = verbs.open_data(data, opened, verbs.published_reading(read) if how.faithful else read, run=run)
    asked = listed(how.tell or "", "--tell")
    verbs.check_columns(source.obs.columns, slot, how)
    found = verbs.annotation(opened, source, run, threshold=threshold, tell=asked, is_faithful=how.faithful, answer=how)
    about = {"threshold": threshold} | verbs.answer_record(found, how)
    columns = verbs.annotation_columns(found, slot, has_ids=how.ontology)
    write_h5ad(data, out, obs=columns, uns={"cellwright": {slot: verbs.provenance(opened, source, run) | about}})
    say([*source.contract.lines(), *verbs.answer_lines(found)])
    for name in columns:
        if name.endswith(("_pred", "_level", "_smoothed")):
            say([f"{count:8d}  {word}" for word, count in columns[name].value_counts().items()])
    say([f"wrote {out}: " + ", ".join(f'obs["{name}"]' for name in columns)])


def listed(text: str, option: str) -> list[str]:
    """Read a list with commas."""
    items = [item.strip() for item in text.split(",")] if text.strip() else []
    if not all(items):
        raise ValueError(f"{option} {text!r}: a name between the commas is empty")
    return items
