"""From cells to tokens: values on ragged rows, and sequences of (gene, value) pairs."""

from cellwright.tokens.depth import DepthTarget, thin_counts
from cellwright.tokens.levels import level_ragged
from cellwright.tokens.sentence import SentenceSpec, encode_sentences
from cellwright.tokens.sequence import SequenceSpec, encode_cells
from cellwright.tokens.values import bin_ragged, library_size, normalise_ragged

__all__ = [
    "DepthTarget",
    "SentenceSpec",
    "SequenceSpec",
    "bin_ragged",
    "encode_cells",
    "encode_sentences",
    "level_ragged",
    "library_size",
    "normalise_ragged",
    "thin_counts",
]
