"""What a data set says of its genes, by the names of a vocabulary: pathways, families, any column of ``var``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cellwright.config import did_you_mean
from cellwright.data.genes import match_genes
from cellwright.data.sources import Opened, open_source
from cellwright.vocab import GeneVocab, is_missing


def read_gene_annotations(
    data: Sequence[Any], columns: Mapping[str, str], vocab: GeneVocab, *, layer: str | None = None
) -> dict[str, dict[str, str]]:
    """Read columns of ``var`` as tables gene -> category.

    Parameters
    ----------
    data
        Paths or AnnData. A gene may be described by several; they must agree.
    columns
        Kind of annotation -> column.
    vocab
        Genes are found as values are (`cellwright.data.genes.match_genes`), so other spellings count.
    layer
        Matrix that is read, as in `cellwright.data.open_cells`; ``None`` = the genes of any.

    Returns
    -------
    Kind -> gene of the vocabulary -> category, in the order of ids. Genes without a value are left out.

    Raises
    ------
    ValueError
        When no data set has a column, it says nothing of any gene of the vocabulary, or two values differ for a gene.
    """
    found: dict[str, dict[int, str]] = {kind: {} for kind in columns}
    known: dict[str, None] = {}
    for item in data:
        opened = open_source(item)
        try:
            for place in [layer] if layer in opened.matrices else list(opened.matrices):
                known |= dict.fromkeys(map(str, opened.var_of(place)))
                for kind, column in columns.items():
                    _read(opened, place, column, vocab, found[kind])
        finally:
            opened.close()
    for kind, column in columns.items():
        if column not in known:
            near = did_you_mean(column, known) or f"; columns: {', '.join(known) or 'none'}"
            raise ValueError(f"no data set has a column {column!r} of var for the annotation {kind!r}{near}")
        if not found[kind]:
            raise ValueError(f"column {column!r} of var says nothing of any gene of the vocabulary")
    return {kind: {vocab.tokens[i]: table[i] for i in sorted(table)} for kind, table in found.items()}


def _read(opened: Opened, place: str, column: str, vocab: GeneVocab, table: dict[int, str]) -> None:
    var = opened.var_of(place)
    if column not in var:
        return
    match = match_genes([str(name) for name in var.index], vocab)
    for gene, value in zip(match.id_g.tolist(), var[column].tolist(), strict=True):
        if gene < 0 or is_missing(value):
            continue
        if table.setdefault(gene, str(value)) != str(value):
            raise ValueError(
                f"{opened.name}: column {column!r} says {str(value)!r} of {vocab.tokens[gene]}, of which "
                f"{table[gene]!r} was said before; let it say one thing of each gene"
            )
