"""The public verbs, for Python and for the command line alike; `cellwright` re-exports them."""

from cellwright.tasks.inference import InferenceOptions
from cellwright.tasks.screen import ScreenOptions
from cellwright.verbs.answering import AnswerOptions, answer_lines, answer_record
from cellwright.verbs.denoising import denoise
from cellwright.verbs.describing import convert, inspect
from cellwright.verbs.drugs import DrugResponse, ResponseColumns, drug_response, predict_response, transfer_response
from cellwright.verbs.making import generate
from cellwright.verbs.mapping import (
    check_index_place,
    index_reference,
    indexing,
    map_reference,
    mapping,
    mapping_columns,
    mapping_record,
    open_index,
)
from cellwright.verbs.networks import GeneNetwork, NetworkOptions, grn
from cellwright.verbs.perturbing import PerturbOptions, PerturbResult, perturb
from cellwright.verbs.scoring import ScoreConfig, ScoreResult, score
from cellwright.verbs.training import FinetuneResult, PretrainResult, finetune, pretrain
from cellwright.verbs.using import (
    ReadOptions,
    annotate,
    annotation,
    annotation_columns,
    check_columns,
    embed,
    embedding,
    open_data,
    open_model,
    provenance,
    published_reading,
)

__all__ = [
    "AnswerOptions",
    "DrugResponse",
    "FinetuneResult",
    "GeneNetwork",
    "NetworkOptions",
    "InferenceOptions",
    "PerturbOptions",
    "PerturbResult",
    "PretrainResult",
    "ReadOptions",
    "ScoreConfig",
    "ScoreResult",
    "ResponseColumns",
    "ScreenOptions",
    "annotate",
    "annotation",
    "annotation_columns",
    "check_index_place",
    "answer_lines",
    "answer_record",
    "check_columns",
    "convert",
    "denoise",
    "drug_response",
    "embed",
    "embedding",
    "finetune",
    "generate",
    "grn",
    "index_reference",
    "indexing",
    "inspect",
    "map_reference",
    "mapping",
    "mapping_columns",
    "mapping_record",
    "open_data",
    "open_index",
    "open_model",
    "predict_response",
    "perturb",
    "pretrain",
    "provenance",
    "published_reading",
    "score",
    "transfer_response",
]
