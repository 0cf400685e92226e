"""ScMulan: a causal transformer over sentences of genes and metadata words, assembled from parts.

Source: Bian et al., RECOMB 2024 (LNCS 978-1-0716-3989-4_57); published code SuperBianC/scMulan ``model/model.py`` and
``model_kvcache.py``. A GPT-2 decoder without positions: order enters through the causal mask alone. No loss is
computed here and nothing is generated: see `cellwright.objectives.entity` and `cellwright.tasks.decode`.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn

from cellwright.models.scmulan.config import ScMulanConfig
from cellwright.nn.blocks import BlockShape, Stack
from cellwright.nn.cache import Cache
from cellwright.nn.heads import WordHead, pool
from cellwright.types import CellEnd, ModelOutput, TokenBatch
from cellwright.vocab import GeneVocab


class ScMulan(nn.Module):
    """The network. Tokens in, `ModelOutput` out; see the module's text."""

    produces = frozenset({"entity", "level"})
    needs_padding = False

    def __init__(self, config: ScMulanConfig, num_entries: int):
        super().__init__()
        self.config = config
        self.width = config.width
        self.num_levels = config.num_levels
        self.pooled_from = CellEnd("last") if config.pooling == "last" else None
        shape = BlockShape(
            width=config.width,
            num_heads=config.num_heads,
            feed_forward=4 * config.width,
            dropout=config.dropout,
            inner_dropout=0.0,
            attention_dropout=config.dropout,
            activation="gelu_tanh",
            norm="pre",
            has_bias=config.has_bias,
        )
        self.gene_encoder = nn.Embedding(num_entries, config.width)
        self.level_encoder = nn.Embedding(config.num_levels + 1, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = Stack(shape, config.num_layers)
        self.norm = nn.LayerNorm(config.width, bias=config.has_bias)
        self.entity_head = WordHead(num_entries, config.width)
        self.level_head = WordHead(num_entries, config.width)

    def forward(
        self,
        tokens: TokenBatch,
        outputs: Collection[str] | None = None,
        *,
        cache: Cache | None = None,
        only: CellEnd | None = None,
    ) -> ModelOutput:
        """Predict; ``outputs`` names the optional fields wanted (``None`` = all the network can).

        With ``cache`` the tokens are the next words of the cells that it holds; with ``only`` all answers are of these
        words, packed. Either way the cell embedding is pooled over the words answered for alone. A hidden level is
        read as 0.
        """
        return self.forward_embedded(self.gene_encoder(tokens.gene_nt), tokens, outputs, cache=cache, only=only)

    def forward_embedded(
        self,
        entity_ntd: Tensor,
        tokens: TokenBatch,
        outputs: Collection[str] | None = None,
        *,
        cache: Cache | None = None,
        only: CellEnd | None = None,
    ) -> ModelOutput:
        """Predict from entity vectors in the place of the table's (for saliency); levels come from ``tokens``."""
        wanted = self.produces if outputs is None else self.produces & set(outputs)
        x_ntd = self.dropout(entity_ntd + self.level_encoder(tokens.value_nt.long()))
        hidden_ntd = self.norm(self.blocks(x_ntd, tokens.layout, is_causal=True, cache=cache, only=only))
        layout = tokens.layout if only is None else tokens.layout.end(only)[0]
        return ModelOutput(
            hidden_ntd=hidden_ntd,
            cell_nd=pool(hidden_ntd, tokens.value_nt, layout, self.config.pooling),
            layout=layout,
            entity=self.entity_head(hidden_ntd) if "entity" in wanted else None,
            level=self.level_head(hidden_ntd) if "level" in wanted else None,
        )

    def new_cache(self, capacity: int) -> Cache:
        """Return an empty memory for cells of up to ``capacity`` words."""
        return Cache(self.config.num_layers, capacity)


def build(config: ScMulanConfig, vocab: GeneVocab) -> ScMulan:
    """Assemble the network that ``config`` describes for this vocabulary, freshly initialised.

    Published start: weights normal with standard deviation 0.02, those that close a residual branch divided by the
    square root of the number of branches; biases 0.
    """
    network = ScMulan(config, len(vocab))
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear):
            is_closing = name.endswith(("attention.out", "linear2"))
            nn.init.normal_(module.weight, std=0.02 / (2 * config.num_layers) ** 0.5 if is_closing else 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
    return network
