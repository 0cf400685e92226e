"""Sizes of a scMulan network. Published names of fields stand in the docstrings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cellwright.config import Config
from cellwright.models.sizes import MOST_HEADS, MOST_LAYERS, MOST_WIDTH

SPECIALS = {"end": "<E>", "pad": "<E>", "annotate": "<PCT>", "generate": "<SPToken1>", "place": "<SPToken3>"}
"""There is no pad token: pads stand behind a causal sentence and are never seen, so they carry any id."""
QUESTIONS = {"annotate": ("coarse_type", "cell_type"), "place": ("organ", "region")}
"""Role of the asking word -> categories that answer, in published order."""


class ScMulanConfig(Config):
    """Architecture of one scMulan network; the defaults are those of the released model."""

    width: int = Field(1120, ge=1, le=MOST_WIDTH)
    """Size of hidden states (n_embd); the feed-forward part is four times as wide."""
    num_heads: int = Field(20, ge=1, le=MOST_HEADS)
    """Attention heads (n_head)."""
    num_layers: int = Field(24, ge=1, le=MOST_LAYERS)
    """Transformer blocks (n_layer)."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout of the embedded words, attention probabilities and residual branches."""
    has_bias: bool = False
    """Whether linear layers and norms add a bias (bias); the two heads never do."""
    num_levels: int = Field(10, ge=1)
    """Levels of an expressed gene (expression_level)."""
    max_length: int = Field(2001, ge=2)
    """Most words a cell. Published inference cuts nothing: 2,000 genes and the task word."""
    pooling: Literal["last", "mean"] = "last"
    """How words become the cell embedding: the hidden state of the last word, which is the task word (the paper), or
    the mean. Published code stores the state of the first *generated* word: see `cellwright.tasks.tell`."""

    @model_validator(mode="after")
    def _check(self) -> ScMulanConfig:
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} must be a multiple of num_heads {self.num_heads}")
        return self

    def num_weights(self, num_tokens: int) -> int:
        """Return about how many numbers the weights are, for a vocabulary of so many tokens."""
        return 3 * num_tokens * self.width + 12 * self.num_layers * self.width**2


TINY = ScMulanConfig(width=64, num_heads=4, num_layers=2)
SMALL = ScMulanConfig(width=256, num_heads=8, num_layers=6)
RELEASED = ScMulanConfig()
PREPRINT = ScMulanConfig(num_layers=20)
