"""ScGPT: a transformer over a cell's genes, assembled from parts.

Source: Cui et al., Nature Methods 21:1470 (2024); published code bowang-lab/scGPT ``model/model.py``,
``multiomic_model.py``, ``generation_model.py`` and, for generative attention, its pre-training branch. One class
holds them all: what the published classes switch by flags is here which parts are present. No loss is computed
here, and nothing is sampled: what the published code draws from ``zero_probs`` in evaluation is left to tasks.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cellwright.models.scgpt.config import ScGPTConfig
from cellwright.nn.blocks import BlockShape, Stack
from cellwright.nn.embed import (
    BatchNormTokens,
    CategoryValue,
    ContinuousValue,
    DomainBatchNorm,
    NormedEmbedding,
    mark_values,
)
from cellwright.nn.heads import AffineHead, CellValueHead, ExpressionHead, pool
from cellwright.types import CellEnd, ModelOutput, TokenBatch
from cellwright.vocab import GeneVocab


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The optional parts of a network; ``None`` = absent."""

    value_encoder: nn.Module | None
    input_norm: nn.Module | None
    unknown_flag: nn.Embedding | None
    condition: nn.Embedding | None
    more_conditions: nn.ModuleList | None
    tech_batch: NormedEmbedding | None
    modality: NormedEmbedding | None
    value_head: nn.Module | None
    cell_value_head: CellValueHead | None


class ScGPT(nn.Module):
    """The network. Tokens in, `ModelOutput` out; see the module's text."""

    def __init__(self, config: ScGPTConfig, gene_encoder: NormedEmbedding, blocks: Stack, parts: Parts):
        super().__init__()
        self.config = config
        self.width = config.width
        self.gene_encoder = gene_encoder
        self.value_encoder = parts.value_encoder
        self.unknown_flag = parts.unknown_flag
        self.condition = parts.condition
        self.more_conditions = parts.more_conditions
        self.tech_batch = parts.tech_batch
        self.modality = parts.modality
        self.input_norm = parts.input_norm
        self.blocks = blocks
        self.value_head = parts.value_head
        self.cell_value_head = parts.cell_value_head
        fields = {"value_nt": parts.value_head is not None, "cell_value_nt": parts.cell_value_head is not None}
        gated = {"expressed_nt": "value_nt", "cell_expressed_nt": "cell_value_nt"}
        fields |= {name: fields[of] and config.has_zero_gate for name, of in gated.items()}
        self.produces = frozenset(name for name, is_there in fields.items() if is_there)
        self.needs_padding = config.input_norm != "none" or config.pooling in ("avg-pool", "w-pool")
        self.pooled_from = CellEnd("first") if config.pooling == "cls" else None

    def forward(
        self, tokens: TokenBatch, outputs: Collection[str] | None = None, *, only: CellEnd | None = None
    ) -> ModelOutput:
        """Predict; ``outputs`` names the optional fields wanted (``None`` = all the network can).

        With ``only``, hidden states and the cell embedding are of these tokens alone; no optional field can be wanted.
        """
        wanted = self.produces if outputs is None else self.produces & set(outputs)
        if only is not None and wanted:
            raise ValueError(f"{', '.join(sorted(wanted))}: these are of all tokens; give outputs=() beside only")
        marked_nt = mark_values(tokens, hidden=self.config.mask_value, pad=self.config.pad_value)
        gene_ntd = self.gene_encoder(tokens.gene_nt)
        hidden_ntd = self.blocks(self._embed(tokens, gene_ntd, marked_nt), tokens.layout, only=only)
        layout = tokens.layout if only is None else tokens.layout.end(only)[0]
        cell_nd = pool(hidden_ntd, marked_nt, layout, self.config.pooling)
        answers: dict[str, Tensor | None] = {}
        context_ntd = self._context(tokens) if wanted else None
        if wanted & {"value_nt", "expressed_nt"}:
            joined_ntd = hidden_ntd if context_ntd is None else torch.cat([hidden_ntd, context_ntd], -1)
            answers["value_nt"], answers["expressed_nt"] = self.value_head(joined_ntd, marked_nt)
        if wanted & {"cell_value_nt", "cell_expressed_nt"}:
            joined_nd, gene_side_ntd = cell_nd, gene_ntd
            if context_ntd is not None:
                joined_nd = torch.cat([cell_nd, tokens.layout.first(context_ntd)], -1)
                if self.config.is_gene_conditioned:
                    gene_side_ntd = torch.cat([gene_ntd, context_ntd], -1)
            pair = self.cell_value_head(joined_nd, gene_side_ntd, tokens.layout)
            answers["cell_value_nt"], answers["cell_expressed_nt"] = pair
        return ModelOutput(hidden_ntd=hidden_ntd, cell_nd=cell_nd, layout=layout, **answers)

    @property
    def attention_layers(self) -> int:
        """Layers whose queries and keys can be asked for."""
        return len(self.blocks)

    def queries_keys(self, tokens: TokenBatch, layer: int) -> tuple[Tensor, Tensor]:
        """Return queries and keys of a layer, each ``[n, t, h, dh]``; see `cellwright.protocols.AttentiveModel`."""
        marked_nt = mark_values(tokens, hidden=self.config.mask_value, pad=self.config.pad_value)
        x_ntd = self._embed(tokens, self.gene_encoder(tokens.gene_nt), marked_nt)
        return self.blocks.queries_keys(x_ntd, tokens.layout, layer)

    def _embed(self, tokens: TokenBatch, gene_ntd: Tensor, marked_nt: Tensor) -> Tensor:
        layout = tokens.layout
        if self.value_encoder is None:
            x_ntd = gene_ntd * marked_nt[..., None]
        else:
            value_ntd = self.value_encoder(marked_nt)
            if layout.prompt_lengths is not None:
                value_ntd = self._flag_unknown(value_ntd, tokens)
            x_ntd = gene_ntd + value_ntd
        if self.condition is not None:
            x_ntd = x_ntd + self._conditions(tokens.flag_nt)
        if self.input_norm is not None:
            x_ntd = self.input_norm(x_ntd, layout, tokens.tech_batch_n)
        if tokens.cell_nd is not None:
            x_ntd = self._prompt(x_ntd, tokens)
        return x_ntd

    def _conditions(self, flag_nt: Tensor | None) -> Tensor:
        if flag_nt is None:
            raise ValueError("this model takes a condition flag a token (flag_nt), and the tokens carry none")
        kinds = [self.condition, *(self.more_conditions or ())]
        found = 1 if flag_nt.ndim == 2 else flag_nt.shape[-1]
        if found != len(kinds):
            raise ValueError(f"this model takes {len(kinds)} kinds of conditions a token, and flag_nt holds {found}")
        if flag_nt.ndim == 2:
            return self.condition(flag_nt)
        return sum(table(flag_nt[..., c]) for c, table in enumerate(kinds))

    def _flag_unknown(self, value_ntd: Tensor, tokens: TokenBatch) -> Tensor:
        if self.unknown_flag is None:
            raise ValueError("this network has no flag for unknown genes; build it with has_unknown_flag=true")
        is_prompt_nt1 = tokens.layout.is_prompt_nt(value_ntd.device)[..., None]
        return torch.where(is_prompt_nt1, value_ntd, self.unknown_flag.weight[1].to(value_ntd.dtype))

    @staticmethod
    def _prompt(x_ntd: Tensor, tokens: TokenBatch) -> Tensor:
        """Put the cell prompt in the place of each cell's first token."""
        x_ntd = x_ntd.clone()
        cell_nd = tokens.cell_nd.to(x_ntd.dtype)
        if tokens.layout.is_packed:
            x_ntd[0, torch.tensor(tokens.layout.offsets()[:-1], device=x_ntd.device)] = cell_nd
        else:
            x_ntd[:, 0] = cell_nd
        return x_ntd

    def _context(self, tokens: TokenBatch) -> Tensor | None:
        """Return what the heads are told beside the hidden state: sequencing batch and modality, summed."""
        context_ntd = None
        if self.tech_batch is not None:
            if tokens.tech_batch_n is None:
                raise ValueError("this model's heads need each cell's sequencing batch (tech_batch_n)")
            context_ntd = tokens.layout.spread(self.tech_batch(tokens.tech_batch_n))
        if self.modality is not None:
            if tokens.modality_nt is None:
                raise ValueError("this model's heads need each token's modality (modality_nt)")
            modality_ntd = self.modality(tokens.modality_nt)
            context_ntd = modality_ntd if context_ntd is None else context_ntd + modality_ntd
        return context_ntd


def build(config: ScGPTConfig, vocab: GeneVocab) -> ScGPT:
    """Assemble the network that ``config`` describes for this vocabulary, freshly initialised."""
    width = config.width
    attention_dropout = config.dropout if config.attention_dropout is None else config.attention_dropout
    shape = BlockShape(
        width=width,
        num_heads=config.num_heads,
        feed_forward=config.feed_forward,
        dropout=config.dropout,
        attention_dropout=attention_dropout,
        norm=config.norm,
        is_unknown_projected=False,
    )
    genes = NormedEmbedding(len(vocab), width, vocab.special_id("pad"))
    return ScGPT(config, genes, Stack(shape, config.num_layers), _parts(config))


def _parts(config: ScGPTConfig) -> Parts:
    width = config.width
    has_context = config.num_tech_batches > 0 or config.num_modalities > 0
    joined = 2 * width if has_context else width
    modality = NormedEmbedding(config.num_modalities, width, config.modality_pad) if config.num_modalities else None
    condition = nn.Embedding(config.num_conditions, width, config.condition_pad) if config.num_conditions else None
    more = [nn.Embedding(size, width, padding_idx=0) for size in config.more_conditions]
    norms = {"none": None, "batch": BatchNormTokens, "domain": lambda w: DomainBatchNorm(w, config.num_domains)}
    norm = norms[config.input_norm]
    return Parts(
        value_encoder=_value_encoder(config),
        input_norm=norm(width) if norm else None,
        unknown_flag=nn.Embedding(2, width) if config.has_unknown_flag else None,
        condition=condition,
        more_conditions=nn.ModuleList(more) if more else None,
        tech_batch=NormedEmbedding(config.num_tech_batches, width) if config.num_tech_batches else None,
        modality=modality,
        value_head=_value_head(config, joined),
        cell_value_head=None
        if config.cell_value_style == "none"
        else CellValueHead(
            joined if config.is_gene_conditioned else width,
            joined,
            config.cell_value_style,
            has_gate=config.has_zero_gate,
        ),
    )


def _value_encoder(config: ScGPTConfig) -> nn.Module | None:
    if config.value_input == "continuous":
        return ContinuousValue(config.width, config.dropout)
    if config.value_input == "scaling":
        return None
    num_entries = config.num_value_entries or config.num_bins + 2
    return CategoryValue(num_entries, config.width, int(config.pad_value))


def _value_head(config: ScGPTConfig, num_in: int) -> nn.Module | None:
    if config.value_head == "none":
        return None
    if config.value_head == "plain":
        return ExpressionHead(num_in, config.width, has_gate=config.has_zero_gate)
    return AffineHead(
        num_in,
        config.width,
        has_gate=config.has_zero_gate,
        activation=config.value_head_activation,
        is_adaptive=config.is_value_head_adaptive,
    )
