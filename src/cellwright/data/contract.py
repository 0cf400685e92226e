"""What a data set is, and whether a model family can be fed it.

`choose_matrix` picks the matrix (counts layer, X, raw.X), checks that its values are of a state that the family
accepts, and says how they are turned into what is delivered. Everything done is written into a `Contract`; what
cannot be done is one ``ValueError`` with the evidence and the remedy. Nothing is guessed silently.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from cellwright.config import did_you_mean
from cellwright.data.genes import GeneMatch
from cellwright.data.sources import IN_MEMORY, Opened
from cellwright.data.state import MatrixState, inspect_matrix, sample_rows, unlog

COUNT_LAYERS = ("counts", "raw_counts", "count")
ASSUMABLE = ("raw", "normalised", "log1p")
_REMEDY = (
    'put raw counts into layers["counts"], choose a matrix (layer=, --layer), or say what the values are '
    "(assume=, --assume)"
)
_LARGEST_LOG = 50.0  # exp(50) = 5e21: no expression value, whatever its unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """What was found in a data set and what was done with it."""

    source: str
    """Path, the name given in ``uns["name"]``, or "AnnData"."""
    num_cells: int
    num_genes: int
    taken_from: str
    """Where the matrix was: ``X``, ``raw.X`` or ``layers["..."]``."""
    state: MatrixState
    delivered: str
    """State of the values once read: raw | normalised | log1p."""
    genes: GeneMatch
    coverage: Mapping[str, float]
    """Shares: ``source_genes`` and ``vocab_genes`` matched, ``molecules`` in matched genes."""
    num_empty_cells: int | None
    """Cells without any expressed gene of the vocabulary; None = not counted (data left on disk)."""
    notes: tuple[str, ...] = ()
    """What was done to the values."""
    warnings: tuple[str, ...] = ()
    """What a user should look at."""
    is_in_memory: bool = False
    """An AnnData was handed in."""

    @property
    def title(self) -> str:
        """What a heading calls it: its file's name, the name it was given, or its size."""
        if not self.is_in_memory:
            return Path(self.source).name
        named = f"{self.num_cells:,} cells x {self.num_genes:,} genes in memory"
        return named if self.source == IN_MEMORY else self.source

    def record(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "source": self.source,
            "num_cells": self.num_cells,
            "num_genes": self.num_genes,
            "taken_from": self.taken_from,
            "state": self.state.record(),
            "delivered": self.delivered,
            "genes": self.genes.record(),
            "coverage": dict(self.coverage),
            "num_empty_cells": self.num_empty_cells,
            "notes": list(self.notes),
            "warnings": list(self.warnings),
        }

    def lines(self) -> list[str]:
        """Return the report as text."""
        empty = "" if not self.num_empty_cells else f", {self.num_empty_cells} without any gene of the vocabulary"
        return [
            f"{self.source}: {self.num_cells} cells x {self.num_genes} genes from {self.taken_from}{empty}",
            *self.state.lines(),
            *self.genes.lines(),
            f"{self.coverage['molecules']:.1%} of expression lies in matched genes",
            *(f"note: {note}" for note in self.notes),
            *(f"warning: {warning}" for warning in self.warnings),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One matrix of a data set and how its values are read."""

    matrix: Any
    name: str
    """``X``, ``raw`` or the layer's name."""
    state: MatrixState
    delivered: str
    notes: tuple[str, ...] = ()

    @property
    def is_recovered(self) -> bool:
        """Whether counts are computed back from normalised values."""
        return self.delivered == "raw" and self.state.kind != "raw"

    def convert(self, block_ng: sp.csr_matrix) -> sp.csr_matrix:
        """Turn stored rows into delivered values (float32); the block itself is left as it was."""
        if self.is_recovered:
            return recover_counts(block_ng, self.state)
        if self.delivered == "log1p" and self.state.log_base is not None:
            return _to_logcp10k(block_ng, self.state)
        return sp.csr_matrix((block_ng.data.astype(np.float32), block_ng.indices, block_ng.indptr), block_ng.shape)


def recover_counts(block_ng: sp.csr_matrix, state: MatrixState) -> sp.csr_matrix:
    """Compute counts back from normalised values or their logarithms.

    The logarithm is inverted and each cell divided by its smallest value, which is a count of 1. The result must be
    integers to a relative error of 0.01 (and 0.2 at most), in every entry.

    Raises
    ------
    ValueError
        It is not: the smallest count of a cell is not 1, or the values were changed in another way too.
    """
    linear_z = unlog(block_ng.data.astype(np.float64), state.log_base)
    if not state.is_log_of_counts and len(linear_z):
        length_n = np.diff(block_ng.indptr)
        starts = block_ng.indptr[:-1][length_n > 0]
        positive_z = np.where(linear_z > 0, linear_z, np.inf)
        linear_z = linear_z / np.repeat(np.minimum.reduceat(positive_z, starts), length_n[length_n > 0])
    count_z = np.rint(linear_z)
    is_off_z = np.abs(linear_z - count_z) > np.minimum(0.01 * np.maximum(linear_z, 1.0), 0.2)
    if is_off_z.any():
        raise ValueError(
            f"counts cannot be recovered from {state.kind} values: {is_off_z.mean():.2%} of them are not whole "
            f"multiples of the smallest of their cell (for instance {linear_z[is_off_z.argmax()]:.3f})"
        )
    return sp.csr_matrix((count_z.astype(np.float32), block_ng.indices, block_ng.indptr), block_ng.shape)


def _to_logcp10k(block_ng: sp.csr_matrix, state: MatrixState) -> sp.csr_matrix:
    """Bring logarithms of any base and target sum to log1p of counts per 10,000; exact where the target is known."""
    value_z = block_ng.data.astype(np.float64)
    if state.is_log_of_counts:
        linear_z = unlog(value_z, state.log_base)
        length_n = np.diff(block_ng.indptr)
        total_n = np.add.reduceat(linear_z, block_ng.indptr[:-1][length_n > 0]) if len(linear_z) else np.zeros(0)
        value_z = np.log1p(linear_z * np.repeat(1e4 / total_n, length_n[length_n > 0]))
    elif state.target_sum is not None and state.target_sum != 1e4:
        value_z = np.log1p(unlog(value_z, state.log_base) * (1e4 / state.target_sum))
    elif state.log_base != math.e:
        value_z = value_z * math.log(state.log_base)
    return sp.csr_matrix((value_z.astype(np.float32), block_ng.indices, block_ng.indptr), block_ng.shape)


def title(name: str) -> str:
    """Return how a user writes the matrix: ``X``, ``raw.X`` or ``layers["..."]``."""
    return {"X": "X", "raw": "raw.X"}.get(name, f'layers["{name}"]')


def choose_matrix(
    opened: Opened, accepts: Sequence[str], *, layer: str | None = None, assume: str | None = None
) -> Choice:
    """Pick the matrix that the family can be fed, best accepted state first.

    Parameters
    ----------
    accepts
        Acceptable states, best first. For each in turn a counts layer is looked at, then X, then raw.X.
    layer
        Take this one only: ``"X"``, ``"raw"`` or a layer's name.
    assume
        State to believe instead of the detected one (raw, normalised, log1p); without ``layer`` it speaks of X.
        Values that are negative, NaN or infinite are refused all the same, and so is a state that the values
        disprove: logarithms above 50, or counts that prove to be scaled to one total or to be logarithms.

    Raises
    ------
    ValueError
        Nothing acceptable; the message gives what was seen and what to do.
    """
    if assume is not None and assume not in ASSUMABLE:
        raise ValueError(f"assume = {assume!r}; choose one of {', '.join(ASSUMABLE)}")
    names = _candidates(opened, "X" if assume is not None and layer is None else layer)
    found = [_look(opened, name, assume) for name in names]
    for kind in accepts:
        for choice in found:
            if choice.state.kind == kind and choice.state.first_bad is None:
                return replace(choice, delivered=kind, notes=(*choice.notes, *_conversion_notes(choice.state, kind)))
    reasons = [_describe(opened, choice) for choice in found]
    if "raw" in accepts:
        for choice in found:
            if choice.state.kind in ("normalised", "log1p") and choice.state.first_bad is None:
                try:
                    recover_counts(sample_rows(choice.matrix)[1], choice.state)
                except ValueError as error:
                    reasons.append(str(error))
                    continue
                note = f"counts were computed back from {choice.state.kind} values in {title(choice.name)}"
                return replace(choice, delivered="raw", notes=(*choice.notes, note))
    # binned and unknown values are taken where nothing better is there, but nobody is asked for them
    wanted = " or ".join(
        {"raw": "raw counts"}.get(kind, f"{kind} values") for kind in accepts if kind not in ("binned", "unknown")
    )
    raise ValueError(f"{opened.name}: {wanted} needed, but {'; '.join(reasons)}; {_REMEDY}")


def _candidates(opened: Opened, layer: str | None) -> list[str]:
    if layer is not None:
        if layer not in opened.matrices:
            known = ", ".join(map(repr, opened.matrices)) or "none"
            near = did_you_mean(layer, opened.matrices)
            raise ValueError(f"{opened.name} has no matrix {layer!r}; it has {known}{near}")
        return [layer]
    names = [name for name in (*COUNT_LAYERS, "X", "raw") if name in opened.matrices]
    if not names:
        layers = ", ".join(map(repr, opened.matrices)) or "none"
        raise ValueError(f"{opened.name} has no X; its layers are {layers}: name one with layer= (--layer)")
    return names


def _look(opened: Opened, name: str, assume: str | None) -> Choice:
    state = inspect_matrix(opened.matrices[name])
    notes: tuple[str, ...] = ()
    if assume is not None and assume != state.kind:
        _refuse_disproved(opened, name, state, assume)
        notes = (f"taken as {assume} as asked; the values look {state.kind} ({state.reason})",)
        state = replace(
            state,
            kind=assume,
            reason="stated by the user",
            log_base=(state.log_base or math.e) if assume == "log1p" else None,
            target_sum=None,
            is_log_of_counts=False,
            num_bins=None,
        )
    return Choice(matrix=opened.matrices[name], name=name, state=state, delivered=state.kind, notes=notes)


def _refuse_disproved(opened: Opened, name: str, state: MatrixState, assume: str) -> None:
    """Raise when the values cannot be what a user says they are."""
    where = f"assume = {assume!r} is not possible: {title(name)} of {opened.name}"
    if assume == "log1p" and state.maximum > _LARGEST_LOG:
        raise ValueError(
            f"{where} reaches {state.maximum:g}, and no logarithm of expression is so large; the values look "
            f"{state.kind} ({state.reason}): leave assume out"
        )
    is_proved = state.is_log_of_counts or state.target_sum is not None
    if is_proved and (assume == "raw" or state.kind == "log1p"):
        raise ValueError(f"{where} is {state.kind} ({state.reason}); leave assume out, or choose a matrix of counts")


def _conversion_notes(state: MatrixState, kind: str) -> tuple[str, ...]:
    if kind != "log1p" or (state.log_base == math.e and state.target_sum in (1e4, None) and not state.is_log_of_counts):
        return ()
    if state.is_log_of_counts:
        return ("logarithms of counts were normalised to 10,000 a cell",)
    base = "e" if state.log_base == math.e else f"{state.log_base:g}"
    if state.target_sum is None:
        return (f"logarithms of base {base} were turned into natural ones",)
    return (f"log1p values (base {base}, target sum {state.target_sum:g}) were rescaled to 10,000 a cell, base e",)


def _describe(opened: Opened, choice: Choice) -> str:
    text = f"{title(choice.name)} is {choice.state.kind} ({choice.state.reason}; {choice.state.evidence()})"
    if choice.state.first_bad is not None:
        row, column, value = choice.state.first_bad
        gene = opened.var_of(choice.name).index[column]
        text += f", first {value:g} at cell {str(opened.obs.index[row])!r}, gene {str(gene)!r}"
        if choice.state.num_nan:
            text += " (remove such cells, or give the values that belong there)"
    return text
