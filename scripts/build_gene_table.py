"""Build the gene-name table that ships with the package: ``build_gene_table.py SOURCE_FOLDER [OUT]``.

SOURCE_FOLDER holds ``hgnc_genes.tsv.gz``, ``hgnc_alias_to_symbol.tsv.gz``, ``gencode_human_genes.tsv.gz`` and an
``ensembl_synonyms*.tsv.gz``. The output has one line a fact, ``kind <tab> name <tab> value``:

- ``S`` a symbol and its Ensembl id (empty when none, or when the symbol stands for several loci);
- ``E`` a further Ensembl id (alternative haplotype, duplicate locus) and the symbol it belongs to;
- ``P`` a previous symbol, ``A`` an alias, and the symbol it stands for. Kept are names that stand for exactly one
  gene and are not the symbol of another; a previous symbol of one gene counts as such although it is also an alias
  of others, since annotations of its time used it as the symbol;
- ``X`` a former name or alias of several genes, and these.
"""

from __future__ import annotations

import csv
import gzip
import io
import sys
from collections import Counter
from pathlib import Path

OUT = Path(__file__).parents[1] / "src/cellwright/data/resources/human_genes.tsv.gz"


def read_table(folder: Path, pattern: str) -> list[dict[str, str]]:
    """Read the one gzipped table whose name matches ``pattern``."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise ValueError(f"{folder} holds {len(found)} files named {pattern}, expected one")
    with gzip.open(found[0], "rt", encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))


def build(folder: Path) -> list[tuple[str, str, str]]:
    """Return the sorted lines of the table."""
    hgnc = read_table(folder, "hgnc_genes.tsv.gz")
    id_of = {row["symbol"]: row["ensembl_id"] for row in hgnc}
    symbol_of = {row["ensembl_id"]: row["symbol"] for row in hgnc if row["ensembl_id"]}
    approved = set(id_of)
    gencode = read_table(folder, "gencode_human_genes.tsv.gz")
    synonyms = read_table(folder, "ensembl_synonyms*.tsv.gz")
    loci = {row["ensembl_id"] for row in gencode}
    renamed: dict[str, set[tuple[str, str]]] = {}
    extra: dict[str, str] = {}
    for rows in (gencode, synonyms):  # the newer annotation first
        num_loci = Counter(row["symbol"] for row in rows)
        for row in rows:
            ensembl_id, symbol = row["ensembl_id"], row["symbol"]
            if not symbol or symbol == ensembl_id:
                continue
            # several loci of the reference genome under one symbol are different genes (a pseudogene, an antisense
            # transcript); ids that only the wider table has are alternative haplotypes of the same gene
            if num_loci[symbol] > 1 and ensembl_id in loci and ensembl_id not in symbol_of:
                continue
            if ensembl_id in symbol_of:
                if symbol != symbol_of[ensembl_id] and symbol not in approved and num_loci[symbol] == 1:
                    renamed.setdefault(symbol, set()).add((symbol_of[ensembl_id], "A"))
            elif symbol in approved or symbol in id_of:
                if not id_of[symbol] and num_loci[symbol] == 1:
                    id_of[symbol] = ensembl_id
                else:
                    extra[ensembl_id] = symbol
                symbol_of[ensembl_id] = symbol
            elif num_loci[symbol] == 1:
                id_of[symbol] = ensembl_id
                symbol_of[ensembl_id] = symbol
    for row in read_table(folder, "hgnc_alias_to_symbol.tsv.gz"):
        renamed.setdefault(row["alias"], set()).add((row["symbol"], row["kind"][0].upper()))
    lines = [("S", symbol, ensembl_id) for symbol, ensembl_id in id_of.items()]
    lines += [("E", ensembl_id, symbol) for ensembl_id, symbol in extra.items()]
    for name, targets in renamed.items():
        previous = {symbol for symbol, kind in targets if kind == "P"}
        stands_for = previous or {symbol for symbol, _ in targets}
        if name not in id_of and len(stands_for) == 1:
            lines.append(("P" if previous else "A", name, stands_for.pop()))
        elif name not in id_of:
            lines.append(("X", name, "|".join(sorted(stands_for))))
    return sorted(lines)


def main() -> None:
    """Write the table; the same sources give the same bytes."""
    out = Path(sys.argv[2]) if len(sys.argv) > 2 else OUT
    lines = build(Path(sys.argv[1]))
    raw = io.BytesIO()
    with gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=9, mtime=0) as packed:
        packed.write("".join("\t".join(line) + "\n" for line in lines).encode())
    out.write_bytes(raw.getvalue())
    sys.stdout.write(f"{out.name}: {dict(Counter(kind for kind, _, _ in lines))}, {len(raw.getvalue()):,} bytes\n")


if __name__ == "__main__":
    main()
