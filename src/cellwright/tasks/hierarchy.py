"""Which fine cell type belongs to which coarse one, among the words that a model knows.

Source: scMulan's words come from uHAF, a tree of cell types for each organ, so that a fine type can stand under several
coarse ones (a pericyte under fibroblast, endothelial cell or cell). The place of a fine word is asked of four sources
in turn: what the user gave, what the training cells said, the published place of the word, and the Cell Ontology. The
last two infer: coarse words that they do not know remain possible. A word that none can place stays possible under
every coarse word, and is reported.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cellwright.config import did_you_mean, some_of
from cellwright.data.ontology import cell_ontology, climb, published_types

SOURCES = ("given", "training", "published", "ontology", "itself", "nothing")
"""Who placed a fine word. itself: it is a coarse word too, and nothing else is known. nothing: it is unplaced."""
_HEADERS = ({"child", "fine", "cell_type"}, {"parent", "coarse", "coarse_type"})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WordHierarchy:
    """Coarse and fine words, and which fine word may follow which coarse one. Axes ``c`` coarse, ``f`` fine."""

    coarse: tuple[str, ...]
    """In the order of the vocabulary; empty for a model that is taught fine types alone."""
    fine: tuple[str, ...]
    is_child_cf: np.ndarray
    """bool ``[c, f]``: the fine word may be said behind the coarse one."""
    source_of: Mapping[str, str]
    """Fine word -> one of `SOURCES`."""
    parents_of: Mapping[str, tuple[str, ...]]
    """Name -> names right above it, as far as a source says so; also of names between fine and coarse words."""
    unknown: tuple[str, ...] = ()
    """Names that the user placed and the model does not know."""

    @property
    def unplaced(self) -> tuple[str, ...]:
        """Fine words that no source could place; they may follow every coarse word."""
        return tuple(word for word in self.fine if self.source_of[word] == "nothing")

    @property
    def childless(self) -> tuple[str, ...]:
        """Coarse words that no fine word may follow; where one is said, it is the whole answer."""
        return tuple(np.array(self.coarse, dtype=object)[~self.is_child_cf.any(1)])

    @property
    def pairs(self) -> tuple[tuple[str | None, str | None], ...]:
        """Every answer that can be given: (coarse, fine), and for each coarse word (coarse, ``None``) behind those.

        Without coarse words: (``None``, fine).
        """
        if not self.coarse:
            return tuple((None, word) for word in self.fine)
        found = [(self.coarse[c], self.fine[f]) for c, f in np.argwhere(self.is_child_cf)]
        return (*found, *((word, None) for word in self.coarse))

    def record(self) -> dict[str, Any]:
        """Return where the places are from (JSON form)."""
        count = Counter(self.source_of.values())
        return {
            "placed_by": {source: count[source] for source in SOURCES if count[source]},
            "unplaced": list(self.unplaced),
            "childless": list(self.childless),
            "unknown": list(self.unknown),
        }

    def lines(self) -> list[str]:
        """Return what a user should know of it, in words."""
        count = Counter(self.source_of.values())
        who = ", ".join(f"{count[source]} by {source}" for source in SOURCES if count[source])
        texts = [f"hierarchy: {len(self.fine)} fine types under {len(self.coarse)} coarse ones, placed {who}"]
        for names, what in (
            (self.unplaced, "have no known place and may follow every coarse type"),
            (self.childless, "have no fine type and are the whole answer where they are told"),
            (self.unknown, "stand in the hierarchy given and are no words of the model"),
        ):
            if names:
                texts.append(f"hierarchy: {len(names)} {what}: {some_of(names)}")
        return texts


def model_hierarchy(model: Any, given: Mapping[str, Any] | str | Path | None = None) -> WordHierarchy | None:
    """Return the hierarchy of the words that a model's first question asks for.

    Parameters
    ----------
    model
        A `cellwright.models.Model`.
    given
        Places that go before all others, as `word_hierarchy` takes them, or the path of a table, see `read_hierarchy`.

    Returns
    -------
    ``None`` for a model that is never asked for two categories, the coarse and the fine.

    Raises
    ------
    ValueError
        When places are given for a model without coarse or without fine words, or they contradict it.
    """
    coarse, fine = next((asked for asked in model.family.questions.values() if len(asked) == 2), ("", ""))
    words = [model.vocab.categories.get(name, ()) for name in (coarse, fine)]
    if given is not None and not all(words):
        missing = "coarse" if not words[0] else "fine"
        raise ValueError(
            f"{model.report.source} has no words of {missing} cell types, so no hierarchy between its words can be "
            "given; leave it out"
        )
    if not words[1]:
        return None
    given = read_hierarchy(given) if isinstance(given, str | Path) else given
    return word_hierarchy(*words, given=given, trained=model.origin.get("pretraining", {}).get("hierarchy"))


def word_hierarchy(
    coarse: Sequence[str],
    fine: Sequence[str],
    *,
    given: Mapping[str, str | Sequence[str]] | None = None,
    trained: Mapping[str, Sequence[str]] | None = None,
) -> WordHierarchy:
    """Place fine words under coarse ones.

    Parameters
    ----------
    coarse, fine
        Words of the two categories; a word may be of both.
    given
        Child -> its parent or parents. Names between fine and coarse words may occur: a fine word stands under the
        first coarse words on its way up.
    trained
        Fine word -> coarse words that training cells had with it.

    Raises
    ------
    ValueError
        When ``given`` has a cycle, leads a fine word to no coarse one, or speaks of no fine word at all.
    """
    asked = given_parents(given) if given is not None else {}
    parents_of: dict[str, tuple[str, ...]] = dict(asked)
    if given is not None and not set(fine) & set(asked):
        near = next((hint for word in asked if (hint := did_you_mean(word, fine))), "")
        raise ValueError(
            f"the hierarchy given ({some_of(list(asked)) or 'empty'}) places no fine type of the model{near}"
        )
    inferred = _Inference(coarse)
    is_child_cf = np.zeros((len(coarse), len(fine)), bool)
    source_of = {}
    for f, word in enumerate(fine):
        source_of[word], above = _place(word, coarse, asked, trained or {}, inferred)
        if word not in asked and (named := tuple(name for name in above if name != word)):
            parents_of[word] = named
        if source_of[word] in ("published", "ontology"):
            above = (*above, *inferred.unknown)
        is_child_cf[:, f] = np.isin(coarse, above) if source_of[word] != "nothing" else True
    known = {*coarse, *fine, *(parent for above in asked.values() for parent in above)}
    return WordHierarchy(
        coarse=tuple(coarse),
        fine=tuple(fine),
        is_child_cf=is_child_cf,
        source_of=source_of,
        parents_of=parents_of,
        unknown=tuple(word for word in asked if word not in known),
    )


def _place(
    word: str,
    coarse: Sequence[str],
    asked: Mapping[str, tuple[str, ...]],
    trained: Mapping[str, Sequence[str]],
    inferred: _Inference,
) -> tuple[str, tuple[str, ...]]:
    """Return who places a fine word, and under which coarse words."""
    if not coarse:
        return "nothing", ()
    if word in asked:
        if above := first_above(word, asked, coarse):
            return "given", above
        last = [name for name in climb(word, asked) if set(asked.get(name, ())) <= {name}]
        near = did_you_mean(last[-1], coarse) or f"; coarse types: {some_of(coarse)}"
        raise ValueError(f"the hierarchy given leads from {word!r} to {last[-1]!r}, which is no coarse type{near}")
    if said := tuple(name for name in trained.get(word, ()) if name in coarse):
        return "training", said
    if above := inferred.published(word):
        return "published", above
    if above := inferred.ontology(term_of(word)):
        return "ontology", above
    return ("itself", (word,)) if word in coarse else ("nothing", ())


def first_above(word: str, parents_of: Mapping[str, Iterable[str]], targets: Iterable[str]) -> tuple[str, ...]:
    """Return the targets that come first on each way up from a word; itself where it is said to be its own parent."""
    targets, found, reached = set(targets), {}, [word]
    if word in parents_of.get(word, ()) and word in targets:
        found[word] = None
    for name in reached:
        for parent in parents_of.get(name, ()):
            if parent in targets:
                found[parent] = None
            elif parent not in reached:
                reached.append(parent)
    return tuple(found)


def given_parents(given: Mapping[str, str | Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Return child -> parents, each once; a cycle is a ``ValueError`` that shows it. A name may be its own parent."""
    parents = {
        str(child): tuple(dict.fromkeys([above] if isinstance(above, str) else map(str, above)))
        for child, above in given.items()
    }
    if empty := next((child for child, above in parents.items() if not child or not above or not all(above)), None):
        raise ValueError(f"the hierarchy given has no parent for {empty!r}; leave the row out or name one")
    upward = {child: [name for name in above if name != child] for child, above in parents.items()}
    for child in upward:
        for parent in upward[child]:
            if child in climb(parent, upward):
                raise ValueError(f"the hierarchy given has a cycle: {child!r} is below {parent!r} and above it")
    return parents


def read_hierarchy(path: str | Path) -> dict[str, list[str]]:
    """Read child -> parents from a table of two columns, child and parent, with tabs or commas between.

    A first row of headings is left out (child or fine or cell_type, parent or coarse or coarse_type). A child may stand
    in several rows.

    Raises
    ------
    FileNotFoundError, ValueError
        When there is no such file, or a row has not two names; the message says which row.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no hierarchy at {path}; give a table of two columns, child and parent")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text; give a table of two columns, child and parent") from None
    rows = list(csv.reader(text.splitlines(), delimiter="\t" if "\t" in text else ","))
    found: dict[str, list[str]] = {}
    for number, row in enumerate(rows, 1):
        names = [cell.strip() for cell in row]
        if not any(names):
            continue
        if len(names) != 2 or not all(names):
            raise ValueError(f"{path}, row {number}: {row} are not two names, child and parent")
        if number == 1 and all(name.lower() in known for name, known in zip(names, _HEADERS, strict=True)):
            continue
        found.setdefault(names[0], []).append(names[1])
    if not found:
        raise ValueError(f"{path} has no row of child and parent")
    return found


def term_of(word: str) -> str | None:
    """Return the id of the Cell Ontology's term for a word: as published for it, else by its name."""
    known = published_types().get(word)
    return known.term if known else cell_ontology().resolve(word)


class _Inference:
    """Places words among coarse ones by what is published of them, or by the Cell Ontology."""

    def __init__(self, coarse: Sequence[str]):
        self.coarse = tuple(coarse)
        self.unknown = tuple(word for word in coarse if word not in published_types() and term_of(word) is None)
        self.word_of: dict[str, str] = {}
        for word in coarse:
            if (term := term_of(word)) is not None:
                self.word_of.setdefault(term, word)

    def published(self, word: str) -> tuple[str, ...]:
        """Return the coarse words that come first above a published one; by their terms where names differ."""
        parents_of = {name: known.parents for name, known in published_types().items()}
        found: dict[str, None] = {}
        for parent in parents_of.get(word, ()):
            above = (parent,) if parent in self.coarse else first_above(parent, parents_of, self.coarse)
            found |= dict.fromkeys(above or self.ontology(term_of(parent)))
        return tuple(found)

    def ontology(self, term: str | None) -> tuple[str, ...]:
        """Return the nearest coarse word at or above a term, or nothing."""
        nearest = cell_ontology().roll_up([term], self.word_of)[term] if term is not None else None
        return (self.word_of[nearest],) if nearest is not None else ()


def told_together(coarse_n: np.ndarray, fine_n: np.ndarray, coarse: Sequence[str], fine: Sequence[str]) -> dict:
    """Return fine word -> coarse words that cells have with it, the most frequent first, for codes as cells carry them.

    Cells without one of the two say nothing.
    """
    is_known_n = (coarse_n >= 0) & (fine_n >= 0)
    count = Counter(zip(fine_n[is_known_n].tolist(), coarse_n[is_known_n].tolist(), strict=True))
    found: dict[str, list[str]] = {}
    for f, c in sorted(count, key=lambda pair: (pair[0], -count[pair], pair[1])):
        found.setdefault(fine[f], []).append(coarse[c])
    return found
