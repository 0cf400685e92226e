"""ScFoundation: an encoder over what a cell expresses and how deeply it was read, a decoder over all genes.

Source: Hao et al., Nature Methods 21:1481 (2024), Methods "Model architecture"; published code
biomap-research/scFoundation ``model/pretrainmodels/mae_autobin.py``. The architecture is xTrimoGene's. A cell is its
genes and two tokens of depth: the depth asked for, T, and its own, S. The encoder reads the genes that are expressed
and not hidden, and both depths; the decoder reads every token of the minibatch, silent and hidden genes included. No
loss is computed here. Axis ``s`` is a token that the encoder sees, of any cell.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
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

GROUP = 2**15
"""Most tokens that the decoder reads at once outside training: what it needs beside its answers is some 100 kB each."""


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
        hidden_sd, hidden_ntd = self._encode(tokens, seen)
        return ModelOutput(
            hidden_ntd=hidden_ntd,
            cell_nd=pool_cells(hidden_sd, seen, self.config.pooling),
            layout=tokens.layout,
            **(self._decode(tokens, seen, hidden_ntd, wanted) if wanted else {}),
        )

    @property
    def attention_layers(self) -> int:
        """Layers whose queries and keys can be asked for: the decoder's, which reads every token."""
        return len(self.decoder)

    def queries_keys(self, tokens: TokenBatch, layer: int) -> tuple[Tensor, Tensor]:
        """Return queries and keys of a decoder layer; see `cellwright.protocols.AttentiveModel`.

        Raises
        ------
        ValueError
            Where the decoder's attention is linear (``decoder_attention``, published), which compares no two tokens.
        """
        seen = self._seen(tokens)
        _, hidden_ntd = self._encode(tokens, seen)
        is_unseen_nt = _is_unseen(tokens, seen)
        x_ntd = self._for_decoder(tokens.gene_nt, tokens.value_nt, tokens.is_hidden_nt, hidden_ntd, is_unseen_nt)
        return self.decoder.queries_keys(x_ntd, tokens.layout, layer)

    def _encode(self, tokens: TokenBatch, seen: _Seen) -> tuple[Tensor, Tensor]:
        """Return the encoder's states of the tokens it sees, and the same at their places among all tokens."""
        gene_s, value_s, is_hidden_s = (
            x.flatten()[seen.at_s] for x in (tokens.gene_nt, tokens.value_nt, tokens.is_hidden_nt)
        )
        x_sd = self.value_encoder(value_s, is_hidden_s) + self.gene_encoder(gene_s)
        hidden_sd = self.encoder_norm(self.blocks(x_sd[None], seen.layout))[0]
        hidden_ntd = hidden_sd.new_zeros(tokens.gene_nt.numel(), hidden_sd.shape[-1])
        return hidden_sd, hidden_ntd.index_copy(0, seen.at_s, hidden_sd).view(*tokens.layout.shape, -1)

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

    def _decode(
        self, tokens: TokenBatch, seen: _Seen, hidden_ntd: Tensor, wanted: Collection[str]
    ) -> dict[str, Tensor]:
        """Return the answers of the decoder, which reads every token; a few cells at a time where nothing forbids."""
        parts = (tokens.gene_nt, tokens.value_nt, tokens.is_hidden_nt, hidden_ntd, _is_unseen(tokens, seen))
        is_whole = torch.is_grad_enabled() or self.config.key_maximum == "batch"
        answers: dict[str, list[Tensor]] = {name: [] for name in wanted}
        for rows, columns, layout in _groups(tokens.layout, None if is_whole else GROUP):
            x_ntd = self._for_decoder(*(part[rows, columns] for part in parts))
            context_ntd = self.norm(self.decoder_norm(self.decoder(x_ntd, layout)))
            if "value_nt" in wanted:
                answers["value_nt"].append(self.value_head(context_ntd)[..., 0])
            if "context_ntd" in wanted:
                answers["context_ntd"].append(context_ntd)
        axis = 1 if tokens.layout.is_packed else 0
        return {name: torch.cat(found, axis) for name, found in answers.items()}

    def _for_decoder(
        self, gene_nt: Tensor, value_nt: Tensor, is_hidden_nt: Tensor, hidden_ntd: Tensor, is_unseen_nt: Tensor
    ) -> Tensor:
        """Return what the decoder reads: the encoder's states, values where it saw none, and the genes once more."""
        at_u = is_unseen_nt.flatten().nonzero()[:, 0]
        value_ud = self.value_encoder(value_nt.flatten()[at_u], is_hidden_nt.flatten()[at_u])
        x_ntd = hidden_ntd.flatten(0, 1).index_copy(0, at_u, value_ud.to(hidden_ntd.dtype)).view_as(hidden_ntd)
        return self.decoder_input(x_ntd + self.gene_encoder(gene_nt))


def _is_unseen(tokens: TokenBatch, seen: _Seen) -> Tensor:
    """Return bool, laid out like the tokens: the encoder does not see it."""
    is_unseen_nt = torch.ones(tokens.gene_nt.numel(), dtype=torch.bool, device=seen.at_s.device)
    return is_unseen_nt.index_fill(0, seen.at_s, False).view(tokens.layout.shape)


def _groups(layout: Layout, most: int | None) -> Iterator[tuple[slice, slice, Layout]]:
    """Cut the cells into groups of at most ``most`` tokens, a longer cell by itself; ``None`` = all together.

    Yields rows and columns of a group in tensors laid out as ``layout`` says, and the group's own layout.
    """
    offsets, start, everything = layout.offsets(), 0, slice(None)
    while start < layout.num_cells:
        stop = layout.num_cells if most is None else start + 1
        while stop < layout.num_cells and offsets[stop + 1] - offsets[start] <= most:
            stop += 1
        group = Layout(layout.lengths[start:stop], layout.width)
        if layout.is_packed:
            yield everything, slice(offsets[start], offsets[stop]), group
        else:
            yield slice(start, stop), everything, group
        start = stop


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
