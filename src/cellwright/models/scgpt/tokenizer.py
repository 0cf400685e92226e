"""Cells as scGPT sees them: ``<cls>``, then expressed genes with the quantile bin of their value.

Source: scGPT Methods "Input embeddings"; published ``tokenizer/gene_tokenizer.py`` and ``data_collator.py``. Which
value ``<cls>`` carries differs between published uses: the pad value (-2) in pre-training and zero-shot embedding, 0
in every fine-tuning recipe; `InputConfig.cls_value` decides.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from cellwright.models.inputs import InputConfig
from cellwright.models.scgpt.config import ScGPTConfig
from cellwright.tokens.flags import FlagTable
from cellwright.tokens.modalities import ModalitySpec, code_by_modality
from cellwright.tokens.sequence import FromSpec, SequenceSpec, encode_cells
from cellwright.types import CellBatch, Draw, TokenBatch
from cellwright.vocab import GeneVocab


class ScGPTTokenizer(FromSpec):
    """Turn cells into tokens; deterministic for a given draw, independent of the minibatch."""

    def __init__(
        self, config: ScGPTConfig, vocab: GeneVocab, inputs: InputConfig | None = None, *, is_packed: bool = True
    ):
        inputs = inputs or InputConfig()
        cls_value = config.pad_value if inputs.cls_value is None else inputs.cls_value
        self.config = config
        self.flags = FlagTable(vocab, inputs.conditions, config.condition_sizes)
        self.modalities = _modalities(config, vocab, inputs)
        self.spec = SequenceSpec(
            prefix=((vocab.special_id("cls"), float(cls_value)),),
            max_length=inputs.max_length or config.max_length,
            num_bins=None if self.modalities else config.num_bins,
            ties=inputs.ties,
            panel=_panel_ids(vocab, inputs),
            keep_zero=inputs.genes == "panel",
            pad_gene=vocab.special_id("pad"),
            is_packed=is_packed,
        )

    def num_tokens_n(self, cells: CellBatch) -> np.ndarray:
        """Return about how many tokens each cell will have, int64 ``[n]``."""
        num_n = np.full(len(cells), len(self.spec.panel)) if self.spec.keep_zero else cells.num_genes_n
        return np.minimum(num_n, self.spec.room) + len(self.spec.prefix)

    def __call__(self, cells: CellBatch, draw: Draw) -> TokenBatch:
        """Encode cells; sequencing batches come from ``cells.obs["tech_batch"]`` where the network asks for them.

        Conditions are those of the genes (``InputConfig.conditions``) and of the cells (``cells.flags``); flagged genes
        are always among the tokens.
        """
        self.flags.check(cells)
        if self.modalities is None:
            tokens = encode_cells(cells, self.spec, draw)
        else:
            tokens = encode_cells(code_by_modality(cells, self.modalities, draw, self.spec.panel), self.spec, draw)
            if self.config.num_modalities:
                tokens = replace(tokens, modality_nt=self.modalities.of(tokens.gene_nt))
        if self.config.uses_tech_batch:
            if "tech_batch" not in cells.obs:
                raise ValueError("this model needs each cell's sequencing batch; name the obs column that holds it")
            tokens = replace(tokens, tech_batch_n=torch.from_numpy(cells.obs["tech_batch"].astype(np.int64)))
        return replace(tokens, flag_nt=self.flags(cells, tokens))


def _modalities(config: ScGPTConfig, vocab: GeneVocab, inputs: InputConfig) -> ModalitySpec | None:
    """Return how modalities are told apart; ``None`` where none are named: all tokens are of one then."""
    if not inputs.modalities:
        return None
    if config.num_modalities and len(inputs.modalities) + 2 > config.num_modalities:
        raise ValueError(
            f"{len(inputs.modalities)} modalities, <pad> and <cls> need more than the {config.num_modalities} ids that "
            "this network has (num_modalities)"
        )
    pad = len(inputs.modalities) if config.modality_pad is None else config.modality_pad
    return ModalitySpec.of_vocab(
        vocab,
        inputs.modalities,
        special_ids={vocab.special_id("pad"): pad, vocab.special_id("cls"): pad + 1},
        unbinned=inputs.unbinned,
        num_bins=config.num_bins,
        ties=inputs.ties,
    )


def _panel_ids(vocab: GeneVocab, inputs: InputConfig) -> np.ndarray | None:
    """Return the ids of the genes that are fed; ``None`` = all that a cell expresses."""
    if inputs.panel is None:
        return np.sort(vocab.ids(vocab.genes)) if inputs.genes == "panel" else None
    id_g = vocab.ids(inputs.panel)
    if (id_g < 0).any():
        absent = [gene for gene, i in zip(inputs.panel, id_g, strict=True) if i < 0]
        raise ValueError(f"{len(absent)} genes of the panel are not in the vocabulary: {', '.join(absent[:3])}")
    return np.sort(id_g)
