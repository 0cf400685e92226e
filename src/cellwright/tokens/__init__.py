"""From cells to tokens: values on ragged rows, and sequences of (gene, value) pairs."""

from cellwright.tokens.sequence import SequenceSpec, encode_cells
from cellwright.tokens.values import bin_ragged, library_size, normalise_ragged

__all__ = ["SequenceSpec", "bin_ragged", "encode_cells", "library_size", "normalise_ragged"]
