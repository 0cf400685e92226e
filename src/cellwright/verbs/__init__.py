"""The public verbs, for Python and for the command line alike; `cellwright` re-exports them."""

from cellwright.tasks.inference import InferenceOptions
from cellwright.tasks.screen import ScreenOptions
from cellwright.verbs.describing import convert, inspect
from cellwright.verbs.making import generate
from cellwright.verbs.perturbing import PerturbOptions, PerturbResult, perturb
from cellwright.verbs.training import FinetuneResult, PretrainResult, finetune, pretrain
from cellwright.verbs.using import (
    ReadOptions,
    annotate,
    annotation,
    annotation_columns,
    embed,
    embedding,
    open_data,
    open_model,
    provenance,
    published_reading,
)

__all__ = [
    "FinetuneResult",
    "InferenceOptions",
    "PerturbOptions",
    "PerturbResult",
    "PretrainResult",
    "ReadOptions",
    "ScreenOptions",
    "annotate",
    "annotation",
    "annotation_columns",
    "convert",
    "embed",
    "embedding",
    "finetune",
    "generate",
    "inspect",
    "open_data",
    "open_model",
    "perturb",
    "pretrain",
    "provenance",
    "published_reading",
]
