"""Condition flags of tokens: what is known of a gene beside its value.

Source: scGPT Methods "Input embeddings", condition tokens ("diverse meta information associated with individual
genes"). The published code knows one kind, whether a gene is perturbed in the cell. Here a kind may also be told of a
gene whatever the cell (membership of a pathway), and there may be several kinds, each with a table of its own; their
vectors are summed, so that kinds combine freely, unseen combinations too, where a single table of all combinations
would have to see each in training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from cellwright.tokens.values import check_indptr
from cellwright.types import CellBatch, GeneFlags, TokenBatch
from cellwright.vocab import GeneVocab

PERTURBED = "perturbed"
"""The published kind of condition: 1 = the gene is perturbed in this cell."""


class FlagTable:
    """Kinds of conditions, and the flags of tokens.

    Parameters
    ----------
    vocab
        The vocabulary.
    conditions
        Kind -> gene -> category, as in `cellwright.models.InputConfig`; an empty table = told by each cell. The
        categories of a kind are numbered from 1 in alphabetical order; 0 = nothing said of the gene. Genes that are not
        in the vocabulary say nothing.
    sizes
        Conditions that the network knows of each kind, "nothing said" among them; empty: it takes none.

    Raises
    ------
    ValueError
        When the network has another number of kinds, or a table holds more categories than the network knows.
    """

    def __init__(self, vocab: GeneVocab, conditions: Mapping[str, Mapping[str, str]], sizes: Sequence[int]):
        if not conditions and len(sizes) == 1:
            conditions = {PERTURBED: {}}
        if len(conditions) != len(sizes):
            raise ValueError(
                f"inputs.conditions names {len(conditions)} kinds ({', '.join(conditions) or 'none'}), the network "
                f"knows {len(sizes)} (num_conditions and more_conditions)"
            )
        self.kinds = tuple(conditions)
        self.sizes = dict(zip(conditions, sizes, strict=True))
        self.categories = {kind: categories(table) for kind, table in conditions.items() if table}
        self.code_v: dict[str, Tensor] = {}
        for kind, names in self.categories.items():
            if len(names) >= self.sizes[kind]:
                raise ValueError(
                    f"inputs.conditions.{kind} holds {len(names)} categories, the network knows "
                    f"{self.sizes[kind] - 1} beside 'nothing said'"
                )
            id_g, code_v = vocab.ids(conditions[kind]), np.zeros(len(vocab), np.int64)
            code_g = np.array([names.index(name) + 1 for name in conditions[kind].values()])
            code_v[id_g[id_g >= 0]] = code_g[id_g >= 0]
            self.code_v[kind] = torch.from_numpy(code_v)

    def check(self, cells: CellBatch) -> None:
        """Refuse flags of cells that the network does not take; ``ValueError`` names the kind."""
        for kind, flags in cells.flags.items():
            if kind not in self.kinds or kind in self.code_v:
                told = [name for name in self.kinds if name not in self.code_v]
                raise ValueError(
                    f"the cells flag genes as {kind!r}; this model is told by cells of {', '.join(told) or 'nothing'}"
                )
            check_indptr(flags.gene_z, flags.indptr_n1)
            if len(flags.indptr_n1) != len(cells) + 1 or len(flags.flag_z) != len(flags.gene_z):
                raise ValueError(f"flags of kind {kind!r} do not fit the {len(cells)} cells")
            if len(flags.flag_z) and not 0 <= flags.flag_z.min() <= flags.flag_z.max() < self.sizes[kind]:
                raise ValueError(
                    f"a flag of kind {kind!r} is {flags.flag_z.max()}; the network knows 0 .. {self.sizes[kind] - 1}"
                )

    def __call__(self, cells: CellBatch, tokens: TokenBatch) -> Tensor | None:
        """Return the flags of all tokens: ``None`` without kinds, ``[n, t]`` of one, ``[n, t, c]`` of several."""
        if not self.kinds:
            return None
        flags = [
            self.code_v[kind][tokens.gene_nt] if kind in self.code_v else told_by_cells(cells.flags.get(kind), tokens)
            for kind in self.kinds
        ]
        return flags[0] if len(flags) == 1 else torch.stack(flags, -1)


def categories(table: Mapping[str, str]) -> tuple[str, ...]:
    """Return the categories of a gene -> category table, in the order in which they are numbered, from 1."""
    return tuple(sorted(set(table.values())))


def told_by_cells(flags: GeneFlags | None, tokens: TokenBatch) -> Tensor:
    """Return the condition that its cell gives each token, int64 ``[n, t]``; 0 where it gives none, and at pads."""
    flag_nt = torch.zeros_like(tokens.gene_nt)
    if flags is None or not len(flags.gene_z):
        return flag_nt
    layout = tokens.layout
    cell_nt = layout.spread(torch.arange(layout.num_cells)).expand(layout.shape)
    num_ids = int(max(flags.gene_z.max(), tokens.gene_nt.max())) + 1
    cell_z = np.repeat(np.arange(layout.num_cells), np.diff(flags.indptr_n1))
    key_z = cell_z * num_ids + flags.gene_z
    key_nt = (cell_nt * num_ids + tokens.gene_nt).numpy()
    order_z = np.argsort(key_z)
    at_nt = np.searchsorted(key_z[order_z], key_nt).clip(max=len(key_z) - 1)
    is_told_nt = (key_z[order_z][at_nt] == key_nt) & ~layout.is_pad_nt().numpy()
    return torch.from_numpy(np.where(is_told_nt, flags.flag_z[order_z][at_nt], 0))
