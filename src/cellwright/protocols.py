"""The contracts between rooms, on one page.

A family is data (`Family`); everything else is a shape that a class may have without inheriting it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from cellwright.types import CellBatch, CellEnd, Draw, ModelOutput, Targets, TokenBatch
from cellwright.vocab import GeneVocab


@runtime_checkable
class CellModel(Protocol):
    """A network: tokens in, predictions out. It holds architecture only - no loss, no data, no optimiser."""

    produces: frozenset[str]
    """Optional `ModelOutput` fields it can fill."""
    width: int
    """Size d of cell embeddings; hidden states may be narrower."""
    needs_padding: bool
    """True when its numbers depend on pads (some published poolings and batch norms do)."""
    pooled_from: CellEnd | None
    """The tokens that the cell embedding is made from; ``None`` = all."""

    def __call__(
        self, tokens: TokenBatch, outputs: Collection[str] | None = None, *, only: CellEnd | None = None
    ) -> ModelOutput:
        """Run forward; ``outputs`` names the optional fields wanted (``None`` = all of ``produces``).

        With ``only`` the last layer is computed for these tokens alone, which is quicker; all answers are then of
        them, and the cell embedding is pooled over them.
        """
        ...


@runtime_checkable
class AttentiveModel(Protocol):
    """A network that can say what its tokens compare when they attend to each other."""

    attention_layers: int
    """Layers that can be asked for."""

    def queries_keys(self, tokens: TokenBatch, layer: int) -> tuple[Tensor, Tensor]:
        """Return queries and keys of a layer (-1 = the last), each ``[n, t, h, dh]`` and not scaled.

        A ``ValueError`` where that layer compares no tokens.
        """
        ...


class Tokenizer(Protocol):
    """Turns cells into tokens, deterministically for a given draw."""

    @property
    def room(self) -> int:
        """Most genes a cell may have as tokens; of more, a random part is left out."""
        ...

    @property
    def feeds_silent(self) -> bool:
        """Whether genes that a cell does not express are among its tokens."""
        ...

    def num_candidates_n(self, cells: CellBatch) -> np.ndarray:
        """Return how many genes of each cell ask for that room, int64 ``[n]``."""
        ...

    def __call__(self, cells: CellBatch, draw: Draw) -> TokenBatch:
        """Encode cells; the tokens of a cell depend on (seed, epoch, row), not on its minibatch."""
        ...

    def num_tokens_n(self, cells: CellBatch) -> np.ndarray:
        """Return about how many tokens each cell will have, int64 ``[n]``: to put cells of like length together."""
        ...


class SentenceTokenizer(Tokenizer, Protocol):
    """A tokeniser of a family that reads and writes sentences: genes and words of metadata, in an order that counts."""

    vocab: GeneVocab

    def sentences(
        self,
        cells: CellBatch,
        draw: Draw,
        *,
        before_nw: np.ndarray | None = None,
        after_nw: np.ndarray | None = None,
        order: str | None = None,
    ) -> TokenBatch:
        """Encode cells with words before and after their genes: vocabulary ids, -1 = no word."""
        ...


@runtime_checkable
class DepthTokenizer(Protocol):
    """A tokeniser of a family that knows the read depth it is fed, and is told the one to predict at.

    Made with ``genes="panel"`` (an option of `cellwright.models.InputConfig`) it gives every cell the same tokens: all
    genes of the vocabulary, silent ones with the value 0, and special tokens of depth.
    """

    vocab: GeneVocab

    def depth_of(self, cells: CellBatch) -> np.ndarray:
        """Return the molecules of each cell, float64 ``[n]``: what the source depth is, and values are parts of."""
        ...

    def __call__(self, cells: CellBatch, draw: Draw, target_total_n: np.ndarray | None = None) -> TokenBatch:
        """Encode raw counts; ``target_total_n`` = molecules to predict at (``None`` = as the model was made for)."""
        ...


class View(Protocol):
    """Decides what the model may see and what it must answer."""

    answers: frozenset[str]
    """`Targets` fields it can fill."""
    categories: frozenset[str]
    """Categories of words that cells must carry codes of (empty: it reads genes alone)."""

    def __call__(self, cells: CellBatch, tokenize: Tokenizer, draw: Draw) -> tuple[TokenBatch, Targets]:
        """Return tokens with values hidden, and the answers."""
        ...


class SentenceView(View, Protocol):
    """A view of sentences: it can do with fewer categories, and says what it then asks."""

    def narrowed(self, known: Collection[str]) -> SentenceView:
        """Return the view for cells that have words of these categories only."""
        ...

    def is_usable(self, codes: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return bool ``[n]``: the cell has all words of at least one sentence. Codes as cells carry them."""
        ...

    def lines(self) -> list[str]:
        """Return its sentences in words."""
        ...

    def questions(self) -> dict[str, list[str]]:
        """Return role of the asking word -> categories that it is answered with."""
        ...


class Term(Protocol):
    """One loss: a scalar from predictions and answers. A term with parameters owns its head (an ``nn.Module``)."""

    needs: frozenset[str]
    """Optional `ModelOutput` fields it reads."""
    reads: frozenset[str]
    """`Targets` fields it reads."""

    def __call__(self, out: ModelOutput, targets: Targets) -> Tensor:
        """Return the scalar loss; raise ``ValueError`` when nothing is scored."""
        ...


class CellSource(Protocol):
    """Cells that can be read by position, mapped onto one vocabulary. Never changes what it reads from."""

    vocab: GeneVocab
    state: str
    """What the values are once read: raw | normalised | log1p."""

    def __len__(self) -> int: ...

    def read(self, rows: np.ndarray) -> CellBatch:
        """Return the cells at these positions, in this order."""
        ...


class Loader(Protocol):
    """Seeded, resumable minibatches."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[CellBatch]: ...

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        ...

    def state_dict(self) -> dict[str, int]:
        """Return where the iteration stands."""
        ...

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue from there."""
        ...


class Task(Protocol):
    """A downstream task: run it, score it, and name the baselines that stand beside it."""

    name: str

    def run(self, model: Any, source: CellSource, **options: Any) -> Any:
        """Do the task and return its typed result."""
        ...

    def score(self, result: Any) -> list[dict[str, Any]]:
        """Return one row a metric."""
        ...

    def baselines(self) -> Mapping[str, Callable[..., Any]]:
        """Return name -> simple competitor; never empty."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """What a family's weights adapter found in a published checkpoint.

    ``network`` and ``heads`` hold our key names. ``loaded``, ``missing``, ``unexpected`` and ``mismatched`` speak of
    the published keys; ``missing`` lists what the architecture needs and the file lacks.
    """

    config: Any
    vocab: GeneVocab
    network: dict[str, Tensor]
    heads: dict[str, dict[str, Any]]
    """Head name -> ``{"options": ..., "state": {key: tensor}}``."""
    extras: dict[str, Tensor]
    """Tensors that no part of the architecture uses, kept so that writing back is exact."""
    layout: str
    """Name of the key layout found."""
    files: dict[str, Any]
    """Records to write back unchanged (for instance the published ``args.json``)."""
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What was found and left out, one sentence each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A model family as data: everything the rest of cellwright asks about it, in one table line."""

    name: str
    title: str
    """Published spelling, used in ``obsm["X_<title>"]``."""
    config: type
    """The `Config` class of its architecture and tokeniser."""
    sizes: Mapping[str, Any]
    """Size name (tiny, small, released) -> config."""
    build: Callable[[Any, GeneVocab], nn.Module]
    """(config, vocab) -> network."""
    tokenizer: Callable[..., Tokenizer]
    """(config, vocab, **options) -> tokenizer."""
    specials: Mapping[str, str]
    """Special tokens of a new vocabulary, role -> token."""
    accepts: tuple[str, ...]
    """Matrix states it can be fed, best first (raw, normalised, log1p)."""
    is_released: Callable[[Path], bool]
    """Whether a path looks like this family's published checkpoint."""
    from_released: Callable[..., Released]
    """(path, vocab_file=, key=) -> what is in it. Only a family with a ``vocab_file`` takes that file from elsewhere,
    only one with ``keys`` one of them."""
    to_released: Callable[[Any, Path], None]
    decoding: Literal["autoregressive", "unmask"] | None
    is_embedding_normalised: bool
    """Whether published zero-shot embeddings are scaled to length 1."""
    citation: str
    weights_terms: str
    """Licence of the published weights, in one sentence for the user."""
    heads: Sequence[str] = ()
    """Heads that its published checkpoints may carry."""
    keys: tuple[str, ...] = ()
    """Models that one published file of the family holds, the one that is opened by default first."""
    vocab_file: str | None = None
    """Name of the published vocabulary, when it is a file of its own that may lie apart from the weights."""
    categories: Mapping[str, str] = field(default_factory=dict)
    """Categories of words, ours -> published name, in the order in which they are said; empty: it reads genes alone."""
    tech_batch_parts: Callable[[int], Mapping[str, Any]] | None = None
    """Number of sequencing batches -> fields of the architecture record that let a network be told them, as published
    for integration; ``None`` = it cannot be told."""
    has_silent_genes: bool = True
    """Whether it can be fed the genes that a cell does not express (``InputConfig.genes = "panel"``)."""
    class_head: Mapping[str, Any] = field(default_factory=dict)
    """What its published class head has that `cellwright.nn.heads.ClassHead` has not by default."""
    questions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Role of the asking word -> categories that answer, in order; the first question is that of annotation."""

    def category(self, name: str) -> str:
        """Return our name of a category that may be given by its published one; other names are returned as given."""
        ours = {theirs: ours for ours, theirs in self.categories.items()}
        return name if name in self.categories else ours.get(name, name)
