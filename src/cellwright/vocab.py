"""The ordered list of tokens that a model knows, and nothing about how names are matched to it.

Saved beside every checkpoint; its hash travels with results, so that data encoded for one vocabulary is never
read with another. Aliases and Ensembl ids are the data door's business (`cellwright.data.genes`). Models that read
and write sentences (scMulan) know words of metadata too, such as organs and cell types: the *categories*.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any, Self

import numpy as np

from cellwright.files import read_json, write_json

RNA = "rna"
FEATURES = ("peak", "protein")
"""Modalities whose tokens carry their name, as in ``protein:CD4`` and ``peak:chr1:100-200``: a gene and the protein
made from it are two tokens. A token without such a name before its first colon is a gene."""


class GeneVocab:
    """Tokens in id order, the last or first few of which may be special.

    Parameters
    ----------
    tokens
        All tokens; the position is the id. Repeats and empty names are refused.
    specials
        Role -> token for the tokens that are not genes, for instance ``{"pad": "<pad>", "cls": "<cls>"}``. One token
        may play several roles.
    categories
        Category -> words of it, for instance ``{"organ": ["Lung", "Liver"]}``. A word may belong to several
        categories; whatever order they come in, they are kept in id order.
    """

    def __init__(
        self,
        tokens: Sequence[str],
        specials: Mapping[str, str] | None = None,
        categories: Mapping[str, Iterable[str]] | None = None,
    ):
        self.tokens = tuple(tokens)
        self.specials = dict(specials or {})
        self._id = {token: i for i, token in enumerate(self.tokens)}
        if len(self._id) != len(self.tokens):
            seen: set[str] = set()
            twice = next(t for t in self.tokens if t in seen or seen.add(t))
            raise ValueError(f"vocabulary token {twice!r} occurs twice; every token needs its own id")
        for role, token in self.specials.items():
            if token not in self._id:
                raise ValueError(f"vocabulary lacks the {role} token {token!r}")
        self.categories: dict[str, tuple[str, ...]] = {}
        for name, words in (categories or {}).items():
            words = set(words)
            if absent := sorted(str(word) for word in words - self._id.keys()):
                raise ValueError(f"vocabulary lacks {absent[0]!r} of the category {name!r}")
            if clash := words & set(self.specials.values()):
                raise ValueError(f"{min(clash)!r} of the category {name!r} is a special token; rename the word")
            self.categories[name] = tuple(sorted(words, key=self._id.__getitem__))

    @classmethod
    def from_genes(
        cls,
        genes: Iterable[str],
        specials: Mapping[str, str],
        categories: Mapping[str, Iterable[str]] | None = None,
    ) -> Self:
        """Build a vocabulary of ``genes`` in the given order, words of categories and special tokens after them."""
        genes, categories = list(genes), {name: list(words) for name, words in (categories or {}).items()}
        words = dict.fromkeys(word for members in categories.values() for word in members)
        if clash := words.keys() & set(genes):
            raise ValueError(f"{min(clash)!r} is a gene and a word of a category; rename the word in the metadata")
        return cls([*genes, *words, *dict.fromkeys(specials.values())], specials, categories)

    @classmethod
    def from_metadata(
        cls,
        genes: Iterable[str],
        specials: Mapping[str, str],
        obs: Mapping[str, Any],
        *,
        columns: Mapping[str, str] | Sequence[str],
    ) -> Self:
        """Build a vocabulary of ``genes`` and of the words that a data set's own metadata use.

        Parameters
        ----------
        genes, specials
            As in `from_genes`.
        obs
            Column -> values of the cells: a table such as ``adata.obs``, or a plain mapping.
        columns
            Category -> column, or columns that are categories of the same name.

        Raises
        ------
        ValueError
            When a column is absent or holds no word, or a word is the name of a gene.
        """
        pairs = columns.items() if isinstance(columns, Mapping) else zip(columns, columns, strict=True)
        categories = {}
        for name, column in pairs:
            if column not in obs:
                raise ValueError(f"the metadata have no column {column!r}; columns: {sorted(map(str, obs))}")
            categories[name] = sorted({str(value) for value in obs[column] if not is_missing(value)})
            if not categories[name]:
                raise ValueError(f"column {column!r} holds no value, so it makes no category of words")
        return cls.from_genes(genes, specials, categories)

    def extended(self, genes: Iterable[str] = (), categories: Mapping[str, Iterable[str]] | None = None) -> GeneVocab:
        """Return a vocabulary that knows further genes and words; all tokens of this one keep their ids."""
        genes, more = list(genes), {name: tuple(words) for name, words in (categories or {}).items()}
        words = [word for members in more.values() for word in members]
        new = dict.fromkeys([*genes, *words])
        if clash := {*self.words, *words} & {*self.genes, *genes}:
            raise ValueError(f"{min(clash)!r} is a gene and a word of a category; rename the word in the metadata")
        joined = {name: (*self.categories.get(name, ()), *more.get(name, ())) for name in (*self.categories, *more)}
        tokens = [*self.tokens, *(token for token in new if token not in self._id)]
        return GeneVocab(tokens, self.specials, joined)

    @classmethod
    def from_ids(cls, ids: Mapping[str, int], specials: Mapping[str, str] | None = None) -> GeneVocab:
        """Build from a token -> id table, as published ``vocab.json`` files hold it; ids must be 0 .. n-1."""
        tokens: list[str | None] = [None] * len(ids)
        for token, i in ids.items():
            if not isinstance(i, int) or isinstance(i, bool) or not 0 <= i < len(ids) or tokens[i] is not None:
                raise ValueError(f"vocabulary id of {token!r} is {i!r}; ids must be 0 .. {len(ids) - 1}, each once")
            tokens[i] = token
        return cls(tokens, specials)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: object) -> bool:
        return token in self._id

    def __eq__(self, other: object) -> bool:
        names = ("tokens", "specials", "categories")
        return isinstance(other, GeneVocab) and all(getattr(self, n) == getattr(other, n) for n in names)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        words = f"{len(self.words)} words, " if self.categories else ""
        return f"GeneVocab({len(self.genes)} genes, {words}{len(self.specials)} specials, sha256 {self.sha256[:12]})"

    def id(self, token: str) -> int:
        """Return the id of one token; an unknown token is a ``ValueError``."""
        try:
            return self._id[token]
        except KeyError:
            raise ValueError(f"{token!r} is not in the vocabulary of {len(self)} tokens") from None

    def special_id(self, role: str) -> int:
        """Return the id of the special token with this role."""
        if role not in self.specials:
            raise ValueError(f"the vocabulary has no {role!r} token; it has {sorted(self.specials)}")
        return self._id[self.specials[role]]

    def ids(self, tokens: Iterable[str]) -> np.ndarray:
        """Return int64 ids, -1 for names that are not in the vocabulary (exact spelling only)."""
        return np.fromiter((self._id.get(token, -1) for token in tokens), np.int64)

    def category_ids(self, name: str) -> np.ndarray:
        """Return the ids of a category's words, int64, ascending; an unknown category is a ``ValueError``."""
        if name not in self.categories:
            raise ValueError(f"the vocabulary has no category {name!r}; it has {sorted(self.categories)}")
        return self.ids(self.categories[name])

    def codes(self, name: str, values: Iterable[Any]) -> np.ndarray:
        """Return the place of each value among a category's words, int64; -1 = missing, or no word of it.

        These are the codes that a `cellwright.types.CellBatch` carries in ``obs`` for sentences.
        """
        self.category_ids(name)
        code_of = {word: code for code, word in enumerate(self.categories[name])}
        return np.fromiter((-1 if is_missing(v) else code_of.get(str(v), -1) for v in values), np.int64)

    @cached_property
    def genes(self) -> tuple[str, ...]:
        """Tokens that are neither special nor words of a category, in id order."""
        others = {*self.specials.values(), *self.words}
        return tuple(token for token in self.tokens if token not in others)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """Words of all categories, each once, in id order."""
        words = {word for members in self.categories.values() for word in members}
        return tuple(sorted(words, key=self._id.__getitem__))

    @cached_property
    def sha256(self) -> str:
        """Hash of tokens, order, special roles and categories."""
        parts = [self.tokens, sorted(self.specials.items())]
        if self.categories:  # absent, not empty: vocabularies without categories keep the hash they always had
            parts.append(sorted(self.categories.items()))
        text = json.dumps(parts, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write as JSON, atomically."""
        record: dict[str, Any] = {"tokens": list(self.tokens), "specials": self.specials}
        if self.categories:
            record["categories"] = {name: list(words) for name, words in self.categories.items()}
        write_json(path, record)

    @classmethod
    def load(cls, path: str | Path) -> GeneVocab:
        """Read what `save` wrote."""
        record = read_json(path)
        if not isinstance(record, dict) or not isinstance(record.get("tokens"), list):
            raise ValueError(f"{path} is not a cellwright vocabulary (no list 'tokens' in it)")
        return cls(record["tokens"], record.get("specials"), record.get("categories"))


def modality_of(token: str) -> str:
    """Return the modality that a token belongs to: one of `FEATURES`, or ``rna``."""
    kind = token.partition(":")[0]
    return kind if kind in FEATURES and len(token) > len(kind) + 1 else RNA


def is_missing(value: Any) -> bool:
    """Whether a value of metadata says nothing: None, NaN (pandas' NA too), or an empty string."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return bool(value != value) if isinstance(value, Real) else str(value) == ""
