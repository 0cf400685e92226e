"""What a command says goes to standard output, and nothing else does."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cellwright.evaluate.evaluation import Evaluation


def say(lines: list[str]) -> None:
    """Print lines."""
    print("\n".join(lines))


def warnings_of(evaluation: Evaluation) -> list[str]:
    """Return what an evaluation warns of in the data it was made on."""
    return [line for part in evaluation.contracts for line in part.lines if line.startswith("warning: ")]
