"""Single-cell foundation models in one language."""
