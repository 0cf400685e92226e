"""Match the gene names of a data set to a vocabulary, offline.

A name is looked up by exact spelling first, then as the same gene under another name: Ensembl version stripped,
Ensembl id <-> symbol, previous symbol or alias <-> approved symbol, in both directions (the vocabulary may be the
older one). A name that stands for several genes is not guessed: it stays unmatched and is listed. Letter case is
never changed, so mouse symbols do not slip into a human vocabulary. Only human names are known beyond exact spelling.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cellwright.data.gene_table import ENSEMBL_ID, GeneTable, ensembl_part, human_genes
from cellwright.vocab import GeneVocab

_SUFFIXED = re.compile(r"(.+)_(ENSG\d{11})")
_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GeneMatch:
    """Which vocabulary id each source column goes to, and how that was found."""

    id_g: np.ndarray
    """int64 ``[g]``: vocabulary id of each source column, -1 = not in the vocabulary."""
    how_g: np.ndarray
    """str ``[g]``: exact | version_stripped | ensembl | previous | alias | unmatched."""
    column: str
    """The name column that matched best ("index" = the names themselves)."""
    names: tuple[str, ...]
    """Source names in that column."""
    ambiguous: Mapping[str, tuple[str, ...]]
    """Unmatched names that stand for several genes -> these genes."""
    duplicates: Mapping[str, tuple[str, ...]]
    """Vocabulary token -> the source columns that go to it, where there are several; their values are summed."""
    num_vocab: int
    """Genes of the vocabulary (special tokens not counted)."""
    id_kind: str
    organism: str

    @property
    def num_matched(self) -> int:
        """Source columns with a vocabulary id."""
        return int((self.id_g >= 0).sum())

    @property
    def matched_ids(self) -> np.ndarray:
        """int64 vocabulary ids that occur in the source, sorted, each once."""
        return np.unique(self.id_g[self.id_g >= 0])

    @property
    def unmatched(self) -> tuple[str, ...]:
        """Names without a vocabulary id."""
        return tuple(self.names[at] for at in np.flatnonzero(self.id_g < 0))

    @property
    def ways(self) -> dict[str, int]:
        """Way -> number of source columns."""
        return dict(Counter(self.how_g.tolist()).most_common())

    @property
    def coverage(self) -> dict[str, float]:
        """Matched share of the source's genes, and share of the vocabulary's genes that the source has."""
        num_found = len(self.matched_ids)
        return {
            "source_genes": self.num_matched / len(self.id_g) if len(self.id_g) else 0.0,
            "vocab_genes": num_found / self.num_vocab if self.num_vocab else 0.0,
        }

    def record(self) -> dict[str, Any]:
        """Return the JSON form: counts in full, long lists of names cut to the first 20."""
        return {
            "column": self.column,
            "num_source_genes": len(self.id_g),
            "num_vocab_genes": self.num_vocab,
            "num_matched": self.num_matched,
            "ways": self.ways,
            "coverage": self.coverage,
            "num_duplicates": len(self.duplicates),
            "duplicates": {token: list(names) for token, names in list(self.duplicates.items())[:_SHOWN]},
            "num_ambiguous": len(self.ambiguous),
            "ambiguous": {name: list(genes) for name, genes in list(self.ambiguous.items())[:_SHOWN]},
            "unmatched": list(self.unmatched[:_SHOWN]),
            "id_kind": self.id_kind,
            "organism": self.organism,
        }

    def lines(self) -> list[str]:
        """Return the report as text."""
        share = self.coverage
        ways = ", ".join(f"{count} {way}" for way, count in self.ways.items())
        lines = [
            f"genes: {self.num_matched} of {len(self.id_g)} matched ({share['source_genes']:.1%}) by {self.column}; "
            f"{share['vocab_genes']:.1%} of the vocabulary's {self.num_vocab} present; {ways}"
        ]
        if self.duplicates:
            token, names = next(iter(self.duplicates.items()))
            lines.append(f"{len(self.duplicates)} genes occur in several columns, summed ({token}: {', '.join(names)})")
        if self.ambiguous:
            name, genes = next(iter(self.ambiguous.items()))
            lines.append(
                f"{len(self.ambiguous)} names stand for several genes, left out ({name}: {', '.join(genes)}); "
                "give Ensembl ids to tell them apart"
            )
        return lines


def id_kind(names: Sequence[str]) -> str:
    """Tell what the names are: symbol | ensembl | ensembl_versioned | mixed | unknown."""
    if not len(names):
        return "unknown"
    is_ensembl = np.array([ENSEMBL_ID.fullmatch(name) is not None for name in names])
    if is_ensembl.mean() > 0.9:
        return "ensembl_versioned" if np.mean(["." in name for name in names]) > 0.5 else "ensembl"
    if is_ensembl.mean() > 0.1:
        return "mixed"
    is_wordy = np.mean([bool(re.match(r"[A-Za-z]", name)) for name in names])
    return "symbol" if is_wordy > 0.5 else "unknown"


def organism(names: Sequence[str]) -> str:
    """Guess the species by Ensembl prefix or by the case of symbols: human | mouse | unknown."""
    if not len(names):
        return "unknown"
    human = np.mean([bool(re.match(r"ENSG\d|(?!ENS)[A-Z][A-Z0-9]+(orf\d+)?[A-Z0-9.\-]*$", name)) for name in names])
    mouse = np.mean([bool(re.match(r"ENSMUSG\d|[A-Z][a-z0-9]*[a-z][a-z0-9.\-]*$", name)) for name in names])
    return "human" if human > 0.6 else "mouse" if mouse > 0.6 else "unknown"


class _Index:
    """Look-ups from a name to the one vocabulary id of its gene."""

    def __init__(self, vocab: GeneVocab):
        self.exact = dict(zip(vocab.genes, vocab.ids(vocab.genes).tolist(), strict=True))
        self._is_built = False

    def _build(self, table: GeneTable) -> None:
        """Index tokens by gene. Per gene: the symbol itself, else its main Ensembl id, else the one other name."""
        self._by_ensembl: dict[str, int] = {}
        self._by_symbol: dict[str, list[tuple[int, int, str]]] = {}
        self.suffixed: dict[str, list[str]] = {}
        for token, i in self.exact.items():
            if (suffixed := _SUFFIXED.fullmatch(token)) is not None:
                self._by_ensembl[suffixed[2]] = i
                self.suffixed.setdefault(suffixed[1], []).append(token)
                continue
            if (ensembl_id := ensembl_part(token)) is not None:
                self._by_ensembl.setdefault(ensembl_id, i)
            symbol, how = table.symbol(token)
            if symbol is not None:
                is_main = how == "ensembl" and table.id_of.get(symbol) == ensembl_id
                rank = 0 if how == "symbol" else 1 if is_main else 2
                self._by_symbol.setdefault(symbol, []).append((rank, i, how))
        self._is_built = True

    def find(self, name: str, table: GeneTable) -> tuple[int, str]:
        """Return (id, way) of a name that has no exact match, (-1, "unmatched") when there is none."""
        if not self._is_built:
            self._build(table)
        if (ensembl_id := ensembl_part(name)) is not None:
            if ensembl_id in self.exact:
                return self.exact[ensembl_id], "version_stripped"
            if ensembl_id in self._by_ensembl:
                return self._by_ensembl[ensembl_id], "ensembl"
        symbol, how = table.symbol(name)
        tokens = sorted(self._by_symbol.get(symbol, ())) if symbol is not None else []
        if not tokens or (len(tokens) > 1 and tokens[0][0] == tokens[1][0]):
            return -1, "unmatched"
        _, i, how_token = tokens[0]
        # the way is told by whichever side departs from the approved symbol; Ensembl outranks
        ways = {how, how_token} - {"symbol"}
        return i, "ensembl" if "ensembl" in ways else how if how != "symbol" else how_token

    def genes_meant(self, name: str, table: GeneTable) -> tuple[str, ...]:
        """Return the several genes or tokens that an unmatched name may stand for."""
        return tuple(self.suffixed.get(name, ())) or table.ambiguous.get(name, ())


def match_genes(
    names: Sequence[str],
    vocab: GeneVocab,
    *,
    mode: Literal["harmonise", "exact"] = "harmonise",
    alternatives: Mapping[str, Sequence[str]] | None = None,
) -> GeneMatch:
    """Match source columns to vocabulary ids.

    Parameters
    ----------
    names
        Name of each source column.
    mode
        ``exact`` = spelling only.
    alternatives
        Further name columns (title -> names, as long as ``names``). The column that matches most is the primary
        one (``names`` wins ties); the others are tried, in order, for columns that it leaves unmatched.

    Raises
    ------
    ValueError
        No name matches; the message shows names of both sides.
    """
    if mode not in ("harmonise", "exact"):
        raise ValueError(f"genes = {mode!r}; choose 'harmonise' or 'exact'")
    columns = {"index": [str(name) for name in names]}
    for title, column in (alternatives or {}).items():
        if len(column) != len(names):
            raise ValueError(f"name column {title!r} has {len(column)} entries for {len(names)} genes")
        columns[title] = [str(name) for name in column]
    index = _Index(vocab)
    found = {title: _match_column(column, index, mode) for title, column in columns.items()}
    primary = max(found, key=lambda title: (found[title][0] >= 0).sum())  # max keeps the first of equals
    id_g, how_g = (part.copy() for part in found[primary])
    for other_id_g, other_how_g in found.values():
        is_new_g = (id_g < 0) & (other_id_g >= 0)
        id_g[is_new_g], how_g[is_new_g] = other_id_g[is_new_g], other_how_g[is_new_g]
    if len(names) and not (id_g >= 0).any():
        raise ValueError(_no_overlap(columns, vocab))
    ambiguous = {}
    if mode == "harmonise":
        for at in np.flatnonzero(id_g < 0):
            if meant := index.genes_meant(columns[primary][at], human_genes()):
                ambiguous[columns[primary][at]] = meant
    return GeneMatch(
        id_g=id_g,
        how_g=how_g,
        column=primary,
        names=tuple(columns[primary]),
        ambiguous=ambiguous,
        duplicates=_duplicates(id_g, columns[primary], vocab),
        num_vocab=len(vocab.genes),
        id_kind=id_kind(columns[primary]),
        organism=organism(columns[primary]),
    )


def _match_column(column: list[str], index: _Index, mode: str) -> tuple[np.ndarray, np.ndarray]:
    id_g = np.fromiter((index.exact.get(name, -1) for name in column), np.int64, len(column))
    how_g = np.where(id_g >= 0, "exact", "unmatched").astype("U16")
    if mode == "harmonise":
        for at in np.flatnonzero(id_g < 0):
            id_g[at], how_g[at] = index.find(column[at], human_genes())
    return id_g, how_g


def _duplicates(id_g: np.ndarray, names: list[str], vocab: GeneVocab) -> dict[str, tuple[str, ...]]:
    ids, counts = np.unique(id_g[id_g >= 0], return_counts=True)
    repeated = ids[counts > 1]
    columns: dict[int, list[str]] = {int(i): [] for i in repeated}
    for at in np.flatnonzero(np.isin(id_g, repeated)):
        columns[int(id_g[at])].append(names[at])
    return {vocab.tokens[i]: tuple(found) for i, found in columns.items()}


def _no_overlap(columns: Mapping[str, list[str]], vocab: GeneVocab) -> str:
    names = columns["index"]
    text = (
        f"none of the {len(names)} genes is in the vocabulary: the data have {', '.join(map(repr, names[:3]))} "
        f"({id_kind(names)}), the vocabulary has {', '.join(map(repr, vocab.genes[:3]))} ({id_kind(vocab.genes)})"
    )
    species, expected = organism(names), organism(vocab.genes)
    if species != expected and "unknown" not in (species, expected):
        return f"{text}; the names look like {species}, the vocabulary is {expected}: map to {expected} orthologues"
    return f"{text}; put gene symbols or Ensembl ids into var_names or a var column such as 'gene_symbol'"
