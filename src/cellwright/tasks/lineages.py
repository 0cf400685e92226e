"""What stands above each answer of a model: words above words, or terms of the Cell Ontology.

A lineage needs no more than the names of answers, so told words and the classes of a trained head are treated alike.
Terms go by keys: ids of the Cell Ontology (``CL:0000084``), and names where there is no id. Axis ``k``: answers. What
is done with lineages and probabilities stands in `cellwright.tasks.answers`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cellwright.config import did_you_mean
from cellwright.data.ontology import ROOT, cell_ontology, climb, published_types
from cellwright.tasks.hierarchy import WordHierarchy, term_of


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lineages:
    """What each answer is called, and all that is above it."""

    names: tuple[str, ...]
    """What each answer is called by itself."""
    above: tuple[Mapping[str, int], ...]
    """Of each answer: key of a term at or above it -> steps up to it, its own term first (0), the root last."""
    title_of: Mapping[str, str]
    """Key -> what an answer of this term is called: the model's own word where it has one."""
    term_of: Mapping[str, str]
    """Key -> id of the Cell Ontology, or of the nearest broader term; absent where there is none."""
    root: str
    """Key of the term above all."""
    unplaced: tuple[str, ...] = ()
    """Answers above which nothing is known but the root."""
    broader: frozenset[str] = frozenset()
    """Keys of answers that stand for others below them, see `roll_up`."""
    coarse: tuple[str | None, ...] = ()
    """Key of the coarse word of each answer; empty where there is no such thing."""
    alone: frozenset[int] = frozenset()
    """Places of answers that are a coarse word without a fine one."""

    @property
    def own(self) -> tuple[str, ...]:
        """Key of each answer's own term."""
        return tuple(next(iter(above)) for above in self.above)


def class_lineages(names: Sequence[str], parents_of: Mapping[str, Sequence[str]] | None = None) -> Lineages:
    """Return lineages of answers by their names alone: along ``parents_of`` where it is given, else the ontology."""
    if parents_of is not None:
        found = _along_words([(None, name) for name in names], parents_of)
        return replace(found, unplaced=tuple(name for name in names if name not in parents_of))
    return _along_ontology([(None, name) for name in names])


def pair_lineages(hierarchy: WordHierarchy, *, is_ontology: bool) -> Lineages:
    """Return lineages of the pairs of a hierarchy: along its words, or along the Cell Ontology.

    Along the ontology, a fine word without a term stands where its coarse word does.
    """
    if is_ontology:
        return _along_ontology(hierarchy.pairs)
    return _along_words(hierarchy.pairs, hierarchy.parents_of)


def _along_words(pairs: Sequence[tuple[str | None, str | None]], parents_of: Mapping[str, Sequence[str]]) -> Lineages:
    named = {name for pair in pairs for name in pair if name} | {p for above in parents_of.values() for p in above}
    known = {name: term for name in sorted(named) if (term := term_of(name)) is not None}
    root = next((name for name, term in known.items() if term == ROOT), cell_ontology().name_of[ROOT])
    lines = []
    for coarse, fine in pairs:
        # what stands above a told pair is its coarse word, whatever other places the fine one has
        line = {fine: 0} if fine else {}
        for name, steps in climb(coarse or fine, parents_of).items():
            line.setdefault(name, steps + bool(coarse and fine))
        lines.append(_to_root(line, root))
    return Lineages(
        names=tuple(fine or coarse for coarse, fine in pairs),
        above=tuple(lines),
        title_of={name: name for line in lines for name in line},
        term_of=known | {root: ROOT},
        root=root,
        coarse=tuple(coarse for coarse, _ in pairs) if any(coarse for coarse, _ in pairs) else (),
        alone=frozenset(k for k, (_, fine) in enumerate(pairs) if fine is None),
    )


def _along_ontology(pairs: Sequence[tuple[str | None, str | None]]) -> Lineages:
    ontology = cell_ontology()
    title_of, terms, lines = {}, {}, []
    for coarse, fine in pairs:
        line: dict[str, int] = {}
        for name in (fine, coarse):
            if name is None or any(key in ontology.name_of for key in line):
                continue
            base = len(line)
            for key, steps in _ontology_line(name).items():
                line.setdefault(key, base + steps)
        lines.append(_to_root(line, ROOT))
        for name in (fine, coarse):
            if name is not None:
                key = next(iter(_ontology_line(name)))
                title_of.setdefault(key, name)
                if (term := term_of(name)) is not None:
                    terms[key] = term
    keys = {key for line in lines for key in line if key in ontology.name_of}
    own_coarse = [next(iter(_ontology_line(coarse))) if coarse else None for coarse, _ in pairs]
    return Lineages(
        names=tuple(fine or coarse for coarse, fine in pairs),
        above=tuple(lines),
        title_of={key: ontology.name_of[key] for key in keys} | title_of,
        term_of={key: key for key in keys} | terms,
        root=ROOT,
        unplaced=tuple(dict.fromkeys(next(iter(line)) for line in lines if not line.keys() & (keys - {ROOT}))),
        coarse=tuple(own_coarse) if any(own_coarse) else (),
        alone=frozenset(k for k, (_, fine) in enumerate(pairs) if fine is None),
    )


def _ontology_line(name: str) -> dict[str, int]:
    """Return key -> steps of a name; one whose term is broader than itself stands below that term."""
    term, published = term_of(name), published_types().get(name)
    if term is None:
        return {name: 0}
    above = cell_ontology().above(term)
    if published is None or published.is_exact:
        return dict(above)
    return {name: 0} | {key: steps + 1 for key, steps in above.items()}


def _to_root(line: Mapping[str, int], root: str) -> dict[str, int]:
    """Return the line with the root at its end."""
    below = {key: steps for key, steps in line.items() if key != root}
    return below | {root: line.get(root, max(below.values(), default=-1) + 1)}


def find_targets(names: Iterable[str]) -> tuple[str, ...]:
    """Return the ids of terms of the Cell Ontology by id, name or synonym, each once.

    Raises
    ------
    ValueError
        When there are none, or a name stands for no term or for several.
    """
    ontology, found = cell_ontology(), {}
    for name in names:
        ids = ontology.candidates(name)
        if not ids and name in published_types():
            ids = tuple(filter(None, [published_types()[name].term]))
        if len(ids) > 1:
            raise ValueError(f"roll_up: {name!r} may be {' or '.join(ids)}; name it by its id")
        if not ids:
            near = did_you_mean(name, ontology.name_of.values()) or "; give ids (CL:...) or names of terms"
            raise ValueError(f"roll_up: {name!r} is no term of the Cell Ontology of {ontology.release}{near}")
        found[ids[0]] = None
    if not found:
        raise ValueError("roll_up names no term; give ids (CL:...) or names of terms, or leave it out")
    return tuple(found)


def roll_up(prob_nk: np.ndarray, lineages: Lineages, targets: Sequence[str]) -> tuple[np.ndarray, Lineages]:
    """Sum answers by the nearest target at or above each.

    Parameters
    ----------
    prob_nk
        float ``[n, k]``, rows sum to 1.
    lineages
        Along the Cell Ontology.
    targets
        Ids, see `find_targets`. Nearest is decided as in `CellOntology.roll_up`.

    Returns
    -------
    Probabilities of the targets that any answer belongs to, in the order given, then of the answers that belong to
    none, unchanged; and their lineages.
    """
    ontology = cell_ontology()
    place: list[str] = []
    for above in lineages.above:
        known = [key for key in above if key in targets]
        nearest = min(known, key=lambda key: (above[key], -len(ontology.above(key)), key), default=None)
        place.append(nearest or next(iter(above)))
    keys = [*(key for key in targets if key in place), *dict.fromkeys(key for key in place if key not in targets)]
    is_in_ku = np.array([[key == own for key in keys] for own in place], dtype=np.float64)
    summed_nk = (prob_nk.astype(np.float64) @ is_in_ku).astype(np.float32)
    first = {key: place.index(key) for key in keys}
    return summed_nk, Lineages(
        names=tuple(lineages.title_of[key] if key in targets else lineages.names[first[key]] for key in keys),
        above=tuple(dict(ontology.above(key)) if key in targets else lineages.above[first[key]] for key in keys),
        title_of=lineages.title_of,
        term_of=lineages.term_of,
        root=lineages.root,
        unplaced=lineages.unplaced,
        broader=frozenset(
            key for key in keys if any(key == own != mine for own, mine in zip(place, lineages.own, strict=True))
        ),
    )


def read_names(text: str) -> list[str]:
    """Return names with commas between, or those of the file called ``text``, one a line (``#`` begins a comment).

    A name that holds a comma itself must come by file, or by its id.
    """
    path = Path(text)
    if path.suffix in (".txt", ".tsv", ".csv") or path.is_file():
        if not path.is_file():
            raise FileNotFoundError(
                f"roll_up: no file {path}; give names or ids with commas between, or a file of them"
            )
        lines = [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
        return [line for line in lines if line]
    return [name.strip() for name in text.split(",") if name.strip()]
