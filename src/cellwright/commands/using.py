"""Commands that use a model on cells: read, call `cellwright.verbs`, write, say what was done."""

from __future__ import annotations

from pathlib import Path

from cellwright.commands.saying import say
from cellwright.config import Config
from cellwright.tasks.inference import InferenceOptions
from cellwright.verbs import AnswerOptions, ReadOptions


class TellOptions(AnswerOptions):
    """How cells are told by a model of a family that writes sentences, and how answers are given."""

    tell: str | None = None
    """Categories to tell, separated by commas (organ,region); unset = coarse and fine cell type."""
    faithful: bool = False
    """Tell as the published code does: genes by spelling only, every word may be said."""


class EmbedOptions(Config):
    """Whose state the embedding is, for a model of a family that writes sentences."""

    position: str | None = None
    """task = the asking word's state, coarse = the first told word's (published code); unset = the family's own."""
    faithful: bool = False
    """As the published code does: genes by spelling only, every word may be said, position coarse."""


def embed(
    model: str,
    data: Path,
    *,
    out: Path,
    key: str | None = None,
    vocab: Path | None = None,
    how: EmbedOptions,
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
    key
        Slot of obsm to write instead of X_<family>.
    vocab
        Published vocabulary file, where it does not lie beside the weights (scMulan: meta_info.pt).
    """
    from cellwright import verbs
    from cellwright.data.write import check_key, check_out, write_h5ad

    check_out(data, out)
    opened = verbs.open_model(model, vocab)
    key = check_key("obsm", opened.key if key is None else key)
    source = verbs.open_data(data, opened, verbs.published_reading(read) if how.faithful else read)
    embedding_nd = verbs.embedding(opened, source, run, position=how.position, is_faithful=how.faithful)
    record = {key: verbs.provenance(opened, source, run) | how.record()}
    write_h5ad(data, out, obsm={key: embedding_nd}, uns={"cellwright": record})
    say(source.contract.lines())
    say([f'wrote {out}: obsm["{key}"] {embedding_nd.shape[0]} x {embedding_nd.shape[1]}'])


def annotate(
    model: str,
    data: Path,
    *,
    out: Path,
    threshold: float = 0.0,
    key: str = "cell_type",
    vocab: Path | None = None,
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
        File to write: DATA with obs["<key>_pred"] and obs["<key>_prob"]; told cells have obs["<key>_coarse_pred"] too,
        broader answers obs["<key>_level"].
    threshold
        Cells whose probability is below are "unassigned", 0 .. 1.
    key
        Beginning of the column names.
    vocab
        Published vocabulary file, where it does not lie beside the weights (scMulan: meta_info.pt).
    """
    from cellwright import verbs
    from cellwright.data.write import check_key, check_out, write_h5ad

    check_out(data, out)
    check_key("obs", key)
    opened = verbs.open_model(model, vocab)
    source = verbs.open_data(data, opened, verbs.published_reading(read) if how.faithful else read)
    asked = _items(how.tell or "", "--tell")
    verbs.check_columns(source.obs.columns, key, how)
    found = verbs.annotation(opened, source, run, threshold=threshold, tell=asked, is_faithful=how.faithful, answer=how)
    about = {"threshold": threshold} | verbs.answer_record(found, how)
    columns = verbs.annotation_columns(found, key, has_ids=how.ontology)
    write_h5ad(data, out, obs=columns, uns={"cellwright": {key: verbs.provenance(opened, source, run) | about}})
    say([*source.contract.lines(), *verbs.answer_lines(found)])
    for name in columns:
        if name.endswith(("_pred", "_level", "_smoothed")):
            say([f"{count:8d}  {word}" for word, count in columns[name].value_counts().items()])
    say([f"wrote {out}: " + ", ".join(f'obs["{name}"]' for name in columns)])


def _items(text: str, option: str) -> list[str]:
    """Read a list with commas."""
    items = [item.strip() for item in text.split(",")] if text.strip() else []
    if not all(items):
        raise ValueError(f"{option} {text!r}: a name between the commas is empty")
    return items
