"""Values of several modalities in one cell: each is coded by itself, since counts of genes, proteins and peaks have
scales of their own.

Source: scGPT's multi-omic recipe (Nature Methods 21:1470, Methods "scMultiomic integration"; published tutorial):
every modality of a cell is binned apart, and each token carries an id of its modality. Feeding a modality unbinned is
ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cellwright.tokens.sequence import read_rows
from cellwright.tokens.values import bin_ragged, check_binning
from cellwright.types import CellBatch, Draw, Layout, TokenBatch
from cellwright.vocab import GeneVocab, modality_of

UNBINNED_SCALE = 10.0
"""Unbinned values are multiplied by this: centred log ratios of 0 .. 5 then span as much as 51 bins do."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ModalitySpec:
    """Which modality each vocabulary entry is of, and how the values of each are coded."""

    modality_v: np.ndarray
    """int64: modality of each vocabulary entry, special tokens included; -1 = of a modality that is not named."""
    num: int
    """Modalities that values can be of; ids of special tokens come after."""
    unbinned: tuple[int, ...] = ()
    """Ids whose values are fed as they are, times `UNBINNED_SCALE`."""
    num_bins: int | None = None
    """Digits of the binning within a modality; ``None`` = values of all modalities stay as they are."""
    ties: str = "upper"

    @classmethod
    def of_vocab(
        cls,
        vocab: GeneVocab,
        modalities: Sequence[str],
        *,
        special_ids: Mapping[int, int],
        unbinned: Sequence[str] = (),
        num_bins: int | None = None,
        ties: str = "upper",
    ) -> ModalitySpec:
        """Build from names: the id of a modality is its place in ``modalities``.

        Parameters
        ----------
        special_ids
            Vocabulary id of a special token -> its modality id.

        Raises
        ------
        ValueError
            A name occurs twice, or ``unbinned`` names a modality that is not there.
        """
        if len(set(modalities)) != len(modalities):
            raise ValueError(f"modalities must differ: {', '.join(modalities)}")
        if absent := [name for name in unbinned if name not in modalities]:
            raise ValueError(
                f"no modality {absent[0]!r} to leave unbinned; there are {', '.join(modalities) or 'none'}"
            )
        check_binning(2 if num_bins is None else num_bins, ties)
        at = {name: i for i, name in enumerate(modalities)}
        modality_v = np.array([at.get(modality_of(token), -1) for token in vocab.tokens], np.int64)
        for token, modality in special_ids.items():
            modality_v[token] = modality
        places = tuple(at[name] for name in unbinned)
        return cls(modality_v=modality_v, num=len(modalities), unbinned=places, num_bins=num_bins, ties=ties)

    def of(self, gene_nt: Tensor) -> Tensor:
        """Return the modality of each token, int64; a token of none is a ``ValueError``."""
        modality_nt = torch.from_numpy(self.modality_v)[gene_nt]
        if bool((modality_nt < 0).any()):
            raise ValueError("a token is of a modality that this model was not made for; name it (inputs.modalities)")
        return modality_nt


def code_by_modality(cells: CellBatch, spec: ModalitySpec, draw: Draw, panel: np.ndarray | None = None) -> CellBatch:
    """Replace values by bins of their own cell *and modality*; see `cellwright.tokens.bin_ragged` for the rule.

    ``panel`` are the vocabulary ids that bins come from; others are left out. Random ties are keyed by cell and
    modality, so that they do not depend on what else was measured. Zeros are left out.

    Raises
    ------
    ValueError
        As `cellwright.tokens.sequence.read_rows`, or a value of a modality that has no id.
    """
    indptr_n1, gene_z, value_z = read_rows(cells, panel)
    modality_z = spec.modality_v[gene_z]
    if len(gene_z) and not 0 <= modality_z.min() <= modality_z.max() < spec.num:
        raise ValueError("a value is of a modality that this model was not made for; name it (inputs.modalities)")
    coded_z = value_z
    if spec.num_bins is not None:
        # one row a cell and modality; within such a row the entries keep their order
        row_z = np.repeat(np.arange(len(cells)), np.diff(indptr_n1)) * spec.num + modality_z
        order_z = np.argsort(row_z, kind="stable")
        bounds = np.concatenate([[0], np.cumsum(np.bincount(row_z, minlength=len(cells) * spec.num))])
        key_n = (np.asarray(cells.row_n)[:, None] * spec.num + np.arange(spec.num)).ravel()
        coded_z = np.empty_like(value_z)
        coded_z[order_z] = bin_ragged(value_z[order_z], bounds, spec.num_bins, ties=spec.ties, draw=draw, row_n=key_n)
    if spec.unbinned:
        coded_z = np.where(np.isin(modality_z, spec.unbinned), value_z * np.float32(UNBINNED_SCALE), coded_z)
    return replace(cells, indptr_n1=indptr_n1, gene_z=gene_z, value_z=coded_z.astype(np.float32))


def with_asked(tokens: TokenBatch, gene_p: np.ndarray, modality_p: np.ndarray, *, pad_gene: int) -> TokenBatch:
    """Return tokens with further ones behind each cell's: known features whose values are withheld.

    The answers are at the last ``len(gene_p)`` tokens of each cell. Features that a cell has a token of already must
    not be asked for; nothing here looks. The layout, packed or padded, stays of its kind.
    """
    packed, num = tokens.packed(), len(gene_p)
    before = packed.layout
    layout = Layout(tuple(length + num for length in before.lengths))
    # packed, a cell's asked tokens come after its own: both sorted by cell, own ones first
    cell_t = torch.cat([before.cell_of_token(), torch.arange(before.num_cells).repeat_interleave(num)])
    order_t = torch.argsort(cell_t, stable=True)

    def joined(own_nt: Tensor, asked_p: Tensor) -> Tensor:
        asked = asked_p.to(own_nt.dtype).repeat(before.num_cells, *(1,) * (asked_p.ndim - 1))
        return torch.cat([own_nt[0], asked])[order_t][None]

    made = replace(
        packed,
        layout=layout,
        gene_nt=joined(packed.gene_nt, torch.from_numpy(np.asarray(gene_p, np.int64))),
        value_nt=joined(packed.value_nt, torch.zeros(num)),
        is_hidden_nt=joined(packed.is_hidden_nt, torch.ones(num)),
        flag_nt=None if packed.flag_nt is None else joined(packed.flag_nt, torch.zeros(num, *packed.flag_nt.shape[2:])),
        modality_nt=None
        if packed.modality_nt is None
        else joined(packed.modality_nt, torch.from_numpy(np.asarray(modality_p, np.int64))),
    )
    return made if tokens.layout.is_packed else made.padded(pad_gene)
