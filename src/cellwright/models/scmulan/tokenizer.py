"""Cells as scMulan reads them: expressed genes with levels, then the word of the task.

Source: published ``hf_tokenizer`` and ``scMulan.py`` (``get_c_sentence``-like loops). There is no first token, no pad
and no unexpressed gene; nothing is random unless genes are shuffled or a cell is too long.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cellwright.models.inputs import InputConfig
from cellwright.models.scmulan.config import ScMulanConfig
from cellwright.tokens.sentence import Order, SentenceSpec, encode_sentences
from cellwright.tokens.sequence import read_rows
from cellwright.types import CellBatch, Draw, TokenBatch
from cellwright.vocab import GeneVocab


class ScMulanTokenizer:
    """Turn cells into sentences; deterministic for a given draw, independent of the minibatch.

    Of `InputConfig`, ``ties`` and ``cls_value`` say nothing here: levels know no ties, and no word comes first.
    """

    def __init__(
        self, config: ScMulanConfig, vocab: GeneVocab, inputs: InputConfig | None = None, *, is_packed: bool = True
    ):
        inputs = inputs or InputConfig()
        if inputs.genes == "panel":
            raise ValueError("scMulan reads expressed genes only; leave genes at 'expressed'")
        self.vocab = vocab
        self.task = vocab.special_id(inputs.task_word)
        self.spec = SentenceSpec(
            max_length=inputs.max_length or config.max_length,
            num_levels=config.num_levels,
            order=inputs.gene_order,
            panel=None if inputs.panel is None else _panel_ids(vocab, inputs.panel),
            pad_entity=vocab.special_id("pad"),
            is_packed=is_packed,
        )

    @property
    def room(self) -> int:
        """Most genes a cell may have beside the task word; further words take places from them."""
        return self.spec.max_length - 1

    @property
    def feeds_silent(self) -> bool:
        """Whether genes that a cell does not express are among its tokens."""
        return False

    def num_candidates_n(self, cells: CellBatch) -> np.ndarray:
        """Return how many genes of each cell ask for that room, int64 ``[n]``."""
        panel = self.spec.panel
        return np.diff(read_rows(cells, None if panel is None else np.asarray(panel))[0])

    def num_tokens_n(self, cells: CellBatch) -> np.ndarray:
        """Return about how many words each cell will have, int64 ``[n]``."""
        return np.minimum(cells.num_genes_n + 1, self.spec.max_length)

    def __call__(self, cells: CellBatch, draw: Draw) -> TokenBatch:
        """Encode cells as prompts: genes, then the task word. A cell without genes is the task word alone."""
        return self.sentences(cells, draw, after_nw=np.full((len(cells), 1), self.task))

    def sentences(
        self,
        cells: CellBatch,
        draw: Draw,
        *,
        before_nw: np.ndarray | None = None,
        after_nw: np.ndarray | None = None,
        order: Order | None = None,
    ) -> TokenBatch:
        """Encode cells with words of one's own around their genes; see `cellwright.tokens.encode_sentences`."""
        spec = self.spec if order is None else replace(self.spec, order=order)
        return encode_sentences(cells, spec, draw, before_nw=before_nw, after_nw=after_nw)


def _panel_ids(vocab: GeneVocab, panel: tuple[str, ...]) -> tuple[int, ...]:
    genes = set(vocab.genes)
    if absent := [gene for gene in panel if gene not in genes]:
        raise ValueError(f"{len(absent)} genes of the panel are not in the vocabulary: {', '.join(absent[:3])}")
    return tuple(sorted(vocab.ids(panel).tolist()))
