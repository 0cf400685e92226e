"""Simple competitors that stand beside every model: minutes on one core, no pre-training, nothing hidden."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cellwright.baselines.annotation import ANNOTATION_BASELINES, AnnotationBaseline

if TYPE_CHECKING:
    from cellwright.baselines.generation import GENERATION_BASELINES, GenerationBaseline, MakeCells

__all__ = [
    "ANNOTATION_BASELINES",
    "GENERATION_BASELINES",
    "AnnotationBaseline",
    "GenerationBaseline",
    "MakeCells",
]

_HOME = dict.fromkeys(("GENERATION_BASELINES", "GenerationBaseline", "MakeCells"), "generation")
"""What needs torch is loaded when it is asked for."""


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'cellwright.baselines' has no attribute {name!r}")
    return getattr(import_module(f"cellwright.baselines.{_HOME[name]}"), name)
