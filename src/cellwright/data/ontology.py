"""Kinds of cells: the Cell Ontology as shipped, and the cell types that published models speak of.

Source: the Cell Ontology (Diehl et al., Journal of Biomedical Semantics 2016; Tan et al. 2025); the words of published
scMulan and where they stand in uHAF, its authors' hierarchy. ``resources/LICENSES.md`` says more;
``scripts/build_ontology.py`` builds both tables. They are read on first use (about 0.1 s) and kept. Only is-a
relations are known: a cell that develops from another kind is not below it.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

ROOT = "CL:0000000"
"""The term "cell", above all others."""
TERM_ID = re.compile(r"CL[:_](\d{7})", re.IGNORECASE)


@dataclass(frozen=True, slots=True, eq=False)
class CellOntology:
    """Terms of the Cell Ontology. All methods take ids; `resolve` finds them."""

    release: str
    """Date of the release."""
    name_of: Mapping[str, str]
    """Id -> name; terms in use only."""
    parents_of: Mapping[str, tuple[str, ...]]
    """Id -> ids right above it, sorted."""
    obsolete: Mapping[str, str]
    """Id of a term that is no longer in use -> its last name."""
    ids_of: Mapping[str, tuple[str, ...]]
    """Name or synonym as `folded` -> the ids that it stands for, sorted; names go before synonyms."""
    _above: dict[str, dict[str, int]] = field(default_factory=dict, repr=False)

    def resolve(self, name: str) -> str | None:
        """Return the id of the one term that ``name`` stands for, ``None`` when there is none or there are several.

        Understood are ids (``CL:0000084``, ``CL_0000084``), names, synonyms and the words of published models that mean
        the same as a term. Case, hyphens, commas, a plural s and British "haem" make no difference; ``CD4+`` and
        ``CD4-`` are read as positive and negative. An obsolete id is ``None``.
        """
        found = self.candidates(name)
        return found[0] if len(found) == 1 else None

    def candidates(self, name: str) -> tuple[str, ...]:
        """Return the ids of all terms that ``name`` may stand for; several when it is ambiguous."""
        if is_id := TERM_ID.fullmatch(name.strip()):
            term = f"CL:{is_id[1]}"
            return (term,) if term in self.name_of else ()
        return self.ids_of.get(folded(name), ())

    def parents(self, term: str) -> tuple[str, ...]:
        """Return the ids right above a term, sorted; none above "cell"."""
        try:
            return self.parents_of[term]
        except KeyError:
            gone = f"; it is obsolete ({self.obsolete[term]})" if term in self.obsolete else ""
            raise ValueError(f"{term!r} is no term of the Cell Ontology of {self.release}{gone}") from None

    def above(self, term: str) -> Mapping[str, int]:
        """Return the term itself and all terms above it, each with its distance: the fewest steps up to it."""
        if term not in self._above:
            self.parents(term)
            self._above[term] = climb(term, self.parents_of)
        return self._above[term]

    def ancestors(self, term: str) -> frozenset[str]:
        """Return the ids of all terms above a term, without itself."""
        return frozenset(self.above(term)) - {term}

    def is_a(self, term: str, other: str) -> bool:
        """Whether every cell of the first term is one of the second; true of a term and itself."""
        self.parents(other)
        return other in self.above(term)

    def roll_up(self, terms: Iterable[str], targets: Iterable[str]) -> dict[str, str | None]:
        """Return for each term the nearest of the targets at or above it, ``None`` when there is none.

        Nearest is the one the fewest steps away; among these the most specific, which has the most terms above it;
        among these the one of the lowest id.
        """
        chosen = dict.fromkeys(targets)
        for target in chosen:
            self.parents(target)
        return {
            term: min(
                (target for target in self.above(term) if target in chosen),
                key=lambda target: (self.above(term)[target], -len(self.above(target)), target),
                default=None,
            )
            for term in terms
        }

    def common_ancestor(self, term: str, other: str) -> str:
        """Return the lowest term at or above both.

        Lowest is a shared term with no other shared one below it; among several the one that takes the fewest steps
        from both together, then the most specific, then the one of the lowest id.
        """
        first, second = self.above(term), self.above(other)
        shared = first.keys() & second.keys()
        lowest = shared - {above for term in shared for above in self.ancestors(term)}
        return min(lowest, key=lambda term: (first[term] + second[term], -len(self.above(term)), term))

    def distance(self, term: str, other: str) -> int:
        """Return the fewest steps from one term up to a shared one and down to the other; 0 from a term to itself."""
        first, second = self.above(term), self.above(other)
        return min(first[shared] + second[shared] for shared in first.keys() & second.keys())


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedType:
    """A cell type by the name that a published model gives it."""

    term: str | None
    """Id of its term of the Cell Ontology, the nearest broader one where it has none of its own."""
    is_exact: bool
    """Whether the term means the same kind of cell (or nearly the same)."""
    parents: tuple[str, ...]
    """Names right above it, those that most organs say first: the place depends on the organ."""


def climb(start: str, parents_of: Mapping[str, Iterable[str]]) -> dict[str, int]:
    """Return ``start`` and all above it, each with the fewest steps up to it, nearest first."""
    steps, reached = {start: 0}, [start]
    for name in reached:
        for parent in parents_of.get(name, ()):
            if parent not in steps:
                steps[parent] = steps[name] + 1
                reached.append(parent)
    return steps


def folded(name: str) -> str:
    """Return a name as it is compared: lower case, single spaces, no plural s; ``+`` and a closing ``-`` in words."""
    text = name.lower().replace("+", " positive ").replace("'", " prime ")
    text = re.sub(r"-(?=cd\d|[\s,;)/]|$)", " negative ", text)  # a hyphen inside a word only joins
    text = re.sub(r"[^a-z0-9]+", " ", text.replace("haem", "hem").replace("oesoph", "esoph"))
    words = text.split()
    return " ".join(w[:-1] if len(w) > 3 and w[-1] == "s" and w[-2] not in "sui" else w for w in words)


@cache
def cell_ontology() -> CellOntology:
    """Return the shipped Cell Ontology."""
    lines = gzip.decompress(_resource("cell_ontology.tsv.gz")).decode().splitlines()
    name_of, parents_of, obsolete = {}, {}, {}
    names: dict[str, set[str]] = {}
    others: dict[str, set[str]] = {}
    for line in lines[1:]:
        term, name, parents, synonyms = line.split("\t")
        if not parents and term != ROOT:
            obsolete[term] = name
            continue
        name_of[term], parents_of[term] = name, tuple(filter(None, parents.split("|")))
        names.setdefault(folded(name), set()).add(term)
        for synonym in filter(None, synonyms.split("|")):
            others.setdefault(folded(synonym), set()).add(term)
    for word, line in _published_lines().items():
        if line[1] == "=":
            others.setdefault(folded(word), {line[0]})
    return CellOntology(
        release=lines[0].split("\t")[1],
        name_of=name_of,
        parents_of=parents_of,
        obsolete=obsolete,
        ids_of={name: tuple(sorted(terms)) for name, terms in (others | names).items()},
    )


@cache
def published_types() -> Mapping[str, PublishedType]:
    """Return the cell types of published scMulan: word -> what it means and where it stands in uHAF."""
    return {
        word: PublishedType(
            term=term or None, is_exact=match in ("=", "~"), parents=tuple(filter(None, above.split("|")))
        )
        for word, (term, match, above) in _published_lines().items()
    }


def _published_lines() -> dict[str, tuple[str, str, str]]:
    lines = _resource("cell_ontology_words.tsv").decode().splitlines()
    return {word: (term, match, above) for word, term, match, above in (line.split("\t") for line in lines)}


def _resource(name: str) -> bytes:
    return files("cellwright.data").joinpath(f"resources/{name}").read_bytes()
