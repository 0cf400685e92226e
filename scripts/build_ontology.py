"""Build the tables of cell types that ship with the package: ``build_ontology.py CELL_ONTOLOGY PUBLISHED [FOLDER]``.

CELL_ONTOLOGY is a gzipped table of the Cell Ontology (CL) with the columns ``id``, ``label``, ``parents``, ``synonyms``
and ``deprecated``; its file name ends in the date of the release, ``_YYYY-MM-DD.tsv.gz``. PUBLISHED is a table of the
words of the published scMulan vocabulary with the columns ``token``, ``cl_id``, ``match`` and one that begins with
``uhaf_parent_by_organ``. Written are:

- ``cell_ontology.tsv.gz``: a first line ``release <tab> date``, then one term a line, ``id <tab> name <tab> parents
  <tab> synonyms``, lists separated by ``|``. Terms that are no kind of cell (a few parts of cells and patterns of
  staining) are left out. Obsolete terms have no parents, and their name begins with "obsolete".
- ``cell_ontology_words.tsv``: one word a line, ``word <tab> id <tab> match <tab> parents``. The match is ``=`` (the
  same kind of cell), ``~`` (nearly), ``>`` (the term is broader) or empty (no term); parents come in the order of how
  many organs say so.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import sys
from collections import Counter
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "src/cellwright/data/resources"
ROOT = "CL:0000000"


def read_table(path: Path) -> list[dict[str, str]]:
    """Read a table with tabs, gzipped or not."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))


def terms(rows: list[dict[str, str]]) -> list[tuple[str, str, str, str]]:
    """Return the lines of the ontology; a term whose parents are absent is an error."""
    parents = {row["id"]: set(filter(None, row["parents"].split("|"))) for row in rows}
    is_obsolete = {row["id"]: row["deprecated"] == "1" for row in rows}
    cells = {ROOT}
    while more := {term for term, above in parents.items() if term not in cells and above & cells}:
        cells |= more
    lines = []
    for row in rows:
        if row["id"] not in cells and not is_obsolete[row["id"]]:
            continue
        if absent := {parent for parent in parents[row["id"]] if parent not in cells or is_obsolete[parent]}:
            raise ValueError(f"{row['id']} has the parents {sorted(absent)}, which are no terms of the table")
        synonyms = "" if is_obsolete[row["id"]] else row["synonyms"]
        lines.append((row["id"], row["label"], "|".join(sorted(parents[row["id"]])), synonyms))
    return sorted(lines)


def words(rows: list[dict[str, str]]) -> list[tuple[str, str, str, str]]:
    """Return the lines of the published words."""
    column = next(name for name in rows[0] if name.startswith("uhaf_parent_by_organ"))
    lines = []
    for row in rows:
        said = Counter(item.split(":", 1)[1] for item in row[column].split(";") if item)
        match = "" if row["match"] == "none" else row["match"]
        lines.append((row["token"], row["cl_id"], match, "|".join(sorted(said, key=lambda name: (-said[name], name)))))
    return sorted(lines)


def main() -> None:
    """Write both tables; the same sources give the same bytes."""
    ontology, published = Path(sys.argv[1]), Path(sys.argv[2])
    folder = Path(sys.argv[3]) if len(sys.argv) > 3 else FOLDER
    release = re.search(r"_(\d{4}-\d\d-\d\d)\.tsv\.gz$", ontology.name)
    if release is None:
        raise ValueError(f"{ontology.name} does not end in the date of its release, _YYYY-MM-DD.tsv.gz")
    text = "".join("\t".join(line) + "\n" for line in [("release", release[1]), *terms(read_table(ontology))])
    raw = io.BytesIO()
    with gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=9, mtime=0) as packed:
        packed.write(text.encode())
    (folder / "cell_ontology.tsv.gz").write_bytes(raw.getvalue())
    lines = words(read_table(published))
    (folder / "cell_ontology_words.tsv").write_text("".join("\t".join(line) + "\n" for line in lines), "utf-8")
    sys.stdout.write(f"{text.count(chr(10)) - 1} terms, {len(raw.getvalue()):,} bytes; {len(lines)} words\n")


if __name__ == "__main__":
    main()
