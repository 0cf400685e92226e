"""Tables of regulators and their targets, and gene sets, from files of the user's.

A table of targets is a tab- or comma-separated file with a regulator and a target a row, or JSON of regulator -> list
of targets. Gene sets are .gmt: name, description, genes, with tabs between.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Mapping
from pathlib import Path

from cellwright.config import did_you_mean

REGULATOR_COLUMNS = ("regulator", "source", "tf", "source_genesymbol")
TARGET_COLUMNS = ("target", "gene", "target_genesymbol")


def read_targets(path: str | Path) -> dict[str, frozenset[str]]:
    """Read regulator -> targets.

    Names of experiments such as ``"TP53 HEPG2"`` count for the regulator that they begin with; a regulator's own name
    is not among its targets.

    Raises
    ------
    ValueError
        When the columns are not found, or nothing is in the file.
    FileNotFoundError
        When it is not there.
    """
    path = Path(path)
    text = _text(path)
    pairs = _json_pairs(text, path) if ".json" in path.suffixes else _table_pairs(text, path)
    targets: dict[str, set[str]] = {}
    for regulator, target in pairs:
        if regulator and target and regulator != target:
            targets.setdefault(regulator, set()).add(target)
    if not targets:
        raise ValueError(f"{path} names no target of any regulator")
    return {name: frozenset(genes) for name, genes in targets.items()}


def read_gene_sets(path: str | Path) -> dict[str, frozenset[str]]:
    """Read a .gmt file: name of the set -> genes; a line of another form is a ``ValueError`` that gives its number."""
    sets: dict[str, frozenset[str]] = {}
    for number, line in enumerate(_text(Path(path)).splitlines(), 1):
        name, *rest = line.split("\t")
        if not line.strip():
            continue
        if len(rest) < 2:
            raise ValueError(f"{path}, line {number}: name, description and genes with tabs between are needed")
        sets[name] = frozenset(gene.partition(",")[0].strip() for gene in rest[1:] if gene.strip())
    if not sets:
        raise ValueError(f"{path} holds no gene sets")
    return sets


def _text(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as handle
        ):
            return handle.read()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from None


def _json_pairs(text: str, path: Path) -> list[tuple[str, str]]:
    try:
        table = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error})") from None
    if not isinstance(table, Mapping) or not all(isinstance(targets, list) for targets in table.values()):
        raise ValueError(f"{path} is not regulator -> list of targets")
    return [(name.split()[0], str(target)) for name, targets in table.items() if name.split() for target in targets]


def _table_pairs(text: str, path: Path) -> list[tuple[str, str]]:
    first = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text), delimiter="\t" if "\t" in first else ",")
    columns = {name.strip().lower(): name for name in reader.fieldnames or []}
    found = [next((columns[name] for name in names if name in columns), None) for names in (
        REGULATOR_COLUMNS, TARGET_COLUMNS
    )]  # fmt: skip
    if None in found:
        near = did_you_mean("regulator", columns)
        raise ValueError(f"{path} needs the columns regulator and target; it has {', '.join(columns) or 'none'}{near}")
    return [((row[found[0]] or "").strip(), (row[found[1]] or "").strip()) for row in reader]
