"""The public verbs, for Python and for the command line alike; `cellwright` re-exports them."""

from cellwright.tasks.inference import InferenceOptions
from cellwright.verbs.describing import convert, inspect
from cellwright.verbs.drugs import DrugResponse, ResponseColumns, drug_response, predict_response, transfer_response
from cellwright.verbs.making import generate
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
    "DrugResponse",
    "FinetuneResult",
    "InferenceOptions",
    "PretrainResult",
    "ReadOptions",
    "ResponseColumns",
    "annotate",
    "annotation",
    "annotation_columns",
    "convert",
    "drug_response",
    "embed",
    "embedding",
    "finetune",
    "generate",
    "inspect",
    "open_data",
    "open_model",
    "predict_response",
    "pretrain",
    "provenance",
    "published_reading",
    "transfer_response",
]
