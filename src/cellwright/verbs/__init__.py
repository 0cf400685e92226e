"""The public verbs, for Python and for the command line alike; `cellwright` re-exports them."""

from cellwright.tasks.inference import InferenceOptions
from cellwright.verbs.training import FinetuneResult, PretrainResult, finetune, pretrain
from cellwright.verbs.using import (
    ReadOptions,
    annotate,
    annotation_columns,
    convert,
    embed,
    inspect,
    open_data,
    open_model,
    provenance,
)

__all__ = [
    "FinetuneResult",
    "InferenceOptions",
    "PretrainResult",
    "ReadOptions",
    "annotate",
    "annotation_columns",
    "convert",
    "embed",
    "finetune",
    "inspect",
    "open_data",
    "open_model",
    "pretrain",
    "provenance",
]
