"""How cells were prepared for a network: recorded in its checkpoint, so that new data are prepared the same way."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from cellwright.config import Config
from cellwright.tokens.depth import DepthTarget


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
    genes: Literal["expressed", "panel"] = "expressed"
    """Whether cells are fed the genes that they express, or all of the panel, silent ones with value 0."""
    conditions: dict[str, dict[str, str]] = {}
    """Kinds of conditions that genes are told with (families that know them), in the order of the network's tables:
    kind -> gene -> category, for what is known of a gene whatever the cell (a pathway it belongs to); an empty table =
    told by each cell (`cellwright.types.CellBatch.flags`). No kind at all = ``perturbed``, told by each cell."""
    modalities: tuple[str, ...] = ()
    """Names of the modalities in the order of their ids (families that tell modalities apart): each token carries that
    of its name (``protein:CD4``; genes are ``rna``), and values are binned within cell and modality."""
    unbinned: tuple[str, ...] = ()
    """Modalities whose values are fed as they are, times ten, and not as bins; ``modalities`` names them too."""
    gene_order: Literal["reverse", "forward", "shuffle"] = "reverse"
    """Order of genes in a sentence (families that read sentences): by descending vocabulary id (published inference),
    ascending, or shuffled by seed and cell."""
    task_word: str = "annotate"
    """Role of the special token that closes a sentence to be read (families that read sentences)."""
    depth: str = "t4"
    """Read depth to predict at (families that know depth): t4 or total=4 (10^4 molecules a cell), f2 or fold=2 (twice
    the cell's own), a1 or added=1 (10^1 times its own). Published: ``tgthighres``."""
    depth_from: Literal["listed", "given", "plain"] = "listed"
    """What a cell's own depth is told from (families that know depth): the sum of its values over the vocabulary's
    genes (published ``pre_normalized`` F; of log values, T, it is no depth), the total that is given with the cell (A),
    or that sum without a logarithm, for the depth asked for too (published bulk T)."""

    @field_validator("depth")
    @classmethod
    def _check_depth(cls, depth: str) -> str:
        DepthTarget.parse(depth)
        return depth
