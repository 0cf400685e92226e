"""The shipped table of human gene names: symbols, Ensembl ids, previous symbols and aliases.

``resources/LICENSES.md`` names its sources; ``scripts/build_gene_table.py`` builds it. It is read on first use
(about 0.1 s) and kept.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

ENSEMBL_ID = re.compile(r"(ENS[A-Z]*G\d{11})(?:\.\d+)?(?:_PAR_Y)?")
"""A gene id of any species, with or without version."""


def ensembl_part(name: str) -> str | None:
    """Return the Ensembl gene id without its version, or None when ``name`` is not one."""
    found = ENSEMBL_ID.fullmatch(name)
    return found[1] if found else None


@dataclass(frozen=True, slots=True, eq=False)
class GeneTable:
    """Names of human genes. The symbol approved by HGNC (else the one of GENCODE) stands for the gene."""

    id_of: Mapping[str, str]
    """Symbol -> its Ensembl id ("" when it has none)."""
    symbol_of: Mapping[str, str]
    """Ensembl id without version -> symbol; ids of alternative haplotypes included."""
    renamed: Mapping[str, tuple[str, str]]
    """Other name of exactly one gene -> (symbol, ``"previous"`` or ``"alias"``)."""
    ambiguous: Mapping[str, tuple[str, ...]]
    """Other name of several genes -> their symbols."""

    def symbol(self, name: str) -> tuple[str | None, str]:
        """Return the symbol of the one gene that ``name`` stands for (None if unknown) and the way it was found.

        The way is ``symbol``, ``ensembl``, ``previous`` or ``alias``.
        """
        if (ensembl_id := ensembl_part(name)) is not None:
            return self.symbol_of.get(ensembl_id), "ensembl"
        if name in self.id_of:
            return name, "symbol"
        return self.renamed.get(name, (None, "alias"))


@cache
def human_genes() -> GeneTable:
    """Return the shipped table."""
    packed = files("cellwright.data").joinpath("resources/human_genes.tsv.gz").read_bytes()
    by_kind: dict[str, dict[str, str]] = {kind: {} for kind in "SEPAX"}
    for line in gzip.decompress(packed).decode().splitlines():
        kind, name, value = line.split("\t")
        by_kind[kind][name] = value
    renamed = {name: (symbol, "alias") for name, symbol in by_kind["A"].items()}
    renamed |= {name: (symbol, "previous") for name, symbol in by_kind["P"].items()}
    return GeneTable(
        id_of=by_kind["S"],
        symbol_of=by_kind["E"] | {ensembl_id: symbol for symbol, ensembl_id in by_kind["S"].items() if ensembl_id},
        renamed=renamed,
        ambiguous={name: tuple(symbols.split("|")) for name, symbols in by_kind["X"].items()},
    )
