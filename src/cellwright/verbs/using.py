"""Verbs that use a model: open data, load a model, do the task, hand back a typed result. Nothing is printed.

Every verb takes an AnnData or a path for cells, and a loaded `Model` or a path for the model. What is handed in is not
changed, except that ``key_added`` asks for a slot in an AnnData to be filled.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cellwright.config import did_you_mean, versions
from cellwright.models import Model
from cellwright.protocols import CellSource
from cellwright.tasks.inference import InferenceOptions
from cellwright.verbs.answering import (
    COVERAGE,
    AnswerOptions,
    answer_columns,
    answer_record,
    check_asked,
    chosen_hierarchy,
    tells_types,
    with_answers,
    with_smoothed,
)
from cellwright.verbs.depths import DepthOptions, depth_options, knows_depth, open_deep, prepared, with_pool
from cellwright.verbs.opening import ReadOptions, open_data, open_model

if TYPE_CHECKING:
    import numpy as np

    from cellwright.data.cells import Cells
    from cellwright.tasks.annotate import Annotation
    from cellwright.tasks.tell import ToldCells


def model_record(model: Model) -> dict[str, str]:
    """Return which model it is, for a record of provenance."""
    return {
        "family": model.family.name,
        "source": model.report.source,
        "layout": model.report.layout,
        "sha256": model.sha256(),
        "vocab_sha256": model.vocab.sha256,
    }


def provenance(model: Model, source: Cells, run: InferenceOptions) -> dict[str, Any]:
    """Return what a result depends on, for ``uns["cellwright"]``."""
    return {
        "model": model_record(model),
        "contract": source.contract.record(),
        "options": run.record() | {"ties": run.ties or model.inputs.ties},
        "versions": versions(),
    }


def embed(
    adata: Any,
    model: Model | str | Path,
    *,
    pool: str | None = None,
    depth: DepthOptions | str | None = None,
    position: Literal["task", "coarse"] | None = None,
    faithful: bool = False,
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
    pool
        How tokens become the embedding: ``all`` or ``max`` (scFoundation), ``cls``, ``avg-pool`` or ``w-pool`` (scGPT).
        ``None`` = as the model was made.
    depth
        For families that know read depth: the depth to ask for (``"t4"``, ``"f1"``, ``"a5"``, see
        `cellwright.tokens.depth.DepthTarget`), or more than that, as `DepthOptions`.
    position
        For families that write sentences: whose state is the embedding. ``task`` = the asking word's, ``coarse`` = the
        first told word's (published scMulan code). ``None`` = the family's own, without telling.
    faithful
        For families that write sentences: as the published code does. Genes are matched by spelling only, every word
        may be said, and the position is ``coarse`` unless it is given.
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
    is_kept, deep = may_be_filled(adata, key_added), depth_options(depth)
    model, run = with_pool(open_model(model), pool), run or InferenceOptions()
    source = open_deep(adata, model, published_reading(read) if faithful else read, deep, run=run)
    model, cells = prepared(model, source, deep)
    embedding_nd = embedding(model, cells, run, position=position, is_faithful=faithful)
    if is_kept:
        adata.obsm[key_added] = embedding_nd
        record = provenance(model, source, run) | {"position": position, "faithful": faithful}
        note(adata, key_added, record | embedding_record(model, deep))
    return embedding_nd


def published_reading(read: ReadOptions | None) -> ReadOptions:
    """Return how published tools read cells: names are matched by spelling only."""
    return (read or ReadOptions()).model_copy(update={"genes": "exact"})


def embedding_record(model: Model, deep: DepthOptions) -> dict[str, Any]:
    """Return how cells were pooled and which depth they were told, where the family knows of such things."""
    pooled = {"pool": pool} if (pool := getattr(model.config, "pooling", None)) else {}
    return pooled | ({"depth": {"target": model.inputs.depth} | deep.asked()} if knows_depth(model) else {})


def embedding(
    model: Model, source: CellSource, run: InferenceOptions, *, position: str | None = None, is_faithful: bool = False
) -> np.ndarray:
    """Embed the cells of an opened source; see `embed`."""
    from cellwright.tasks.embed import embed_cells
    from cellwright.tasks.tell import TellConfig, choose_questions, tell_cells

    if position is None and not is_faithful:
        return embed_cells(model, source, run)
    if position not in (None, "task", "coarse"):
        near = did_you_mean(position, ("task", "coarse"))
        raise ValueError(f"position = {position!r}{near or '; choose task or coarse'}")
    word, (asked, _) = next(iter(choose_questions(model).items()))
    restricted = "no" if is_faithful else "in_turn"
    config = TellConfig(word=word, asked=asked, restricted=restricted, embedding=position or "coarse")
    return tell_cells(model, source, config, options=run).embedding_nd


def annotate(
    adata: Any,
    model: Model | str | Path,
    *,
    threshold: float = 0.0,
    tell: Sequence[str] = (),
    faithful: bool = False,
    answer: AnswerOptions | None = None,
    key_added: str | None = None,
    read: ReadOptions | None = None,
    run: InferenceOptions | None = None,
) -> Annotation | ToldCells:
    """Label cells with a model that was fine-tuned for it, or with one that tells what cells are.

    A trained label head is used where there is one, unless ``tell`` or ``faithful`` asks for words.

    Parameters
    ----------
    adata
        AnnData or path, see `embed`.
    model
        A model with a trained label head, for instance a run folder of ``finetune``; or a model of a family that
        writes sentences.
    threshold
        Cells whose probability is below stay "unassigned", 0 .. 1.
    tell
        Categories to tell, such as ``("organ", "region")``; empty = coarse and fine cell type.
    faithful
        Tell as the published code does: genes are matched by spelling only, and every word may be said; an answer that
        is no cell type is "Unclassified".
    answer
        How answers are given: by which hierarchy, as broader terms where a fine one is unsure, smoothed by neighbours.
    key_added
        Also fill ``adata.obs[key_added + "_pred"]`` and ``"_prob"`` (and those of other categories, see
        `annotation_columns`); needs an AnnData.
    read
        How the cells are read.
    run
        How the model is run.

    Returns
    -------
    `cellwright.tasks.annotate.Annotation`: classes, probabilities, labels; or `cellwright.tasks.tell.ToldCells`: words
    and their probabilities by category. Either has ``answers`` where broader terms were asked for.
    """
    is_kept, answer = may_be_filled(adata, key_added), answer or AnswerOptions()
    if is_kept:
        check_columns(adata.obs.columns, key_added, answer)
    model, run = open_model(model), run or InferenceOptions()
    source = open_data(adata, model, published_reading(read) if faithful else read, run=run)
    found = annotation(model, source, run, threshold=threshold, tell=tell, is_faithful=faithful, answer=answer)
    if is_kept:
        for name, column in annotation_columns(found, key_added, has_ids=answer.ontology).items():
            adata.obs[name] = column
        asked = {"threshold": threshold, "tell": list(tell), "faithful": faithful}
        note(adata, key_added, provenance(model, source, run) | asked | answer_record(found, answer))
    return found


def annotation(
    model: Model,
    source: Cells,
    run: InferenceOptions,
    *,
    threshold: float = 0.0,
    tell: Sequence[str] = (),
    is_faithful: bool = False,
    answer: AnswerOptions | None = None,
) -> Annotation | ToldCells:
    """Label the cells of an opened source; see `annotate`."""
    from cellwright.tasks.annotate import HEAD, annotate_cells, check_threshold
    from cellwright.tasks.tell import choose_questions, tell_categories

    answer = answer or AnswerOptions()
    is_told = bool(tell) or is_faithful or (HEAD not in model.heads and bool(model.family.questions))
    has_types = tells_types(tell, model)
    check_asked(answer, is_told=is_told, is_faithful=is_faithful, tells_types=has_types)
    check_threshold(threshold)
    if is_told:
        choose_questions(model, tell)  # what cannot be asked is refused before a hierarchy is sought
        hierarchy = chosen_hierarchy(model, answer) if not is_faithful else None
        found = tell_categories(
            model,
            source,
            tell,
            is_faithful=is_faithful,
            threshold=threshold,
            hierarchy=hierarchy,
            coverage=COVERAGE if answer.has_terms else 0.0,
            options=run,
        )
    else:
        found = annotate_cells(model, source, run, threshold=threshold)
    return with_smoothed(with_answers(found, answer, threshold), model, source, answer, run)


def check_columns(columns: Iterable[Any], key: str, answer: AnswerOptions) -> None:
    """Refuse to replace ids of the Cell Ontology that the data already have: they are the authors', not a model's."""
    name = f"{key}_ontology_term_id"
    if answer.ontology and name in columns:
        raise ValueError(f"the data already have obs[{name!r}], which ontology would replace; choose another key")


def annotation_columns(found: Annotation | ToldCells, key: str, *, has_ids: bool = False) -> dict[str, Any]:
    """Return the columns of obs that hold an annotation, ``<name>_pred`` (categorical) and ``<name>_prob``.

    The name is ``key`` for cell types, ``<key>_coarse`` for told coarse types, and the category for other told words.
    Broader answers stand in the place of the model's own, with their level (``<key>_level``) and, where asked for,
    their id (``<key>_ontology_term_id``); labels by vote in ``<key>_smoothed``.
    """
    return _own_columns(found, key) | answer_columns(found, key, has_ids=has_ids)


def _own_columns(found: Annotation | ToldCells, key: str) -> dict[str, Any]:
    import pandas as pd

    from cellwright.tasks.annotate import UNASSIGNED, Annotation

    if not isinstance(found, Annotation):
        names = {"cell_type": key, "coarse_type": f"{key}_coarse"}
        columns: dict[str, Any] = {}
        for category, label_n in found.words.items():
            name = names.get(category, category)
            columns |= {f"{name}_pred": pd.Categorical(label_n.astype(object)), f"{name}_prob": found.probs[category]}
        return columns
    # a class may be called "unassigned" itself
    is_needed = (found.code_n < 0).any() and UNASSIGNED not in found.classes
    categories = [*found.classes, UNASSIGNED] if is_needed else list(found.classes)
    return {f"{key}_pred": pd.Categorical(found.label_n, categories=categories), f"{key}_prob": found.prob_n}


def may_be_filled(adata: Any, key_added: str | None) -> bool:
    """Return whether a slot of the AnnData is to be filled; refuse a path in its place."""
    if key_added is not None and isinstance(adata, str | Path):
        raise ValueError(f"key_added={key_added!r} fills a slot of an AnnData, but a path was given; open it first")
    return key_added is not None


def note(adata: Any, key: str, record: dict[str, Any]) -> None:
    """Put a record of provenance beside the slot that was filled."""
    from cellwright.data.write import storable

    notes = dict(adata.uns.get("cellwright", {}))
    adata.uns["cellwright"] = notes | {key: storable(record)}
