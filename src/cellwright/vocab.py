"""The ordered list of tokens that a model knows, and nothing about how names are matched to it.

Saved beside every checkpoint; its hash travels with results, so that data encoded for one vocabulary is never
read with another. Aliases and Ensembl ids are the data door's business (`cellwright.data.genes`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from cellwright.files import read_json, write_json


class GeneVocab:
    """Tokens in id order, the last or first few of which may be special.

    Parameters
    ----------
    tokens
        All tokens; the position is the id. Repeats and empty names are refused.
    specials
        Role -> token for the tokens that are not genes, for instance ``{"pad": "<pad>", "cls": "<cls>"}``.
    """

    def __init__(self, tokens: Sequence[str], specials: Mapping[str, str] | None = None):
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

    @classmethod
    def from_genes(cls, genes: Iterable[str], specials: Mapping[str, str]) -> GeneVocab:
        """Build a vocabulary of ``genes`` in the given order, the special tokens after them."""
        return cls([*genes, *specials.values()], specials)

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
        return isinstance(other, GeneVocab) and (self.tokens, self.specials) == (other.tokens, other.specials)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"GeneVocab({len(self.genes)} genes, {len(self.specials)} specials, sha256 {self.sha256[:12]})"

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

    @cached_property
    def genes(self) -> tuple[str, ...]:
        """Tokens that are not special, in id order."""
        special = set(self.specials.values())
        return tuple(token for token in self.tokens if token not in special)

    @cached_property
    def sha256(self) -> str:
        """Hash of tokens, order and special roles."""
        text = json.dumps([self.tokens, sorted(self.specials.items())], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write as JSON, atomically."""
        write_json(path, {"tokens": list(self.tokens), "specials": self.specials})

    @classmethod
    def load(cls, path: str | Path) -> GeneVocab:
        """Read what `save` wrote."""
        record = read_json(path)
        if not isinstance(record, dict) or not isinstance(record.get("tokens"), list):
            raise ValueError(f"{path} is not a cellwright vocabulary (no list 'tokens' in it)")
        return cls(record["tokens"], record.get("specials"))
