"""Layers shared by every model family. Each takes tensors laid out as `cellwright.types.Layout` says."""
