"""Sizes and parts of a scGPT network. Published names of fields stand in the docstrings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cellwright.config import Config
from cellwright.models.sizes import MOST_HEADS, MOST_LAYERS, MOST_WIDTH
from cellwright.nn.heads import CellStyle

SPECIALS = {"pad": "<pad>", "cls": "<cls>", "eoc": "<eoc>"}


class ScGPTConfig(Config):
    """Architecture and value coding of one scGPT network; the defaults are those of the released models."""

    width: int = Field(512, ge=1, le=MOST_WIDTH)
    """Size of hidden states (embsize)."""
    num_heads: int = Field(8, ge=1, le=MOST_HEADS)
    """Attention heads (nheads)."""
    num_layers: int = Field(12, ge=1, le=MOST_LAYERS)
    """Transformer blocks (nlayers)."""
    feed_forward: int = Field(512, ge=1, le=MOST_WIDTH)
    """Width inside the feed-forward part (d_hid); equal to the width in released models, not four times it."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Dropout of residual branches, feed-forward and value encoder."""
    attention_dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout of attention probabilities; ``None`` = as ``dropout`` (published)."""
    norm: Literal["post", "pre_residual"] = "post"
    """Where LayerNorm stands; ``pre_residual`` is the published, non-standard ``pre_norm=True``."""
    value_input: Literal["continuous", "category", "scaling"] = "continuous"
    """How a value becomes a vector (input_emb_style)."""
    num_bins: int | None = Field(51, ge=3)
    """Value bins a cell, zero included (n_bins); ``None`` = values are fed as they are."""
    num_value_entries: int | None = None
    """Rows of the value table for ``category`` (n_input_bins); ``None`` = num_bins + 2."""
    mask_value: float = -1
    """Number that stands for a hidden value at the value encoder."""
    pad_value: float = -2
    """Number that stands for a pad at the value encoder; also the value of ``<cls>`` in zero-shot use."""
    max_length: int = Field(1200, ge=2)
    """Most tokens a cell, ``<cls>`` included (max_seq_len)."""
    pooling: Literal["cls", "mean", "avg-pool", "w-pool"] = "cls"
    """How tokens become the cell embedding (cell_emb_style); ``mean`` is ours and does not count pads."""
    input_norm: Literal["none", "batch", "domain"] = "none"
    """Batch norm of the summed embedding: none, one (bn), or one a sequencing batch (DSBN)."""
    num_domains: int = Field(0, ge=0)
    """Domains of the domain batch norm."""
    num_tech_batches: int = Field(0, ge=0)
    """Sequencing batches embedded for the heads (use_batch_labels); 0 = none."""
    num_modalities: int = Field(0, ge=0)
    """Modality embeddings for the heads (use_mod); 0 = none."""
    modality_pad: int | None = None
    """Modality id of pads, whose row gets no gradient."""
    num_conditions: int = Field(0, ge=0)
    """Conditions of a token, added to the input (pert_encoder); 0 = none. The condition 0 is "nothing said"."""
    condition_pad: int | None = None
    """Condition id whose row is zero and gets no gradient (pert_pad_id)."""
    more_conditions: tuple[Annotated[int, Field(ge=2)], ...] = ()
    """Conditions of further kinds, one table a kind; their vectors are summed. Published models have one kind."""
    has_unknown_flag: bool = True
    """Whether the network has the flag vectors of generative pre-training (flag_encoder)."""
    value_head: Literal["plain", "affine", "none"] = "plain"
    """Head that predicts each token's value (decoder)."""
    value_head_activation: str | None = None
    """Activation of the affine head's scale and shift: a ``torch.nn`` class name (decoder_activation)."""
    is_value_head_adaptive: bool = False
    """Affine head: scale the shift by the mean input value (decoder_adaptive_bias)."""
    has_zero_gate: bool = False
    """Heads also predict whether a gene is expressed (explicit_zero_prob)."""
    cell_value_style: CellStyle | Literal["none"] = "inner product"
    """How values are predicted from the cell embedding (mvc_decoder_style)."""
    is_gene_conditioned: bool = False
    """The cell_value head sees batch and modality on the gene side too (the published multi-omic model)."""

    @model_validator(mode="after")
    def _check(self) -> ScGPTConfig:
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} must be a multiple of num_heads {self.num_heads}")
        if (self.input_norm == "domain") != (self.num_domains > 0):
            raise ValueError("input_norm='domain' and num_domains > 0 go together")
        if self.value_input == "category" and self.num_bins is None:
            raise ValueError("value_input='category' needs num_bins")
        if self.more_conditions and not self.num_conditions:
            raise ValueError("more_conditions are beside the first kind: give num_conditions too")
        return self

    def num_weights(self, num_tokens: int) -> int:
        """Return about how many numbers the weights are, for a vocabulary of so many tokens."""
        blocks = self.num_layers * (4 * self.width**2 + 2 * self.width * self.feed_forward)
        return num_tokens * self.width + blocks + 5 * self.width**2

    @property
    def condition_sizes(self) -> tuple[int, ...]:
        """Conditions of each kind."""
        return (self.num_conditions, *self.more_conditions) if self.num_conditions else ()

    @property
    def uses_tech_batch(self) -> bool:
        """Whether the network must be told each cell's sequencing batch."""
        return self.num_known_batches > 0

    @property
    def num_known_batches(self) -> int:
        """Sequencing batches that the network can be told of; 0 = it is not told."""
        return max(self.num_domains, self.num_tech_batches)


TINY = ScGPTConfig(
    width=64, num_heads=4, num_layers=2, feed_forward=64, dropout=0.1, attention_dropout=0.0, max_length=256
)
SMALL = ScGPTConfig(width=256, num_heads=8, num_layers=6, feed_forward=256)
RELEASED = ScGPTConfig()
