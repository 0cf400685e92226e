"""What flows between rooms.

Axes, written as lower-case suffixes of tensor names: ``n`` cell, ``g`` gene of a panel, ``t`` token, ``d`` model
width, ``h`` head, ``k`` class or bin, ``v`` vocabulary entry, ``w`` word written into a sentence, ``z`` stored entry of
a ragged (CSR) matrix, ``c`` kind of condition.
A trailing digit is a literal size (``depth_n2``); ``indptr_n1`` has one entry more than there are cells.
Booleans begin with ``is_``. Minibatches of tokens are padded or packed, see `cellwright.layout`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from torch import Tensor

from cellwright.layout import CellEnd, Layout

__all__ = [
    "VALID_EPOCH",
    "CellBatch",
    "CellEnd",
    "Draw",
    "GeneFlags",
    "Layout",
    "LossReport",
    "ModelOutput",
    "Targets",
    "TokenBatch",
    "WordScores",
]

VALID_EPOCH = 2**31 - 1
"""The epoch that validation draws from: always the same, and none that training reaches."""


@dataclass(frozen=True, slots=True)
class Draw:
    """Where a random number comes from: nothing random in cellwright is drawn without one of these.

    The same (seed, epoch, step) gives the same numbers on any machine; tokenisers mix in the cell's position in
    its source, so that a cell's tokens do not depend on the minibatch it travels in.
    """

    seed: int = 0
    epoch: int = 0
    step: int = 0

    def __str__(self) -> str:
        when = "validation" if self.epoch == VALID_EPOCH else f"epoch {self.epoch}"
        return f"{when}, step {self.step} (seed {self.seed})"

    def generator(self) -> torch.Generator:
        """Return a CPU generator keyed by this draw."""
        key = np.random.SeedSequence([self.seed, self.epoch, self.step]).generate_state(2, np.uint32)
        return torch.Generator().manual_seed(int(key[0]) << 31 | int(key[1]) >> 1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GeneFlags:
    """Conditions of some genes of each cell, as ragged rows; a gene that is not named has the condition 0.

    For instance the genes perturbed in each cell, with the condition 1. They need not be expressed.
    """

    indptr_n1: np.ndarray
    """int64 ``[n + 1]``: cell i owns entries ``indptr_n1[i]:indptr_n1[i + 1]``."""
    gene_z: np.ndarray
    """int32: vocabulary ids, each at most once a cell."""
    flag_z: np.ndarray
    """int64: condition of each, at least 0."""

    @classmethod
    def of(cls, genes: Sequence[Sequence[int]], flag: int = 1) -> GeneFlags:
        """Give the genes of each cell (vocabulary ids) the condition ``flag``; a cell may have none."""
        for i, own in enumerate(genes):
            if len(set(own)) != len(own) or min(own, default=0) < 0:
                raise ValueError(f"cell {i} flags the genes {list(own)}; name each vocabulary id once, none negative")
        indptr_n1 = np.concatenate([[0], np.cumsum([len(own) for own in genes], dtype=np.int64)])
        gene_z = np.array([gene for own in genes for gene in own], np.int32)
        return cls(indptr_n1=indptr_n1, gene_z=gene_z, flag_z=np.full(len(gene_z), flag, np.int64))

    def take(self, at_n: np.ndarray) -> GeneFlags:
        """Return the flags of the cells at these positions, in that order."""
        indptr_n1, entry_z = _rows_at(self.indptr_n1, at_n)
        return GeneFlags(indptr_n1=indptr_n1, gene_z=self.gene_z[entry_z], flag_z=self.flag_z[entry_z])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CellBatch:
    """Cells as ragged rows of (vocabulary id, value).

    ``value_z`` holds what the source holds (raw counts unless ``state`` says otherwise); only genes of the
    vocabulary are present, each at most once a cell, zeros are not stored. ``total_n`` counts all molecules of
    the cell, those of genes outside the vocabulary included.
    """

    indptr_n1: np.ndarray
    """int64 ``[n + 1]``: cell i owns entries ``indptr_n1[i]:indptr_n1[i + 1]``."""
    gene_z: np.ndarray
    """int32 ``[z]``: vocabulary ids."""
    value_z: np.ndarray
    """float32 ``[z]``: values, never negative, never NaN."""
    row_n: np.ndarray
    """int64 ``[n]``: position of the cell in its source."""
    total_n: np.ndarray
    """float64 ``[n]``: sum over all genes of the source."""
    obs: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Column name -> int64 codes ``[n]`` (-1 = missing)."""
    state: str = "raw"
    """What ``value_z`` is: raw | normalised | log1p."""
    flags: Mapping[str, GeneFlags] = field(default_factory=dict)
    """Kind of condition -> the genes of each cell that have it."""

    def __len__(self) -> int:
        return len(self.row_n)

    @property
    def num_genes_n(self) -> np.ndarray:
        """int64 ``[n]``: genes stored for each cell."""
        return np.diff(self.indptr_n1)

    def take(self, at_n: np.ndarray) -> CellBatch:
        """Return the cells at these positions of this batch, in that order."""
        indptr_n1, entry_z = _rows_at(self.indptr_n1, at_n)
        return CellBatch(
            indptr_n1=indptr_n1,
            gene_z=self.gene_z[entry_z],
            value_z=self.value_z[entry_z],
            row_n=self.row_n[at_n],
            total_n=self.total_n[at_n],
            obs={name: codes[at_n] for name, codes in self.obs.items()},
            state=self.state,
            flags={kind: flags.take(at_n) for kind, flags in self.flags.items()},
        )


def _rows_at(indptr_n1: np.ndarray, at_n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the row boundaries of chosen ragged rows, and where their entries stand now."""
    length_n = np.diff(indptr_n1)[at_n]
    new_n1 = np.concatenate([[0], np.cumsum(length_n)])
    return new_n1, np.arange(new_n1[-1]) + np.repeat(indptr_n1[at_n] - new_n1[:-1], length_n)


_TOKEN_FIELDS = ("gene_nt", "value_nt", "is_hidden_nt", "flag_nt", "modality_nt")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenBatch:
    """What a model receives. Nothing that is to be predicted may be in here.

    A hidden value is stored as 0 and marked; the published sentinel numbers (scGPT's -1 and -2) are put in by the
    family's value encoder and appear nowhere else.
    """

    gene_nt: Tensor
    """int64: vocabulary id of a gene or special token."""
    value_nt: Tensor
    """float32: encoded expression (bin index, log value, ...); 0 where hidden and at pads."""
    is_hidden_nt: Tensor
    """bool: the token is known, its value is withheld."""
    layout: Layout
    flag_nt: Tensor | None = None
    """int64 condition of each token (for instance 1 = perturbed); ``[n, t, c]`` where there are several kinds."""
    modality_nt: Tensor | None = None
    """int64 modality of each token."""
    tech_batch_n: Tensor | None = None
    """int64 sequencing batch of each cell."""
    cell_nd: Tensor | None = None
    """float32 cell prompt: takes the place of the first token's embedding."""
    depth_n2: Tensor | None = None
    """float32 source and target log10 depth."""

    def __post_init__(self):
        for name in _TOKEN_FIELDS:
            value = getattr(self, name)
            if value is not None and tuple(value.shape[:2]) != self.layout.shape:
                raise ValueError(f"{name} has shape {tuple(value.shape)}, the layout says {self.layout.shape}")
        on_cpu = self.value_nt.device.type == "cpu"  # elsewhere the check would wait for the device
        if on_cpu and bool((self.value_nt[self.is_hidden_nt] != 0).any()):
            raise ValueError("a hidden value reached the model input")

    def hide(self, at_nt: Tensor) -> TokenBatch:
        """Return a copy whose values at ``at_nt`` are withheld too (pads are left alone)."""
        at_nt = (at_nt & ~self.layout.is_pad_nt(at_nt.device)) | self.is_hidden_nt
        return replace(self, value_nt=self.value_nt.masked_fill(at_nt, 0.0), is_hidden_nt=at_nt)

    def to(self, device: torch.device | str) -> TokenBatch:
        """Return a copy on ``device``."""
        moved = {
            name: value.to(device, non_blocking=True)
            for name in (*_TOKEN_FIELDS, "tech_batch_n", "cell_nd", "depth_n2")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, **moved)

    def _relaid(self, layout: Layout, move) -> TokenBatch:
        moved = {name: move(v) for name in _TOKEN_FIELDS if (v := getattr(self, name)) is not None}
        return replace(self, layout=layout, **moved)

    def packed(self) -> TokenBatch:
        """Return the packed form."""
        return self._relaid(self.layout.packed(), self.layout.pack)

    def padded(self, pad_gene: int) -> TokenBatch:
        """Return the padded form; pads carry the id ``pad_gene`` and the value 0."""
        out = self._relaid(self.layout.padded(self.layout.width), self.layout.pad)
        return replace(out, gene_nt=out.gene_nt.masked_fill(out.layout.is_pad_nt(out.gene_nt.device), pad_gene))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Targets:
    """What must be answered. Objectives see it, models cannot. Laid out like the tokens beside it."""

    value_nt: Tensor | None = None
    """float32 value to predict at every token."""
    is_scored_nt: Tensor | None = None
    """bool: the token enters the loss."""
    label_n: Tensor | None = None
    """int64 class of each cell."""
    domain_n: Tensor | None = None
    """int64 domain (sequencing batch) of each cell."""
    entity_nt: Tensor | None = None
    """int64 entity of each word of a sentence: what is asked at a token are the entities of all words behind it."""
    level_nt: Tensor | None = None
    """float32 level of each word of a sentence."""
    is_asked_nt: Tensor | None = None
    """bool: at this token of a sentence it is asked what follows."""
    end_n: Tensor | None = None
    """int64 entity that follows the last word of each cell's sentence."""

    def to(self, device: torch.device | str) -> Targets:
        """Return a copy on ``device``."""
        names = [item.name for item in fields(self)]
        return replace(
            self, **{n: v.to(device, non_blocking=True) for n in names if (v := getattr(self, n)) is not None}
        )


@dataclass(frozen=True, slots=True, eq=False)
class WordScores:
    """One number for every token and every vocabulary entry, ``hidden . weight``, formed only where it is asked for.

    The whole table of a minibatch, ``[n, t, v]``, is too large to be made in training (a quarter of a gigabyte for 16
    cells of 2,000 tokens and 2,000 entries).
    """

    hidden_ntd: Tensor
    """Hidden states, laid out like the tokens."""
    weight_vd: Tensor
    """One row a vocabulary entry."""

    def dense(self) -> Tensor:
        """Return the whole table ``[n, t, v]``."""
        return torch.nn.functional.linear(self.hidden_ntd, self.weight_vd)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelOutput:
    """What a model answers; a family lists in ``produces`` which optional fields it can fill."""

    hidden_ntd: Tensor
    """float ``[n, t, d]`` last layer; rows at pads mean nothing."""
    cell_nd: Tensor
    """float ``[n, d]`` cell embedding, not normalised."""
    layout: Layout
    """Of the answers: that of the input, or of the tokens that were asked for (`CellEnd`)."""
    value_nt: Tensor | None = None
    """Predicted value of each token (scGPT GEP)."""
    expressed_nt: Tensor | None = None
    """Probability that the token's value is not zero (scGPT calls it zero_probs)."""
    cell_value_nt: Tensor | None = None
    """Value predicted from the cell embedding and the gene alone (scGPT GEPC / MVC)."""
    cell_expressed_nt: Tensor | None = None
    """Probability of being expressed, from the cell embedding and the gene alone."""
    entity: WordScores | None = None
    """Logit of every vocabulary entry being among the words that follow each token of a sentence."""
    level: WordScores | None = None
    """Level that every vocabulary entry would have if it followed."""
    context_ntd: Tensor | None = None
    """Decoder's state of each token: the gene in the context of its cell (scFoundation's gene embeddings)."""
    prompted: ModelOutput | None = None
    """A second pass in which the cell embedding of this one was given as the cell prompt."""
    again: ModelOutput | None = None
    """A second pass over the same tokens: what differs is which hidden units dropout left out."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LossReport:
    """One step's loss: the scalar to minimise and its named, unweighted parts."""

    loss: Tensor
    parts: Mapping[str, Tensor]
