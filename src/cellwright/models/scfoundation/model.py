"""ScFoundation: an encoder over what a cell expresses and how deeply it was read, a decoder over all genes.

Source: Hao et al., Nature Methods 21:1481 (2024), Methods "Model architecture"; published code
biomap-research/scFoundation ``model/pretrainmodels/mae_autobin.py``. The architecture is xTrimoGene's. A cell is its
genes and two tokens of depth: the depth asked for, T, and its own, S. The encoder reads the genes that are expressed
and not hidden, and both depths; the decoder reads every token of the minibatch, silent and hidden genes included. No
loss is computed here. Axis ``s`` is a token that the encoder sees, of any cell.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from cellwright.models.scfoundation.config import ScFoundationConfig
from cellwright.nn.blocks import Attention, BlockShape, Stack
from cellwright.nn.embed import SoftBinValue
from cellwright.nn.performer import LinearAttention, orthogonal_projection
from cellwright.types import CellEnd, Layout, ModelOutput, TokenBatch
from cellwright.vocab import GeneVocab


class _Seen(NamedTuple):
    """The tokens that the encoder sees, packed."""

    at_s: Tensor
    """int64: place among all tokens, row by row."""
    layout: Layout
    target_n: Tensor
    """int64: place of each cell's target depth among the seen tokens."""
    source_n: Tensor
    """int64: place of each cell's source depth."""


class ScFoundation(nn.Module):
    """The network. Tokens in, `ModelOutput` out; see the module's text.

    Gene identity enters twice, as published: before the encoder, and before the decoder on top of what the encoder
    said. A depth token is seen whatever its value, a hidden one with the vector of hidden values; in the published code
    it is lost where its value is not positive, and a gene takes its place in the cell embedding.
    """

    produces = frozenset({"value_nt", "context_ntd"})
    needs_padding = False
    pooled_from = None

    def __init__(
        self,
        config: ScFoundationConfig,
        num_entries: int,
        depth_ids: tuple[int, int],
        decoder_attention: Callable[[BlockShape], nn.Module],
    ):
        super().__init__()
        self.config = config
        self.width = config.width
        self.target_id, self.source_id = depth_ids
        self.value_encoder = SoftBinValue(config.num_bins, config.encoder_width, config.bin_scale)
        self.gene_encoder = nn.Embedding(num_entries, config.encoder_width)
        self.blocks = Stack(_encoder_shape(config), config.encoder_layers)
        self.encoder_norm = nn.LayerNorm(config.encoder_width)
        self.decoder_input = nn.Linear(config.encoder_width, config.decoder_width)
        self.decoder = Stack(_decoder_shape(config), config.decoder_layers, decoder_attention)
        self.decoder_norm = nn.LayerNorm(config.decoder_width)
        self.norm = nn.LayerNorm(config.decoder_width)
        self.value_head = nn.Linear(config.decoder_width, 1)

    def forward(
        self, tokens: TokenBatch, outputs: Collection[str] | None = None, *, only: CellEnd | None = None
    ) -> ModelOutput:
        """Predict; ``outputs`` names the optional fields wanted (``None`` = all the network can).

        With ``outputs=()`` the decoder does not run. ``hidden_ntd`` is the encoder's; rows of tokens that it did not
        see are 0. A cell of which no gene is seen has maximum and mean 0.

        Raises
        ------
        ValueError
            When a cell has not just one target and one source depth, or what is asked for scFoundation has not
            (prompts, a cell prompt, answers for some tokens ``only``).
        """
        if only is not None:
            raise ValueError("scFoundation's cell embedding is made from all tokens; leave out 'only'")
        if tokens.layout.prompt_lengths is not None or tokens.cell_nd is not None:
            raise ValueError("scFoundation reads no prompts; hide values instead (views random_mask, read_depth)")
        wanted = self.produces if outputs is None else self.produces & set(outputs)
        seen = self._seen(tokens)
        gene_s, value_s, is_hidden_s = (
            x.flatten()[seen.at_s] for x in (tokens.gene_nt, tokens.value_nt, tokens.is_hidden_nt)
        )
        x_sd = self.value_encoder(value_s, is_hidden_s) + self.gene_encoder(gene_s)
        hidden_sd = self.encoder_norm(self.blocks(x_sd[None], seen.layout))[0]
        hidden_ntd = hidden_sd.new_zeros(tokens.gene_nt.numel(), hidden_sd.shape[-1])
        hidden_ntd = hidden_ntd.index_copy(0, seen.at_s, hidden_sd).view(*tokens.layout.shape, -1)
        context_ntd = self._decode(tokens, seen, hidden_ntd) if wanted else None
        return ModelOutput(
            hidden_ntd=hidden_ntd,
            cell_nd=pool_cells(hidden_sd, seen, self.config.pooling),
            layout=tokens.layout,
            value_nt=self.value_head(context_ntd)[..., 0] if "value_nt" in wanted else None,
            context_ntd=context_ntd if "context_ntd" in wanted else None,
        )

    def _seen(self, tokens: TokenBatch) -> _Seen:
        """Find what the encoder sees: expressed genes that are not hidden, and the depths."""
        layout, device = tokens.layout, tokens.gene_nt.device
        is_target_nt, is_source_nt = tokens.gene_nt == self.target_id, tokens.gene_nt == self.source_id
        is_seen_nt = (tokens.value_nt > 0) & ~tokens.is_hidden_nt | is_target_nt | is_source_nt
        is_seen_nt = is_seen_nt & ~layout.is_pad_nt(device)
        at_s = is_seen_nt.flatten().nonzero()[:, 0]
        cell_s = layout.cell_of_token(device)[at_s] if layout.is_packed else at_s // layout.width
        every_n = torch.arange(layout.num_cells, device=device)
        places = []
        for role, is_it_nt in (("target", is_target_nt), ("source", is_source_nt)):
            at_n = is_it_nt.flatten()[at_s].nonzero()[:, 0]
            if len(at_n) != len(every_n) or not torch.equal(cell_s[at_n], every_n):
                raise ValueError(f"every cell needs one token of its {role} depth; use the family's tokeniser")
            places.append(at_n)
        lengths = torch.bincount(cell_s, minlength=layout.num_cells).tolist()
        return _Seen(at_s, Layout(tuple(lengths)), *places)

    def _decode(self, tokens: TokenBatch, seen: _Seen, hidden_ntd: Tensor) -> Tensor:
        """Return the decoder's state of every token."""
        is_unseen_t = torch.ones(tokens.gene_nt.numel(), dtype=torch.bool, device=hidden_ntd.device)
        is_unseen_t[seen.at_s] = False
        unseen_u = is_unseen_t.nonzero()[:, 0]
        value_u, is_hidden_u = tokens.value_nt.flatten()[unseen_u], tokens.is_hidden_nt.flatten()[unseen_u]
        value_ud = self.value_encoder(value_u, is_hidden_u).to(hidden_ntd.dtype)
        x_td = hidden_ntd.flatten(0, 1).index_copy(0, unseen_u, value_ud)
        x_ntd = x_td.view_as(hidden_ntd) + self.gene_encoder(tokens.gene_nt)
        return self.norm(self.decoder_norm(self.decoder(self.decoder_input(x_ntd), tokens.layout)))


def pool_cells(hidden_sd: Tensor, seen: _Seen, how: str) -> Tensor:
    """Reduce the encoder's states of each cell to one vector, as `ScFoundationConfig.pooling` says."""
    if how == "max":
        return torch.stack([cell_sd.amax(0) for cell_sd in hidden_sd.split(seen.layout.lengths)])
    is_gene_s = torch.ones(len(hidden_sd), dtype=torch.bool, device=hidden_sd.device)
    is_gene_s[seen.target_n] = False
    is_gene_s[seen.source_n] = False
    cells = hidden_sd[is_gene_s].split([length - 2 for length in seen.layout.lengths])
    nothing_d = hidden_sd.new_zeros(hidden_sd.shape[1])
    max_nd = torch.stack([cell_sd.amax(0) if len(cell_sd) else nothing_d for cell_sd in cells])
    mean_nd = torch.stack([cell_sd.mean(0) if len(cell_sd) else nothing_d for cell_sd in cells])
    return torch.cat([hidden_sd[seen.source_n], hidden_sd[seen.target_n], max_nd, mean_nd], 1)


def _encoder_shape(config: ScFoundationConfig) -> BlockShape:
    return BlockShape(
        width=config.encoder_width,
        num_heads=config.encoder_heads,
        feed_forward=config.feed_forward_scale * config.encoder_width,
        dropout=config.encoder_dropout,
        attention_dropout=config.encoder_dropout,
    )


def _decoder_shape(config: ScFoundationConfig) -> BlockShape:
    return BlockShape(
        width=config.decoder_width,
        num_heads=config.decoder_heads,
        feed_forward=config.feed_forward_scale * config.decoder_width,
        dropout=config.decoder_dropout,
        activation="gelu",
        norm="pre",
    )


def build(config: ScFoundationConfig, vocab: GeneVocab) -> ScFoundation:
    """Assemble the network that ``config`` describes for this vocabulary, freshly initialised.

    Weights start as PyTorch's layers do, as published. The projections of linear attention come from a generator of
    their own, whose seed is drawn from the stream that the weights come from.
    """
    attention: Callable[[BlockShape], nn.Module] = Attention
    if config.decoder_attention == "linear":
        seed = int(torch.randint(2**62, (), device="cpu"))
        attention = partial(_linear_attention, config=config, generator=Generator("cpu").manual_seed(seed))
    depth_ids = vocab.special_id("target_depth"), vocab.special_id("source_depth")
    return ScFoundation(config, len(vocab), depth_ids, attention)


def _linear_attention(shape: BlockShape, *, config: ScFoundationConfig, generator: Generator) -> LinearAttention:
    projection_md = orthogonal_projection(config.num_features, shape.width // shape.num_heads, generator)
    return LinearAttention(shape, projection_md, key_maximum=config.key_maximum)
