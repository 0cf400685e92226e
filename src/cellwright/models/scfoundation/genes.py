"""The published gene list, which comes with the package, and files of the same kind for other genes."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from cellwright.models.scfoundation.config import SPECIALS
from cellwright.vocab import GeneVocab

NUM_PUBLISHED = 19264
_HEADER = "gene_name\tindex"
_SHIPPED = Path(__file__).parent / f"genes.{NUM_PUBLISHED}.txt.gz"


def list_name(num_genes: int) -> str:
    """Return the name that a list of so many genes has beside the weights."""
    return f"OS_scRNA_gene_index.{num_genes}.tsv"


@cache
def published_genes() -> tuple[str, ...]:
    """Return the 19,264 symbols of the published models in the order of their ids (HGNC, not quite alphabetical)."""
    return tuple(gzip.decompress(_SHIPPED.read_bytes()).decode().split())


def vocab_of(genes: Sequence[str]) -> GeneVocab:
    """Return the vocabulary of a model of these genes: T, S and pad behind them, as in the published position table."""
    return GeneVocab.from_genes(genes, SPECIALS)


def read_list(path: Path) -> tuple[str, ...]:
    """Read a gene list as published: tab-separated, columns ``gene_name`` and ``index``, indices 0, 1, 2, ...

    Raises
    ------
    ValueError
        When it is none; names that occur twice are refused by the vocabulary.
    """
    try:
        header, *lines = path.read_text(encoding="utf-8").splitlines()
        rows = [line.split("\t") for line in lines]
        genes = tuple(gene for gene, _ in rows)
        is_good = header == _HEADER and [index for _, index in rows] == [str(i) for i in range(len(rows))]
    except (UnicodeDecodeError, ValueError):
        is_good = False
    if not is_good or not genes:
        raise ValueError(
            f"{path} is no scFoundation gene list: tab-separated columns gene_name and index (0, 1, 2, ...) are needed"
        )
    return genes


def list_text(genes: Sequence[str]) -> str:
    """Return what `read_list` reads."""
    return "\n".join([_HEADER, *(f"{gene}\t{i}" for i, gene in enumerate(genes))]) + "\n"
