"""How cells were prepared for a network: recorded in its checkpoint, so that new data are prepared the same way."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cellwright.config import Config


class InputConfig(Config):
    """Choices of tokenising that are not part of the architecture."""

    ties: Literal["upper", "random"] = "upper"
    """What happens to equal values at coinciding bin edges: the highest bin (as in published pre-training,
    deterministic), or a bin drawn among the tied ones (as published code does since September 2023)."""
    cls_value: float | None = None
    """Value of the first token; ``None`` = the family's zero-shot convention."""
    max_length: int | None = Field(None, ge=2)
    """Most tokens a cell; ``None`` = what the architecture was built for."""
    panel: tuple[str, ...] | None = None
    """Genes that are fed, by vocabulary name; ``None`` = all."""
    gene_order: Literal["reverse", "forward", "shuffle"] = "reverse"
    """Order of genes in a sentence (families that read sentences): by descending vocabulary id (published inference),
    ascending, or shuffled by seed and cell."""
    task_word: str = "annotate"
    """Role of the special token that closes a sentence to be read (families that read sentences)."""
    keep_zero: bool = False
    """Feed unexpressed genes of the panel too, with value 0."""
