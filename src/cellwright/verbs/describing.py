"""Verbs that say what something is, and turn a model into another format. Nothing is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cellwright.files import atomic_path
from cellwright.models import FAMILIES, Model, shipped
from cellwright.tasks.inference import InferenceOptions
from cellwright.verbs.opening import STATES, ModelOptions, ReadOptions, check_new, open_data, open_model


def inspect(
    what: Any,
    *,
    model: Model | str | Path | None = None,
    which: ModelOptions | None = None,
    read: ReadOptions | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """Say what a data set or a model is.

    Parameters
    ----------
    what
        A model (loaded or path) or data (AnnData or path). A path that holds a checkpoint is taken as a model.
    model
        For data: whose vocabulary and needs it is held against; ``None`` = all known human genes, any state.
    which
        Which model of a published file is opened, and with which vocabulary.
    read
        How the cells are read.

    Returns
    -------
    The findings as a JSON object and as lines of text.
    """
    which = which or ModelOptions()
    if isinstance(what, Model) or (isinstance(what, str | Path) and _is_model(what)):
        return _inspect_model(open_model(what, which.vocab, key=which.key))
    if model is not None:
        # what has no room is counted by reading all cells, which those left on disk are spared here
        run = None if read is not None and read.backed else InferenceOptions()
        contract = open_data(what, open_model(model, which.vocab, key=which.key), read, run=run).contract
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
        "heads": {name: list(model.classes.get(name, ())) for name in model.heads},
        "vocab": {
            "num_tokens": len(model.vocab),
            "num_genes": len(model.vocab.genes),
            "specials": model.vocab.specials,
            "categories": {name: len(words) for name, words in model.vocab.categories.items()},
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
        *(f"words of {name}: {len(words)} ({', '.join(words[:5])})" for name, words in model.vocab.categories.items()),
        f"tensors: {len(report.loaded)} loaded, 0 missing, 0 of another shape, {len(report.unused)} unused"
        + (f" ({', '.join(report.unused[:5])})" if report.unused else ""),
        f"key layout: {report.layout}",
        *(
            f"head {name}: {len(classes)} classes ({', '.join(classes[:8])})" if classes else f"head {name}"
            for name, classes in record["heads"].items()
        ),
        *(f"head {name}: none" for name in report.absent_heads),
        *(f"{name}: {value}" for name, value in model.config.record().items()),
        f"sha256: {record['sha256']}",
        *(f"note: {note}" for note in report.notes if note != model.family.weights_terms),
        f"terms: {model.family.weights_terms}",
    ]
    return record, lines


def convert(
    model: Model | str | Path, out: str | Path, *, to: str = "cellwright", which: ModelOptions | None = None
) -> list[str]:
    """Write a model in another format and return what was done, as lines of text.

    Parameters
    ----------
    model
        Any model that can be opened.
    out
        Folder to make; one that holds files is refused.
    to
        ``cellwright`` (safetensors and JSON) or ``released`` (the family's published format).
    which
        Which model of a published file is opened, and with which vocabulary.
    """
    out = Path(out)
    if to not in ("cellwright", "released"):
        raise ValueError(f"to = {to!r}; choose cellwright or released")
    check_new(out)
    which = which or ModelOptions()
    opened = open_model(model, which.vocab, key=which.key)
    if to == "released":
        opened.release(out)
    else:
        with atomic_path(out) as draft:
            opened.save(draft)
    lost = [name for name in opened.heads if to == "released" and name not in opened.family.heads]
    return [
        f"{opened.report.source} ({opened.report.kind}, {opened.report.layout}) -> {out} ({to} format)",
        *(f"left out: the head {name}, for which the published format has no place" for name in lost),
    ]
