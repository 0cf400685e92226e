"""Cells of several modalities on one vocabulary: what a multi-omic model reads.

Studies are put one after another. A cell has tokens of the modalities that were measured in it and of no others, so
that a mosaic of studies needs nothing special. Everything is held in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import scipy.sparse as sp

from cellwright.data.cells import Cells, open_cells
from cellwright.data.contract import Contract
from cellwright.data.features import FeatureOptions, most_covered
from cellwright.data.modalities import Study, read_study
from cellwright.data.sources import IN_MEMORY, name_of
from cellwright.vocab import RNA, GeneVocab, modality_of

if TYPE_CHECKING:
    import pandas as pd


MODALITY_WORDS = {RNA: "RNA", "protein": "proteins", "peak": "peaks"}
"""Modality -> how a reader is told of it."""


@dataclass(frozen=True, slots=True)
class _Held:
    """Values of all modalities in memory, as `Cells` reads them."""

    value_nv: sp.csr_matrix
    total_n: np.ndarray

    def read(self, rows: np.ndarray) -> tuple[sp.csr_matrix, np.ndarray]:
        return self.value_nv[rows], self.total_n[rows]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Multimodal:
    """Cells with the values of all modalities, and who has which. Made by `open_multimodal`."""

    cells: Cells
    """All modalities on one vocabulary; totals are those of RNA."""
    modalities: tuple[str, ...]
    """Names, sorted."""
    is_measured_nm: np.ndarray
    """bool: the cell has the modality."""
    gene_ids: np.ndarray
    """int64: genes of the vocabulary that every study with RNA has."""
    study_n: np.ndarray
    """int64: study of each cell."""
    studies: tuple[str, ...]
    contracts: Mapping[str, Contract]
    """Study -> what its RNA was found to be."""
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def titles(self) -> tuple[str, ...]:
        """What a heading calls each study: its file's name, the name it was given, or its size."""
        sizes = np.bincount(self.study_n, minlength=len(self.studies)).tolist()
        return tuple(
            f"{num:,} cells in memory" if name.startswith(IN_MEMORY) else Path(name).name
            for name, num in zip(self.studies, sizes, strict=True)
        )

    def measured(self, modality: str) -> np.ndarray:
        """Return bool ``[n]``: the cell has this modality. None has one that is not there at all."""
        if modality not in self.modalities:
            return np.zeros(len(self), bool)
        return self.is_measured_nm[:, self.modalities.index(modality)]

    def ids(self, modality: str) -> np.ndarray:
        """Return the vocabulary ids of a modality's features that these cells have values of, int64, ascending."""
        if modality == RNA:
            return self.gene_ids
        return np.intersect1d(self._held.value_nv.indices, _ids_of(self.cells.vocab, modality)).astype(np.int64)

    @property
    def _held(self) -> _Held:
        return self.cells._store  # the cells of `open_multimodal` are made on one

    def panel(self, modality: str) -> np.ndarray:
        """Return the ids that every study with this modality has: what its cells can be compared in."""
        if modality == RNA:
            return self.gene_ids
        has_n = self.measured(modality)
        panels = [self._ids_in(modality, has_n & (self.study_n == s)) for s in np.unique(self.study_n[has_n])]
        return reduce(np.intersect1d, panels, self.ids(modality))

    def feature_values(self, ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return values of proteins or peaks, float64 ``[rows, ids]``; NaN where a cell's study does not have one."""
        value_nf = self.cells.select(rows).values(ids).toarray().astype(np.float64)
        for modality in {modality_of(self.cells.vocab.tokens[i]) for i in ids}:
            is_theirs_f = np.isin(ids, _ids_of(self.cells.vocab, modality))
            has_n = self.measured(modality)
            value_nf[np.ix_(~has_n[rows], is_theirs_f)] = np.nan
            for study in np.unique(self.study_n[rows]):
                known = self._ids_in(modality, has_n & (self.study_n == study))
                value_nf[np.ix_(self.study_n[rows] == study, is_theirs_f & ~np.isin(ids, known))] = np.nan
        return value_nf

    def _ids_in(self, modality: str, is_in_n: np.ndarray) -> np.ndarray:
        held = self._held.value_nv[np.flatnonzero(is_in_n)]
        return np.intersect1d(held.indices, _ids_of(self.cells.vocab, modality)).astype(np.int64)

    def only(self, gene_ids: np.ndarray) -> Cells:
        """Return the cells with values of these vocabulary ids only; totals stay."""
        value_nv = self._held.value_nv
        is_kept_v = np.zeros(len(self.cells.vocab), bool)
        is_kept_v[gene_ids] = True
        return self._with_entries(is_kept_v[value_nv.indices])

    def _with_entries(self, is_kept_z: np.ndarray) -> Cells:
        held = self._held
        indptr = np.concatenate([[0], np.cumsum(is_kept_z)])[held.value_nv.indptr]
        parts = (held.value_nv.data[is_kept_z], held.value_nv.indices[is_kept_z], indptr)
        store = _Held(sp.csr_matrix(parts, shape=held.value_nv.shape), held.total_n)
        return Cells(store, self.cells.obs, self.cells.contract, self.cells.vocab)

    def without(self, modality: str, rows: np.ndarray) -> Multimodal:
        """Return the same cells where those at ``rows`` lack a modality: as if it had not been measured in them."""
        held, at = self._held, self.modalities.index(modality)
        is_gone_n = np.zeros(len(self), bool)
        is_gone_n[rows] = True
        is_theirs_z = np.isin(held.value_nv.indices, _ids_of(self.cells.vocab, modality))
        cells = self._with_entries(~(np.repeat(is_gone_n, np.diff(held.value_nv.indptr)) & is_theirs_z))
        is_measured_nm = self.is_measured_nm.copy()
        is_measured_nm[rows, at] = False
        return replace(self, cells=cells, is_measured_nm=is_measured_nm)

    def lines(self) -> list[str]:
        """Return what was opened, as text: which modalities how many cells have."""
        lines = [f"{len(self):,} cells of {len(self.studies)} {'study' if len(self.studies) == 1 else 'studies'}"]
        combos, num_k = np.unique(self.is_measured_nm, axis=0, return_counts=True)
        for has_m, num in sorted(zip(combos.tolist(), num_k.tolist(), strict=True), key=lambda pair: -pair[1]):
            names = [MODALITY_WORDS[name] for name, has in zip(self.modalities, has_m, strict=True) if has]
            names.sort(key=lambda name: name != MODALITY_WORDS[RNA])
            lines.append(f"{num:,} cells have {' and '.join(names) or 'no modality'}")
        return [*lines, *self.notes]


def _ids_of(vocab: GeneVocab, modality: str) -> np.ndarray:
    return np.array([i for i, token in enumerate(vocab.tokens) if modality_of(token) == modality], np.int64)


def read_studies(data: Any, options: FeatureOptions | None = None) -> list[Study]:
    """Read one study, or several given as a list; see `read_study`.

    Raises
    ------
    ValueError
        There is no second modality in any of them.
    """
    items = list(data) if isinstance(data, list | tuple) else [data]
    if not items:
        raise ValueError("no data given; name at least one file of cells")
    studies = [read_study(item, options) for item in items]
    names = [study.name for study in studies]
    if len(set(names)) < len(names):
        studies = [replace(study, name=f"{study.name} {i + 1}") for i, study in enumerate(studies)]
    if not any(study.blocks for study in studies):
        raise ValueError(
            f"{', '.join(names)}: there is RNA and nothing beside it; mark features in var['feature_types'], put "
            "protein counts into obsm['protein_expression'], or give a MuData (.h5mu)"
        )
    if all(study.rna is None for study in studies):
        raise ValueError(f"{', '.join(names)}: no genes (RNA, Gene Expression) were found")
    return studies


def feature_tokens(studies: Sequence[Study], num_peaks: int | None = None) -> tuple[str, ...]:
    """Return the tokens that these studies add to a vocabulary: all proteins, then the peaks that most cells have."""
    tokens: list[str] = []
    for modality, num in (("protein", None), ("peak", num_peaks)):
        tokens += most_covered([study.blocks[modality] for study in studies if modality in study.blocks], num)
    return tuple(tokens)


def open_multimodal(
    studies: Sequence[Study],
    vocab: GeneVocab,
    *,
    accepts: Sequence[str] = ("raw",),
    layer: str | None = None,
    assume: str | None = None,
    genes: Literal["harmonise", "exact"] = "harmonise",
) -> Multimodal:
    """Put studies onto a vocabulary that knows their features.

    Features outside the vocabulary are left out. Options as in `cellwright.data.open_cells`, for RNA.

    Raises
    ------
    ValueError
        RNA that cannot be read as one of ``accepts``, or is of different states in two studies.
    """
    parts, contracts = [], {}
    for study in studies:
        value_nv, total_n, contract = _rna(study, vocab, accepts=accepts, layer=layer, assume=assume, genes=genes)
        is_rna_n = study.rna_row_n >= 0
        has = {RNA: is_rna_n & (total_n > 0)}
        for modality, block in study.blocks.items():
            value_nv = value_nv + _on_vocab(block.value_nf, vocab.ids(block.tokens), len(vocab))
            has[modality] = block.is_measured_n
        value_nv = sp.csr_matrix(value_nv, dtype=np.float32)
        value_nv.sort_indices()
        parts.append((value_nv, total_n, has))
        if contract is not None:
            contracts[study.name] = contract
    states = sorted({contract.delivered for contract in contracts.values()})
    if len(states) > 1:
        raise ValueError(f"RNA of the studies is {' and '.join(states)}; give raw counts for all of them")
    modalities = tuple(sorted({name for _, _, has in parts for name in has}))
    none = [np.zeros(len(total_n), bool) for _, total_n, _ in parts]
    columns = [
        np.concatenate([has.get(m, no) for (_, _, has), no in zip(parts, none, strict=True)]) for m in modalities
    ]
    store = _Held(sp.vstack([part[0] for part in parts], format="csr"), np.concatenate([part[1] for part in parts]))
    first = next(iter(contracts.values()))
    merged = replace(first, source=", ".join(study.name for study in studies), num_cells=store.value_nv.shape[0])
    shared = [set(contract.genes.matched_ids.tolist()) for contract in contracts.values()]
    return Multimodal(
        cells=Cells(store, _obs(studies), merged, vocab),
        modalities=modalities,
        is_measured_nm=np.column_stack(columns),
        gene_ids=np.array(sorted(set.intersection(*shared)), np.int64),
        study_n=np.repeat(np.arange(len(studies)), [len(study.obs) for study in studies]),
        studies=tuple(study.name for study in studies),
        contracts=contracts,
        notes=tuple(line for study in studies for line in study.lines()),
    )


def _rna(study: Study, vocab: GeneVocab, **options: Any) -> tuple[sp.csr_matrix, np.ndarray, Contract | None]:
    """Return values ``[n, v]``, totals and contract of a study's RNA, rows in its order of cells."""
    if study.rna is None:
        return sp.csr_matrix((len(study.obs), len(vocab)), dtype=np.float32), np.zeros(len(study.obs)), None
    try:
        cells = open_cells(study.rna, vocab, **options)
    except ValueError as error:  # the AnnData has no name of its own
        raise ValueError(str(error).replace(name_of(study.rna), f"RNA of {study.name}", 1)) from None
    batch = cells.read(np.arange(len(cells)))
    value_nv = sp.csr_matrix((batch.value_z, batch.gene_z, batch.indptr_n1), shape=(len(cells), len(vocab)))
    is_here_n, row_n = study.rna_row_n >= 0, np.maximum(study.rna_row_n, 0)
    value_nv = sp.csr_matrix(sp.diags_array(is_here_n.astype(np.float32)) @ value_nv[row_n])
    value_nv.eliminate_zeros()
    contract = replace(cells.contract, source=f"RNA of {Path(study.name).name}")
    return value_nv, np.where(is_here_n, batch.total_n[row_n], 0.0), contract


def _on_vocab(value_nf: sp.csr_matrix, id_f: np.ndarray, num_vocab: int) -> sp.csr_matrix:
    is_known_z = id_f[value_nf.indices] >= 0
    indptr = np.concatenate([[0], np.cumsum(is_known_z)])[value_nf.indptr]
    parts = (value_nf.data[is_known_z], id_f[value_nf.indices[is_known_z]], indptr)
    return sp.csr_matrix(parts, shape=(value_nf.shape[0], num_vocab))


def _obs(studies: Sequence[Study]) -> pd.DataFrame:
    """Return annotations of all cells; a column that a study lacks is missing (NaN) there."""
    import pandas as pd

    if len(studies) == 1:
        return studies[0].obs.copy()
    tables = [study.obs.astype(dict.fromkeys(study.obs.columns, object)) for study in studies]
    columns = list(dict.fromkeys(column for table in tables for column in table.columns))
    joined = pd.concat([table.reindex(columns=columns) for table in tables])
    if not joined.index.is_unique:  # barcodes come again in other studies
        numbers = np.repeat(np.arange(1, len(studies) + 1), [len(table) for table in tables])
        joined.index = pd.Index([f"{name}-{number}" for name, number in zip(joined.index, numbers, strict=True)])
    return joined
