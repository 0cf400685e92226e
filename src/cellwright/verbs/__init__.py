"""The public verbs, for Python and for the command line alike; `cellwright` re-exports them."""

from cellwright.tasks.inference import InferenceOptions
from cellwright.verbs.describing import convert, inspect
from cellwright.verbs.making import generate
from cellwright.verbs.scoring import ScoreConfig, ScoreResult, score
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
    "PretrainResult",
    "ReadOptions",
    "ScoreConfig",
    "ScoreResult",
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
    "pretrain",
    "provenance",
    "published_reading",
    "score",
]
