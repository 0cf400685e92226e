"""How the answers of annotation are given: by hierarchy, as broader terms where a fine one is unsure, smoothed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import Field

from cellwright.config import Config
from cellwright.models import Model
from cellwright.tasks.hierarchy import WordHierarchy, given_parents, model_hierarchy, read_hierarchy
from cellwright.tasks.inference import InferenceOptions

if TYPE_CHECKING:
    from cellwright.data.cells import Cells
    from cellwright.tasks.annotate import Annotation
    from cellwright.tasks.tell import ToldCells

COVERAGE = 0.99
"""How much of a cell's probability is followed pair by pair before answers are summed."""


class AnswerOptions(Config):
    """How answers are given, for cell types."""

    hierarchy: str | dict[str, str | list[str]] = "auto"
    """Which fine type belongs to which coarse one: auto (training cells, published places, Cell Ontology) | none (fine
    types are told after coarse ones, unconstrained) | a table of two columns, child and parent."""
    back_off: float | None = Field(None, ge=0, le=1)
    """Answer with the most specific term whose summed probability reaches this, 0 .. 1."""
    ontology: bool = False
    """Follow the Cell Ontology, and write its ids."""
    roll_up: str | tuple[str, ...] | None = None
    """Sum answers by these terms of the Cell Ontology: names or ids with commas between or a file with one a line."""
    smooth: bool = False
    """Also write labels by the vote of neighbouring cells."""
    smooth_threshold: float = Field(0.5, ge=0, le=1)
    """Smallest share of the vote that decides; cells without such a winner are "Unclassified"."""

    @property
    def has_terms(self) -> bool:
        """Whether answers other than the model's own are asked for."""
        return self.back_off is not None or self.ontology or self.roll_up is not None

    def targets(self) -> tuple[str, ...]:
        """Return the ids of the terms to roll up to; see `cellwright.tasks.lineages.find_targets`."""
        from cellwright.tasks.lineages import find_targets, read_names

        return find_targets(read_names(self.roll_up) if isinstance(self.roll_up, str) else self.roll_up or ())


def check_asked(answer: AnswerOptions, *, is_told: bool, is_faithful: bool, tells_types: bool) -> None:
    """Refuse options that do not go together, before anything is run.

    Parameters
    ----------
    answer
        The options.
    is_told
        Whether cells are told in words (else they are labelled by a class head).
    is_faithful
        Whether the published pipeline is asked for.
    tells_types
        Whether cell types are among what is told.
    """
    given = answer.hierarchy not in ("auto", "none")
    if is_faithful and (answer.has_terms or given):
        raise ValueError(
            "the published pipeline (faithful) knows no hierarchy, back_off, ontology or roll_up; leave one of them out"
        )
    if is_told and not tells_types and (answer.has_terms or given or answer.smooth):
        raise ValueError("hierarchy, back_off, ontology, roll_up and smooth are for cell types; tell cell_type too")
    if not is_told and given and answer.back_off is None:
        raise ValueError("a hierarchy changes nothing for a class head unless back_off is given")
    if given and (answer.ontology or answer.roll_up is not None) and not is_told:
        raise ValueError("back_off follows the hierarchy given or the Cell Ontology; leave out one of the two")
    if answer.roll_up is not None:
        answer.targets()


def chosen_hierarchy(model: Model, answer: AnswerOptions) -> WordHierarchy | None:
    """Return the hierarchy of a model's words; ``None`` = they are told one after another.

    A model without coarse words has none to obey, but is asked for the probabilities of all its fine words where terms
    are asked for.
    """
    if answer.hierarchy == "none" and not answer.has_terms:
        return None
    if answer.hierarchy == "none":
        raise ValueError("back_off, ontology and roll_up need the hierarchy; leave out hierarchy none")
    found = model_hierarchy(model, None if answer.hierarchy == "auto" else answer.hierarchy)
    return found if found is not None and (found.coarse or answer.has_terms) else None


def with_answers(found: Annotation | ToldCells, answer: AnswerOptions, threshold: float) -> Annotation | ToldCells:
    """Return an annotation with broader answers, where they are asked for."""
    from cellwright.tasks.annotate import Annotation
    from cellwright.tasks.answers import back_off
    from cellwright.tasks.lineages import class_lineages, pair_lineages, roll_up

    if not answer.has_terms:
        return found
    is_ontology = answer.ontology or answer.roll_up is not None
    if isinstance(found, Annotation):
        given = _given(answer)
        along = "ontology" if given is None else "given"
        prob_nk, lineages = found.prob_nk, class_lineages(found.classes, given)
    else:
        along = "ontology" if is_ontology else "words"
        prob_nk, lineages = found.pairs.prob_nk, pair_lineages(found.hierarchy, is_ontology=is_ontology)
    if answer.roll_up is not None:
        prob_nk, lineages = roll_up(prob_nk, lineages, answer.targets())
    return replace(found, answers=back_off(prob_nk, lineages, answer.back_off or 0.0, along=along, threshold=threshold))


def _given(answer: AnswerOptions) -> dict[str, tuple[str, ...]] | None:
    if answer.hierarchy in ("auto", "none"):
        return None
    table = read_hierarchy(answer.hierarchy) if isinstance(answer.hierarchy, str) else answer.hierarchy
    return given_parents(table)


def with_smoothed(
    found: Annotation | ToldCells, model: Model, source: Cells, answer: AnswerOptions, run: InferenceOptions
) -> Annotation | ToldCells:
    """Return an annotation with labels by the vote of neighbours in the model's embedding, where it is asked for."""
    from cellwright.tasks.annotate import Annotation
    from cellwright.tasks.embed import embed_cells
    from cellwright.tasks.smooth import neighbour_distances, smooth_labels

    if not answer.smooth:
        return found
    is_head = isinstance(found, Annotation)
    label_n = found.label_n if is_head else found.words["cell_type"]
    if found.answers is not None:
        label_n = found.answers.label_n
    embedding_nd = embed_cells(model, source, run) if is_head else found.embedding_nd
    distance_nn = neighbour_distances(embedding_nd)
    return replace(found, smoothed=smooth_labels(label_n, distance_nn, threshold=float(answer.smooth_threshold)))


def answer_columns(found: Annotation | ToldCells, key: str, *, has_ids: bool = False) -> dict[str, Any]:
    """Return the columns of obs that broader answers and smoothing add or replace."""
    import pandas as pd

    columns: dict[str, Any] = {}
    if (answers := found.answers) is not None:
        columns = {f"{key}_pred": pd.Categorical(answers.label_n.astype(object)), f"{key}_prob": answers.prob_n}
        if answers.coarse_n is not None:
            columns[f"{key}_coarse_pred"] = pd.Categorical(answers.coarse_n.astype(object))
            columns[f"{key}_coarse_prob"] = answers.coarse_prob_n
        columns[f"{key}_level"] = pd.Categorical(answers.level_n.astype(object))
        if has_ids:
            columns[f"{key}_ontology_term_id"] = pd.Categorical(answers.term_n.astype(object))
    if found.smoothed is not None:
        columns[f"{key}_smoothed"] = pd.Categorical(found.smoothed.label_n.astype(object))
        columns[f"{key}_smoothed_share"] = found.smoothed.score_n
    return columns


def answer_lines(found: Annotation | ToldCells) -> list[str]:
    """Return what a user should know of the hierarchy that was followed, in words."""
    hierarchy, answers = getattr(found, "hierarchy", None), found.answers
    lines: list[str] = [] if hierarchy is None or not hierarchy.coarse else hierarchy.lines()
    if answers is not None and answers.unplaced:
        what = "hierarchy given" if answers.along == "given" else "Cell Ontology"
        lines.append(f"{len(answers.unplaced)} types have no place in the {what}: {', '.join(answers.unplaced)}")
    return lines


def answer_record(found: Annotation | ToldCells, answer: AnswerOptions) -> dict[str, Any]:
    """Return what the answers depend on, for ``uns["cellwright"]``."""
    hierarchy, answers = getattr(found, "hierarchy", None), found.answers
    record: dict[str, Any] = answer.record()
    if hierarchy is not None:
        record["placed"] = hierarchy.record()
    if answers is not None:
        from cellwright.data.ontology import cell_ontology

        record |= {"along": answers.along, "without_place": list(answers.unplaced)}
        record["cell_ontology"] = cell_ontology().release
    return record


def tells_types(asked: Sequence[str], model: Model) -> bool:
    """Whether the fine cell type is among the categories asked for; empty = the first question, which has it."""
    return not asked or "cell_type" in {model.family.category(name) for name in asked}
