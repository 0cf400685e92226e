"""What was done to which cells: read the names of conditions, find the controls, say which genes are in the panel.

Names are read as the field writes them: ``A`` and ``A+ctrl`` are one perturbed gene, ``A+B`` and ``B+A`` the same two,
``ctrl`` and ``ctrl+ctrl`` controls. Names that are no genes (drugs, cytokines) are labels: they are parted at ``+``
only where every part occurs on its own as well. A perturbed gene is its name, whether the panel measures it or not:
nothing is dropped because a gene has no column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cellwright.config import did_you_mean, some_of
from cellwright.data.gene_table import human_genes
from cellwright.vocab import GeneVocab

if TYPE_CHECKING:
    import pandas as pd

PERTURBATION_COLUMNS = (
    "perturbation", "perturbation_name", "condition", "gene_target", "target_gene", "guide_target", "treatment",
    "stimulation", "stim",
)  # fmt: skip
"""Columns looked for, in this order, when no column is named."""
CONTROL_NAMES = (
    "control", "ctrl", "non-targeting", "nontargeting", "non_targeting", "ntc", "nt", "safe-targeting", "unperturbed",
    "untreated", "unstimulated", "vehicle", "dmso", "pbs", "mock",
)  # fmt: skip
"""What controls are called, whatever the case of the letters."""
FILLERS = ("control", "ctrl")
"""What stands for no second gene in names of combinations (``A+ctrl``), whatever the case of the letters."""
JOIN = "+"
_GENE_SHARE = 0.5
_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Perturbations:
    """The perturbation of every cell."""

    column: str
    control: str
    """Name of the controls in the column."""
    kind: str
    """genes | labels: what the parts are."""
    names: tuple[str, ...]
    """Conditions other than control, sorted; parts of a name in alphabetical order."""
    parts: tuple[tuple[str, ...], ...]
    """What is perturbed in each condition, in alphabetical order."""
    code_n: np.ndarray
    """int64 ``[n]``: condition of each cell, -1 = control."""
    panel_id: dict[str, int]
    """Part -> vocabulary id of that gene, -1 where the panel does not measure it (all of them, for labels)."""
    notes: tuple[str, ...] = ()

    @property
    def all_parts(self) -> tuple[str, ...]:
        """Every perturbed gene or label, sorted."""
        return tuple(sorted({part for parts in self.parts for part in parts}))

    @property
    def num_cells(self) -> np.ndarray:
        """int64: cells of each condition."""
        return np.bincount(self.code_n[self.code_n >= 0], minlength=len(self.names))

    def take(self, rows: np.ndarray) -> Perturbations:
        """Return the perturbations of the cells at these positions; conditions that lose all their cells stay."""
        return replace(self, code_n=self.code_n[rows])

    def record(self) -> dict[str, Any]:
        """Return the JSON form."""
        in_panel = [part for part, at in self.panel_id.items() if at >= 0]
        return {
            "column": self.column,
            "control": self.control,
            "kind": self.kind,
            "num_conditions": len(self.names),
            "num_control_cells": int((self.code_n < 0).sum()),
            "num_cells": dict(zip(self.names, self.num_cells.tolist(), strict=True)),
            "num_parts": len(self.panel_id),
            "parts_in_panel": in_panel,
            "notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        """Return the report as text."""
        num_single = sum(len(parts) == 1 for parts in self.parts)
        count_k = self.num_cells
        text = (
            f"{self.column}: {len(self.names)} conditions ({num_single} single, {len(self.names) - num_single} of "
            f"several) of {count_k.min()} to {count_k.max()} cells, and {int((self.code_n < 0).sum())} controls "
            f"({self.control!r})"
        )
        return [text, *(f"note: {note}" for note in self.notes)]


def parse_condition(name: str, control: str) -> tuple[str, ...]:
    """Return the perturbed genes that a name stands for, in alphabetical order; a control gives ``()``.

    A gene named twice (``A+A``: two guides of one gene) counts once.

    Raises
    ------
    ValueError
        A part is empty, as in ``A+``.
    """
    if name == control:  # it may itself hold a plus
        return ()
    parts = [part.strip() for part in name.split(JOIN)]
    if not all(parts):
        raise ValueError(f"condition {name!r} has an empty part; write A, A+B or A+ctrl")
    if len(parts) == 1:
        return (parts[0],)
    return tuple(sorted({part for part in parts if part != control and part.lower() not in FILLERS}))


def read_perturbations(
    obs: pd.DataFrame,
    *,
    column: str | None = None,
    control: str | None = None,
    kind: Literal["auto", "genes", "labels"] = "auto",
    vocab: GeneVocab | None = None,
) -> Perturbations:
    """Read the perturbation of every cell from a column of ``obs``.

    Parameters
    ----------
    column
        Column of condition names; ``None`` = the first of `PERTURBATION_COLUMNS` that holds a control.
    control
        Name of the controls in it; ``None`` = found among `CONTROL_NAMES`.
    kind
        What the names are: ``genes``, ``labels`` (drugs, cytokines), or ``auto`` = genes where at least half of the
        parts are genes of ``vocab`` or known human genes.
    vocab
        Genes of the panel, to tell which perturbed genes are measured.

    Raises
    ------
    ValueError
        No such column, no control or several, no other condition, cells without a name (NaN).
    """
    column, control = _find(obs, column, control)
    values = obs[column]
    if num_missing := int(values.isna().sum()):
        raise ValueError(
            f"column {column!r} is empty (NaN) for {num_missing} of {len(obs)} cells; drop these cells, or name what "
            "was done to them"
        )
    given, given_n = np.unique(values.astype(str).to_numpy(dtype=str), return_inverse=True)
    as_genes = {name: parse_condition(name, control) for name in given.tolist()}
    kind = _kind(as_genes, vocab) if kind == "auto" else kind
    parsed = as_genes if kind == "genes" else _as_labels(as_genes)
    parts_of = sorted({parts for parts in parsed.values() if parts}, key=lambda parts: JOIN.join(parts))
    if not parts_of:
        raise ValueError(f"column {column!r} holds only controls ({control!r}); there is no perturbation to learn from")
    place = {parts: code for code, parts in enumerate(parts_of)} | {(): -1}
    code_g = np.array([place[parsed[name]] for name in given.tolist()], np.int64)
    found = Perturbations(
        column=column,
        control=control,
        kind=kind,
        names=tuple(JOIN.join(parts) for parts in parts_of),
        parts=tuple(parts_of),
        code_n=code_g[given_n],
        panel_id={},
    )
    panel_id = _panel_ids(found.all_parts, vocab if kind == "genes" else None)
    notes = [*_merged(parsed), *_outside(panel_id, kind, vocab)]
    return replace(found, panel_id=panel_id, notes=tuple(notes))


def _find(obs: pd.DataFrame, column: str | None, control: str | None) -> tuple[str, str]:
    """Return the column and the name of its controls, or say why they cannot be told."""
    if column is not None:
        if column not in obs.columns:
            known = [str(name) for name in obs.columns]
            raise ValueError(f"no column {column!r} in obs{did_you_mean(column, known) or f'; it has {_some(known)}'}")
        return column, _control_of(obs, column, control)
    by_lower = {str(name).lower(): name for name in reversed(obs.columns)}
    there = [by_lower[name] for name in PERTURBATION_COLUMNS if name in by_lower]
    for name in there:
        try:
            return name, _control_of(obs, name, control)
        except ValueError:
            continue
    looked = f"of {_some(there)} none holds a control" if there else f"none is called {_some(PERTURBATION_COLUMNS)}"
    raise ValueError(
        f"no column of perturbations found: {looked}; name it and its controls (column= and control=, --perturbation "
        "and --control)"
    )


def _control_of(obs: pd.DataFrame, column: str, control: str | None) -> str:
    given = sorted({str(name) for name in obs[column].dropna()})
    if control is not None:
        if control not in given:
            near = did_you_mean(control, given) or f"; it has {_some(given)}"
            raise ValueError(f"no control {control!r} in column {column!r}{near}")
        return control
    found = [name for name in given if name.strip().lower() in CONTROL_NAMES]
    if not found:
        raise ValueError(
            f"no control in column {column!r}: none of {_some(given)} is called like one ({_some(CONTROL_NAMES)}); "
            "say which it is (control=, --control)"
        )
    if len(found) > 1:
        raise ValueError(
            f"column {column!r} has several names of controls, {_some(found)}; say which it is (control=, --control)"
        )
    return found[0]


def _kind(as_genes: dict[str, tuple[str, ...]], vocab: GeneVocab | None) -> str:
    parts = sorted({part for parts in as_genes.values() for part in parts})
    if not parts:
        return "labels"
    known = set(vocab.genes) if vocab is not None else set()
    human = human_genes().id_of
    return "genes" if np.mean([part in known or part in human for part in parts]) >= _GENE_SHARE else "labels"


def _as_labels(as_genes: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Keep names whole, but those whose parts all occur on their own."""
    alone = {name.strip() for name in as_genes}
    found = {}
    for name, parts in as_genes.items():
        is_whole = len(parts) > 0 and not all(part in alone for part in parts)
        found[name] = (name.strip(),) if is_whole else parts
    return found


def _panel_ids(parts: Sequence[str], vocab: GeneVocab | None) -> dict[str, int]:
    if vocab is None:
        return dict.fromkeys(parts, -1)
    at_p = align_genes(parts, vocab.genes)
    id_g = vocab.ids(vocab.genes)
    return {part: int(id_g[at]) if at >= 0 else -1 for part, at in zip(parts, at_p.tolist(), strict=True)}


def align_genes(names: Sequence[str], known: Sequence[str]) -> np.ndarray:
    """Return where each name stands in ``known``, int64, -1 = nowhere.

    Spelling comes first, then the same human gene under another name (Ensembl id, previous symbol, alias), where it is
    one place only.
    """
    table = human_genes()
    place = {name: at for at, name in reversed(list(enumerate(known)))}
    by_symbol: dict[str, set[int]] = {}
    for name, at in place.items():
        if (symbol := table.symbol(name)[0]) is not None:
            by_symbol.setdefault(symbol, set()).add(at)
    found = np.full(len(names), -1, np.int64)
    for i, name in enumerate(names):
        candidates = {place[name]} if name in place else by_symbol.get(table.symbol(name)[0] or "", set())
        if len(candidates) == 1:
            found[i] = next(iter(candidates))
    return found


def _merged(parsed: dict[str, tuple[str, ...]]) -> list[str]:
    by_parts: dict[tuple[str, ...], list[str]] = {}
    for name, parts in parsed.items():
        by_parts.setdefault(parts, []).append(name)
    several = [names for parts, names in by_parts.items() if parts and len(names) > 1]
    return [f"taken as one condition: {', '.join(names)}" for names in several]


def _outside(panel_id: dict[str, int], kind: str, vocab: GeneVocab | None) -> list[str]:
    outside = [part for part, at in panel_id.items() if at < 0]
    if kind != "genes" or vocab is None or not outside:
        return []
    return [
        f"{len(outside)} of {len(panel_id)} perturbed genes are not measured ({_some(outside)}): they are known by "
        "name only, and their own expression is in no score"
    ]


def _some(names: Sequence[str]) -> str:
    return some_of([repr(name) for name in names], _SHOWN)
