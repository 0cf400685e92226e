"""What a command says goes to standard output, and nothing else does."""

from __future__ import annotations


def say(lines: list[str]) -> None:
    """Print lines."""
    print("\n".join(lines))
