"""Sizes and parts of a scFoundation network. Published names of fields stand in the docstrings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cellwright.config import Config
from cellwright.models.sizes import MOST_HEADS, MOST_LAYERS, MOST_WIDTH

SPECIALS = {"target_depth": "<T>", "source_depth": "<S>", "pad": "<pad>"}
"""They follow the genes, in this order, as the rows of the published position table do."""
KEYS = ("cell", "rde", "gene")
"""The three models of the published file, the one for cell embeddings (published alias ``ce``) first."""


class ScFoundationConfig(Config):
    """Architecture of one scFoundation network; the defaults are those of the released models."""

    encoder_width: int = Field(768, ge=1, le=MOST_WIDTH)
    """Size of the encoder's hidden states (encoder.hidden_dim)."""
    encoder_heads: int = Field(12, ge=1, le=MOST_HEADS)
    """Attention heads of the encoder (encoder.heads)."""
    encoder_layers: int = Field(12, ge=1, le=MOST_LAYERS)
    """Blocks of the encoder (encoder.depth): LayerNorm after each sum, ReLU."""
    encoder_dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout of the encoder's attention probabilities, residual branches and feed-forward. The published code names
    no value, so that its library's holds."""
    decoder_width: int = Field(512, ge=1, le=MOST_WIDTH)
    """Size of the decoder's hidden states, which are the gene context embeddings (decoder.hidden_dim)."""
    decoder_heads: int = Field(8, ge=1, le=MOST_HEADS)
    """Attention heads of the decoder (decoder.heads)."""
    decoder_layers: int = Field(6, ge=1, le=MOST_LAYERS)
    """Blocks of the decoder (decoder.depth): LayerNorm before each branch, GELU."""
    decoder_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout of the decoder's residual branches and feed-forward."""
    decoder_attention: Literal["linear", "exact"] = "linear"
    """Attention of the decoder: in linear time by random features (performer, published), or exact, for panels of a
    few thousand genes."""
    num_features: int = Field(266, ge=1)
    """Random features of linear attention; published: d ln d, rounded down, for heads of width d."""
    key_maximum: Literal["cell", "batch"] = "cell"
    """Where linear attention takes the maximum of its keys from. ``cell``: an answer does not depend on the minibatch
    (published ``gene``). ``batch``: it does (published ``gene_batch``)."""
    feed_forward_scale: int = Field(4, ge=1)
    """Width inside feed-forward parts, in widths of encoder or decoder."""
    num_bins: int = Field(100, ge=1)
    """Bins of the value embedding (bin_num)."""
    bin_scale: float = 1.0
    """Weight of the direct path to the bins (bin_alpha)."""
    max_length: int | None = Field(None, ge=3)
    """Most tokens a cell, the two of depth included; ``None`` = all (published inference)."""
    pooling: Literal["all", "max"] = "all"
    """How tokens become the cell embedding (pool_type). ``all``: source depth token, target depth token, maximum over
    genes, mean over genes, one after another, four times the encoder's width. ``max``: maximum over all tokens, those
    of depth included."""

    @model_validator(mode="after")
    def _check(self) -> ScFoundationConfig:
        for part in ("encoder", "decoder"):
            width, num_heads = getattr(self, f"{part}_width"), getattr(self, f"{part}_heads")
            if width % num_heads:
                raise ValueError(f"{part}_width {width} must be a multiple of {part}_heads {num_heads}")
        return self

    def num_weights(self, num_tokens: int) -> int:
        """Return about how many numbers the weights are, for a vocabulary of so many tokens."""
        blocks = self.encoder_layers * self.encoder_width**2 + self.decoder_layers * self.decoder_width**2
        return num_tokens * self.encoder_width + (4 + 2 * self.feed_forward_scale) * blocks

    @property
    def width(self) -> int:
        """Size of the cell embedding."""
        return 4 * self.encoder_width if self.pooling == "all" else self.encoder_width


TINY = ScFoundationConfig(
    encoder_width=32,
    encoder_heads=4,
    encoder_layers=2,
    decoder_width=32,
    decoder_heads=2,
    decoder_layers=2,
    num_features=44,
    num_bins=20,
)
SMALL = ScFoundationConfig(
    encoder_width=192,
    encoder_heads=6,
    encoder_layers=6,
    decoder_width=128,
    decoder_heads=4,
    decoder_layers=3,
    num_features=110,
)
RELEASED = ScFoundationConfig()
