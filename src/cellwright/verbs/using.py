"""Verbs that use a model: open data, load a model, do the task, hand back a typed result. Nothing is printed.

Every verb takes an AnnData or a path for cells, and a loaded `Model` or a path for the model. What is handed in is not
changed, except that ``key_added`` asks for a slot in an AnnData to be filled.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cellwright.config import Config, versions
from cellwright.files import atomic_path
from cellwright.models import FAMILIES, Model, load, shipped
from cellwright.tasks.inference import InferenceOptions

if TYPE_CHECKING:
    import numpy as np

    from cellwright.data.cells import Cells
    from cellwright.tasks.annotate import Annotation


STATES = ("raw", "normalised", "log1p", "binned", "unknown")
"""States of a matrix that can be described at all."""


class ReadOptions(Config):
    """How cells are read."""

    layer: str | None = None
    """Matrix to read: X, raw, or a layer's name; unset = counts where there are any."""
    assume: str | None = None
    """What the values are, overriding what is detected: raw | normalised | log1p."""
    genes: Literal["harmonise", "exact"] = "harmonise"
    """How gene names are matched: harmonise (aliases, Ensembl ids, versions) | exact (as published tools do)."""
    backed: bool = False
    """Leave the matrix on disk and read it in blocks."""


def open_model(model: Model | str | Path) -> Model:
    """Return ``model``, loaded first where a path or a shipped name was given."""
    return model if isinstance(model, Model) else load(model)


def open_data(data: Any, model: Model, read: ReadOptions | None = None) -> Cells:
    """Open cells for a model: its vocabulary, the states of values that its family accepts."""
    from cellwright.data.cells import open_cells

    read = read or ReadOptions()
    return open_cells(
        data,
        model.vocab,
        accepts=model.family.accepts,
        layer=read.layer,
        assume=read.assume,
        genes=read.genes,
        backed=read.backed,
    )


def provenance(model: Model, source: Cells, run: InferenceOptions) -> dict[str, Any]:
    """Return what a result depends on, for ``uns["cellwright"]``."""
    return {
        "model": {
            "family": model.family.name,
            "source": model.report.source,
            "sha256": model.sha256(),
            "vocab_sha256": model.vocab.sha256,
        },
        "contract": source.contract.record(),
        "options": run.record() | {"ties": run.ties or model.inputs.ties},
        "versions": versions(),
    }


def embed(
    adata: Any,
    model: Model | str | Path,
    *,
    key_added: str | None = None,
    read: ReadOptions | None = None,
    run: InferenceOptions | None = None,
) -> np.ndarray:
    """Embed cells with a model as it is (zero-shot).

    Parameters
    ----------
    adata
        AnnData, or the path of an ``.h5ad``, 10x ``.h5``, 10x matrix folder or ``.zarr``.
    model
        A loaded model, the path of a checkpoint, or the name of a shipped one.
    key_added
        Also fill ``adata.obsm[key_added]`` and ``adata.uns["cellwright"][key_added]``; needs an AnnData.
    read
        How the cells are read.
    run
        How the model is run.

    Returns
    -------
    float32 ``[n, d]``, rows in the order of ``adata``.

    Raises
    ------
    ValueError
        When the data or the model cannot be used; the message says what was seen and what to do.

    Examples
    --------
    >>> x_nd = cellwright.embed(adata, "path/to/scGPT_human")  # doctest: +SKIP
    """
    from cellwright.tasks.embed import embed_cells

    is_kept = _may_be_filled(adata, key_added)
    model, run = open_model(model), run or InferenceOptions()
    source = open_data(adata, model, read)
    embedding_nd = embed_cells(model, source, run)
    if is_kept:
        adata.obsm[key_added] = embedding_nd
        _note(adata, key_added, provenance(model, source, run))
    return embedding_nd


def annotate(
    adata: Any,
    model: Model | str | Path,
    *,
    threshold: float = 0.0,
    key_added: str | None = None,
    read: ReadOptions | None = None,
    run: InferenceOptions | None = None,
) -> Annotation:
    """Label cells with a model that was fine-tuned for it.

    Parameters
    ----------
    adata
        AnnData or path, see `embed`.
    model
        A model with a trained label head, for instance a run folder of ``finetune``.
    threshold
        Cells whose highest probability is below stay "unassigned", 0 .. 1.
    key_added
        Also fill ``adata.obs[key_added + "_pred"]`` and ``"_prob"``; needs an AnnData.
    read
        How the cells are read.
    run
        How the model is run.

    Returns
    -------
    `cellwright.tasks.annotate.Annotation`: classes, probabilities, labels.
    """
    from cellwright.tasks.annotate import annotate_cells

    is_kept = _may_be_filled(adata, key_added)
    model, run = open_model(model), run or InferenceOptions()
    source = open_data(adata, model, read)
    found = annotate_cells(model, source, run, threshold=threshold)
    if is_kept:
        for name, column in annotation_columns(found, key_added).items():
            adata.obs[name] = column
        _note(adata, key_added, provenance(model, source, run) | {"threshold": threshold})
    return found


def annotation_columns(found: Annotation, key: str) -> dict[str, Any]:
    """Return the columns of obs that hold an annotation: ``<key>_pred`` (categorical) and ``<key>_prob``."""
    import pandas as pd

    from cellwright.tasks.annotate import UNASSIGNED

    # a class may be called "unassigned" itself
    is_needed = (found.code_n < 0).any() and UNASSIGNED not in found.classes
    categories = [*found.classes, UNASSIGNED] if is_needed else list(found.classes)
    return {f"{key}_pred": pd.Categorical(found.label_n, categories=categories), f"{key}_prob": found.prob_n}


def _may_be_filled(adata: Any, key_added: str | None) -> bool:
    if key_added is not None and isinstance(adata, str | Path):
        raise ValueError(f"key_added={key_added!r} fills a slot of an AnnData, but a path was given; open it first")
    return key_added is not None


def _note(adata: Any, key: str, record: dict[str, Any]) -> None:
    from cellwright.data.write import storable

    notes = dict(adata.uns.get("cellwright", {}))
    adata.uns["cellwright"] = notes | {key: storable(record)}


def inspect(
    what: Any, *, model: Model | str | Path | None = None, read: ReadOptions | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Say what a data set or a model is.

    Parameters
    ----------
    what
        A model (loaded or path) or data (AnnData or path). A path that holds a checkpoint is taken as a model.
    model
        For data: whose vocabulary and needs it is held against; ``None`` = all known human genes, any state.
    read
        How the cells are read.

    Returns
    -------
    The findings as a JSON object and as lines of text.
    """
    if isinstance(what, Model) or (isinstance(what, str | Path) and _is_model(what)):
        return _inspect_model(open_model(what))
    if model is not None:
        contract = open_data(what, open_model(model), read).contract
    else:
        from cellwright.data.cells import open_cells
        from cellwright.data.gene_table import human_genes
        from cellwright.vocab import GeneVocab

        read = read or ReadOptions()
        known = GeneVocab(tuple(human_genes().id_of))
        contract = open_cells(
            what, known, accepts=STATES, layer=read.layer, assume=read.assume, genes=read.genes, backed=read.backed
        ).contract
    return {"kind": "data"} | contract.record(), contract.lines()


def _is_model(path: str | Path) -> bool:
    place = Path(path)
    if str(path) in shipped():
        return True
    is_own = place.is_dir() and (place / "config.json").is_file()
    return place.exists() and (is_own or any(family.is_released(place) for family in FAMILIES.values()))


def _inspect_model(model: Model) -> tuple[dict[str, Any], list[str]]:
    record = {
        "kind": "model",
        "family": model.family.name,
        "num_parameters": model.num_parameters,
        "config": model.config.record(),
        "inputs": model.inputs.record(),
        "heads": {name: list(classes) for name, classes in model.classes.items()},
        "vocab": {
            "num_tokens": len(model.vocab),
            "num_genes": len(model.vocab.genes),
            "specials": model.vocab.specials,
            "sha256": model.vocab.sha256,
        },
        "sha256": model.sha256(),
        "report": model.report.record(),
        "weights_terms": model.family.weights_terms,
        "citation": model.family.citation,
    }
    report = model.report
    lines = [
        f"{report.source}: {model.family.title}, {model.num_parameters:,} parameters ({report.kind} format)",
        f"vocabulary: {len(model.vocab.genes):,} genes and {len(model.vocab.specials)} special tokens",
        f"tensors: {len(report.loaded)} loaded, 0 missing, 0 of another shape, {len(report.unused)} unused"
        + (f" ({', '.join(report.unused[:5])})" if report.unused else ""),
        f"key layout: {report.layout}",
        *(f"head {name}: {len(classes)} classes ({', '.join(classes[:8])})" for name, classes in model.classes.items()),
        *(f"head {name}: none" for name in report.absent_heads),
        *(f"{name}: {value}" for name, value in model.config.record().items()),
        f"sha256: {record['sha256']}",
        f"terms: {model.family.weights_terms}",
    ]
    return record, lines


def convert(model: Model | str | Path, out: str | Path, *, to: str = "cellwright") -> list[str]:
    """Write a model in another format and return what was done, as lines of text.

    Parameters
    ----------
    model
        Any model that can be opened.
    out
        Folder to make; one that holds files is refused.
    to
        ``cellwright`` (safetensors and JSON) or ``released`` (the family's published format).
    """
    from cellwright.data.write import check_place

    out = Path(out)
    if to not in ("cellwright", "released"):
        raise ValueError(f"to = {to!r}; choose cellwright or released")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not an empty folder; choose another")
    check_place(out)
    opened = open_model(model)
    if to == "released":
        opened.release(out)
    else:
        with atomic_path(out) as draft:
            opened.save(draft)
    return [f"{opened.report.source} ({opened.report.kind}, {opened.report.layout}) -> {out} ({to} format)"]
