"""Perturbed cells as tokens: the genes of a panel with their values, and a flag at what is perturbed.

Source: scGPT's perturbation model (Cui et al., Nature Methods 2024; published ``generation_model.py``): no ``<cls>``,
log values that are not binned, a condition flag a token. What differs, on purpose: a gene outside the vocabulary is not
fed (published: an attended pad), and the perturbed gene is always among those fed (published: may be left out at
random). A perturbed gene that the panel does not measure has a token too; its value is withheld.

Flags are placed as on all tokens (`cellwright.types.GeneFlags`, `cellwright.tokens.flags.told_by_cells`). Tokens are
laid out here: a family's tokeniser puts ``<cls>`` before them, orders them by id, and gives a flagged gene that is not
measured the value 0, as though it were silent, where here the value is withheld.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from cellwright.data.perturbations import align_genes
from cellwright.tokens.flags import told_by_cells
from cellwright.types import GeneFlags, Layout, TokenBatch

Parts = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Feed:
    """What of a panel a network can be fed, and where perturbations stand among its tokens.

    Parameters
    ----------
    model
        A `cellwright.models.Model` whose network answers values and takes condition flags.
    genes
        Genes of the panel.
    flag
        Condition of a perturbed token; others have 0.

    Raises
    ------
    ValueError
        The network cannot be used so, or knows no gene of the panel.
    """

    model: Any
    genes: tuple[str, ...]
    flag: int = 1
    _token: dict[str, int] = field(default_factory=dict)

    def __post_init__(self):
        model, where = self.model, self.model.report.source
        num_flags = getattr(model.config, "num_conditions", 0)
        if "value_nt" not in model.network.produces or num_flags <= self.flag:
            raise ValueError(
                f"{where} cannot predict perturbed cells: its network must answer values and take {self.flag + 1} "
                f"condition flags (it takes {num_flags}); adapt it: value_head='affine', num_conditions=3"
            )
        if getattr(model.config, "uses_tech_batch", False):
            raise ValueError(f"{where} must be told sequencing batches, which a new perturbation has none of")
        if not len(self.fed_k):
            raise ValueError(
                f"{where} knows none of the {len(self.genes)} genes of the screen; give a model of these genes"
            )

    @cached_property
    def id_g(self) -> np.ndarray:
        """int64: vocabulary id of each panel gene, -1 = not known."""
        names = tuple(self.model.vocab.genes)
        at_g = align_genes(self.genes, names)
        return np.where(at_g >= 0, self.model.vocab.ids(names)[at_g], -1)

    @cached_property
    def fed_k(self) -> np.ndarray:
        """int64: columns of the panel that can be fed."""
        return np.flatnonzero(self.id_g >= 0)

    @cached_property
    def _column(self) -> dict[int, int]:
        return {int(self.id_g[column]): int(column) for column in reversed(self.fed_k)}

    def token(self, part: str) -> int:
        """Return the vocabulary id of what is perturbed, -1 = not known."""
        if part not in self._token:
            exact = int(self.model.vocab.ids([part])[0])
            if exact < 0:
                names = tuple(self.model.vocab.genes)
                at = int(align_genes([part], names)[0])
                exact = int(self.model.vocab.ids(names)[at]) if at >= 0 else -1
            self._token[part] = exact
        return self._token[part]

    def columns(self, parts: Parts) -> list[int]:
        """Return the panel columns of what is perturbed, as far as they are fed."""
        tokens = (self.token(part) for part in parts)
        return [self._column[token] for token in tokens if token in self._column]

    def is_known(self, parts: Parts) -> bool:
        """Say whether the network can be told anything of this perturbation."""
        return any(self.token(part) >= 0 for part in parts)

    def tokens(self, value_nk: np.ndarray, columns_k: np.ndarray, parts_n: Sequence[Parts]) -> TokenBatch:
        """Encode cells.

        Parameters
        ----------
        value_nk
            float32: values at the panel columns ``columns_k``, as they are to be fed.
        parts_n
            What is perturbed in each cell; parts that the network does not know have no token.

        Returns
        -------
        Tokens of ``columns_k`` in this order, then those of perturbed genes that are not among them, hidden; padded.
        """
        num_cells, num = value_nk.shape
        id_k = self.id_g[columns_k]
        known = [list(dict.fromkeys(t for part in parts if (t := self.token(part)) >= 0)) for parts in parts_n]
        fed = set(id_k.tolist())
        extra = [[token for token in tokens if token not in fed] for tokens in known]
        width = num + max(map(len, extra))
        pad = self.model.vocab.special_id("pad")
        gene_nt = np.full((num_cells, width), pad, np.int64)
        value_nt = np.zeros((num_cells, width), np.float32)
        is_hidden_nt = np.zeros((num_cells, width), bool)
        gene_nt[:, :num], value_nt[:, :num] = id_k, value_nk
        for n, absent in enumerate(extra):
            gene_nt[n, num : num + len(absent)], is_hidden_nt[n, num : num + len(absent)] = absent, True
        tokens = TokenBatch(
            gene_nt=torch.from_numpy(gene_nt),
            value_nt=torch.from_numpy(value_nt),
            is_hidden_nt=torch.from_numpy(is_hidden_nt),
            layout=Layout(tuple(num + len(absent) for absent in extra), width),
        )
        return replace(tokens, flag_nt=told_by_cells(GeneFlags.of(known, self.flag), tokens))
