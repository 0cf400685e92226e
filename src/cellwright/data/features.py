"""Features that are not genes: proteins counted by antibodies, and open-chromatin peaks.

Their tokens carry the modality in the name (``protein:CD4``, ``peak:chr1:100-200``), since a gene and its protein may
be called the same. Proteins become centred log ratios (Stoeckius et al., Nature Methods 14:865, 2017, in the form with
log1p, which is never negative); peaks become open or not, counts, or TF-IDF (Cusanovich et al., Cell 174:1309, 2018).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp

from cellwright.config import Config, some_of
from cellwright.data.sources import load_csr
from cellwright.data.state import inspect_matrix
from cellwright.vocab import RNA

_WORDS = {
    RNA: ("gene expression", "rna", "gex", "gene", "genes", "mrna"),
    "peak": ("peaks", "peak", "atac", "chromatin", "chromatin accessibility"),
    "protein": ("antibody capture", "protein", "proteins", "prot", "adt", "adts", "cite"),
}
_PEAK = re.compile(r"(?P<chrom>[\w.]+?)[:\-_](?P<start>\d+)[\-_](?P<end>\d+)")
_KIT = re.compile(r"[-_ ]Total(Seq)?[-_ ]?[ABCD](_PROT)?$", re.IGNORECASE)
"""What kits put behind the name of an antibody."""


class FeatureOptions(Config):
    """How proteins and peaks are read."""

    slot: str | None = None
    """Slot of obsm that holds protein counts; unset = found by name (protein_expression, protein, adt)."""
    proteins: Literal["clr", "given"] = "clr"
    """clr: proteins are raw counts and become centred log ratios. given: they are taken as they are, not negative."""
    peaks: Literal["binary", "counts", "tfidf"] = "binary"
    """Values of peaks: binary (open or not) | counts | tfidf (weighted by how rare a peak is in these cells)."""


def modality_named(word: Any) -> str | None:
    """Return the modality that a word of a data set stands for (``Antibody Capture``, ``prot``); ``None`` = none."""
    word = str(word).strip().lower()
    return next((name for name, words in _WORDS.items() if word in words), None)


def feature_token(modality: str, name: str) -> str:
    """Return the token of a feature: ``protein:CD4``, ``peak:chr1:100-200``; names that are tokens stay.

    Peaks are written chromosome:start-end however the source separates them. From names of proteins the mark of the kit
    (``_TotalSeqB``) is taken off.
    """
    name = str(name).strip()
    name = name.removeprefix(f"{modality}:")
    if modality == "peak" and (found := _PEAK.fullmatch(name)):
        name = f"{found['chrom']}:{found['start']}-{found['end']}"
    elif modality == "protein":
        name = _KIT.sub("", name)
    return f"{modality}:{name}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FeatureBlock:
    """One modality of the cells of one study."""

    modality: str
    tokens: tuple[str, ...]
    value_nf: sp.csr_matrix
    """float32 ``[n, f]``: what models are fed, never negative."""
    is_measured_n: np.ndarray
    """bool: the cell has the modality, that is any count of it."""
    notes: tuple[str, ...]

    def spread(self, row_n: np.ndarray) -> FeatureBlock:
        """Return the block for other cells: position of each in this one, -1 = not here."""
        is_here_n = row_n >= 0
        value_nf = self.value_nf[np.where(is_here_n, row_n, 0)]
        value_nf = sp.csr_matrix(sp.diags_array(is_here_n.astype(np.float32)) @ value_nf)
        value_nf.eliminate_zeros()
        is_measured_n = is_here_n & self.is_measured_n[np.where(is_here_n, row_n, 0)]
        return replace(self, value_nf=value_nf, is_measured_n=is_measured_n)


def make_block(
    modality: str, names: Iterable[Any], matrix: Any, options: FeatureOptions, *, where: str
) -> FeatureBlock:
    """Check one modality's matrix and turn it into what models are fed.

    A cell whose values are all 0 or NaN has not been measured. A feature that is 0 in every cell stays.

    Raises
    ------
    ValueError
        Two features of one name; a negative value, an infinite one, or NaN in part of a cell's features; proteins that
        are no counts where counts are needed; no value at all.
    """
    tokens = tuple(feature_token(modality, name) for name in names)
    if len(set(tokens)) != len(tokens):
        seen: set[str] = set()
        twice = sorted({t for t in tokens if t in seen or seen.add(t)})
        raise ValueError(
            f"{where}: {some_of(twice, 3)} occurs twice among its {modality}s; give each a name of its own"
        )
    value_nf, is_measured_n = _measured(modality, matrix, where)
    if not is_measured_n.any():
        raise ValueError(f"{where}: its {len(tokens)} {modality}s are 0 in every cell; is it the right matrix?")
    notes = [f"{len(tokens):,} {modality}s in {int(is_measured_n.sum()):,} of {len(is_measured_n):,} cells"]
    if modality == "protein":
        value_nf, note = _protein_values(value_nf, is_measured_n, options, where)
    else:
        value_nf, note = _peak_values(value_nf, options.peaks)
    return FeatureBlock(
        modality=modality, tokens=tokens, value_nf=value_nf, is_measured_n=is_measured_n, notes=(*notes, note)
    )


def _measured(modality: str, matrix: Any, where: str) -> tuple[sp.csr_matrix, np.ndarray]:
    """Return finite float64 values without zeros, and which cells have any."""
    value_nf = load_csr(np.asarray(matrix) if not sp.issparse(matrix) and hasattr(matrix, "__array__") else matrix)
    value_nf = sp.csr_matrix(value_nf, dtype=np.float64, copy=True)
    is_nan_z = np.isnan(value_nf.data)
    num_n, num_f = np.diff(value_nf.indptr), value_nf.shape[1]
    num_nan_n = np.bincount(np.repeat(np.arange(len(num_n)), num_n)[is_nan_z], minlength=len(num_n))
    if len(partly := np.flatnonzero((num_nan_n > 0) & (num_nan_n < num_f))):
        raise ValueError(
            f"{where}: {num_nan_n[partly[0]]} of {num_f} {modality}s are NaN at cell {partly[0]}; a cell that was not "
            "measured is NaN in all of them, or 0"
        )
    value_nf.data[is_nan_z] = 0
    if len(value_nf.data) and not (value_nf.data.min() >= 0 and value_nf.data.max() < np.inf):
        bad = value_nf.data[~((value_nf.data >= 0) & (value_nf.data < np.inf))][0]
        raise ValueError(
            f"{where}: a {modality} has the value {bad:g}; give counts, which are neither negative nor infinite"
        )
    value_nf.eliminate_zeros()
    value_nf.sort_indices()
    return value_nf, np.diff(value_nf.indptr) > 0


def _protein_values(
    value_nf: sp.csr_matrix, is_measured_n: np.ndarray, options: FeatureOptions, where: str
) -> tuple[sp.csr_matrix, str]:
    if options.proteins == "given":
        return value_nf.astype(np.float32), "proteins taken as they are, as asked"
    if not (value_nf.data == np.rint(value_nf.data)).all():
        state = inspect_matrix(value_nf[is_measured_n])
        raise ValueError(
            f"{where}: proteins are {state.kind} values ({state.reason}), not counts; give raw counts, or say that "
            "they are ready (proteins='given', --proteins given)"
        )
    return centred_log_ratios(value_nf), "proteins as centred log ratios"


def centred_log_ratios(count_nf: sp.csr_matrix) -> sp.csr_matrix:
    """Return ``log1p(x / g)``, ``g`` = exp of the mean log1p of the cell's counts over all features, 0 included.

    A count of 0 stays 0; others are positive. float32.
    """
    mean_n = np.asarray(count_nf.log1p().sum(1)).ravel() / count_nf.shape[1]
    scaled_z = count_nf.data / np.exp(np.repeat(mean_n, np.diff(count_nf.indptr)))
    return sp.csr_matrix((np.log1p(scaled_z).astype(np.float32), count_nf.indices, count_nf.indptr), count_nf.shape)


def _peak_values(value_nf: sp.csr_matrix, how: str) -> tuple[sp.csr_matrix, str]:
    if how == "counts":
        return value_nf.astype(np.float32), "peaks as given"
    if how == "tfidf":
        return term_frequencies(value_nf), "peaks as TF-IDF over these cells"
    ones_z = np.ones(len(value_nf.data), np.float32)
    return sp.csr_matrix((ones_z, value_nf.indices, value_nf.indptr), value_nf.shape), "peaks open or not"


def term_frequencies(value_nf: sp.csr_matrix) -> sp.csr_matrix:
    """Return TF-IDF of open peaks: ``log(1 + 1e4 x share of the cell's peaks x cells / cells with it)``, float32."""
    num_n, num_f = np.diff(value_nf.indptr), np.bincount(value_nf.indices, minlength=value_nf.shape[1])
    share_z = 1.0 / np.repeat(np.maximum(num_n, 1), num_n)
    rare_f = (num_n > 0).sum() / np.maximum(num_f, 1)
    value_z = np.log1p(1e4 * share_z * rare_f[value_nf.indices]).astype(np.float32)
    return sp.csr_matrix((value_z, value_nf.indices, value_nf.indptr), value_nf.shape)


def most_covered(blocks: Sequence[FeatureBlock], num: int | None) -> tuple[str, ...]:
    """Return the tokens that are not 0 in most cells, in the order in which they are first met; ``None`` = all.

    Features that no cell has are left out where not all are kept. Equal coverage goes to the one met first.
    """
    count: dict[str, int] = {}
    for block in blocks:
        num_f = np.bincount(block.value_nf.indices, minlength=len(block.tokens))
        for token, cells in zip(block.tokens, num_f.tolist(), strict=True):
            count[token] = count.get(token, 0) + cells
    if num is None:
        return tuple(count)
    kept = set(sorted((t for t in count if count[t]), key=lambda token: -count[token])[:num])
    return tuple(token for token in count if token in kept)
