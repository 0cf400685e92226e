"""The published vocabulary file, ``meta_info.pt``: tokens in id order, and which of them are what.

The file holds sets; whatever is ordered here goes by token id. Published names of categories are turned into plain
ones (`CATEGORIES`); sets that are no part of the vocabulary (raw ages, studies) are kept aside and written back.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from cellwright.models.scmulan.config import SPECIALS
from cellwright.vocab import GeneVocab

CATEGORIES = {  # ours -> published
    "organ": "organ",
    "region": "region",
    "cell_type": "cell_type",
    "coarse_type": "MCT",
    "age": "age_bin",
    "status": "sample_status",
    "tech": "seq_tech",
    "sex": "donor_gender",
}
OTHER = "other"
"""Category of words that a file lists among its tokens and nowhere else."""

_ROLES = {token: role for role, token in SPECIALS.items() if role != "pad"}
_SPARE = re.compile(r"<SPToken(\d+)>")


def read_vocab(meta: Any, path: Path) -> tuple[GeneVocab, tuple[str, ...]]:
    """Build the vocabulary of a published ``meta_info.pt``; return it and notes on what was left out.

    Raises
    ------
    ValueError
        When the file holds no vocabulary, lacks the end word, or its parts contradict each other.
    """
    if not isinstance(meta, dict) or not {"token_set", "gene_set"} <= meta.keys():
        raise ValueError(f"{path} is not a published scMulan vocabulary (it needs token_set and gene_set)")
    tokens, genes = list(meta["token_set"]), list(meta["gene_set"])
    specials = {role: token for token in tokens if (role := _role(token)) is not None}
    if "end" not in specials:
        raise ValueError(f"{path} has no word {SPECIALS['end']!r} that ends a sentence")
    specials["pad"] = specials["end"]
    known = set(tokens)
    categories = {}
    for ours, theirs in CATEGORIES.items():
        if theirs in meta:
            words = set(meta[theirs])
            if absent := sorted(words - known):
                raise ValueError(f"{path}: {absent[0]!r} of {theirs} is not in token_set")
            categories[ours] = words
    sorted_out = {*specials.values(), *genes, *(word for words in categories.values() for word in words)}
    notes = ()
    if rest := [token for token in tokens if token not in sorted_out]:
        categories[OTHER] = rest
        notes = (f"{len(rest)} tokens of no known category were put into {OTHER!r} ({', '.join(rest[:3])})",)
    vocab = GeneVocab(tokens, specials, categories)
    if list(vocab.genes) != genes:
        raise ValueError(f"{path}: gene_set is not the genes of token_set in their order")
    return vocab, notes


def _role(token: str) -> str | None:
    spare = _SPARE.fullmatch(token)
    return _ROLES.get(token) or (f"spare_{spare[1]}" if spare else None)


def meta_record(meta: dict[str, Any]) -> dict[str, Any]:
    """Return what a vocabulary does not hold of the file, in JSON form."""
    ours = {"token_set", "gene_set", *CATEGORIES.values()}
    return {
        key: {"set": sorted(map(str, value))} if isinstance(value, set | frozenset) else value
        for key, value in meta.items()
        if key not in ours
    }


def published_meta(vocab: GeneVocab, record: dict[str, Any]) -> dict[str, Any]:
    """Return the content of ``meta_info.pt`` for this vocabulary and the kept rest of the file it came from.

    Published readers expect ``cell_type``, ``MCT`` and ``organ``; they are there even when empty.
    """
    meta: dict[str, Any] = {"token_set": list(vocab.tokens), "gene_set": list(vocab.genes)}
    for ours, theirs in CATEGORIES.items():
        if ours in vocab.categories or ours in ("cell_type", "coarse_type", "organ"):
            meta[theirs] = set(vocab.categories.get(ours, ()))
    others = {k: set(v["set"]) if isinstance(v, dict) and v.keys() == {"set"} else v for k, v in record.items()}
    return meta | others
