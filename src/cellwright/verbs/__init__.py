"""The public verbs, for Python and for the command line alike; `cellwright` re-exports them."""

from cellwright.tasks.inference import InferenceOptions
from cellwright.tasks.screen import ScreenOptions
from cellwright.verbs.answering import AnswerOptions, answer_lines, answer_record
from cellwright.verbs.contexts import contexts_of, gene_contexts, write_contexts
from cellwright.verbs.denoising import denoise
from cellwright.verbs.depths import DepthOptions, open_deep, prepared, with_pool
from cellwright.verbs.describing import convert, inspect
from cellwright.verbs.drug_predictions import predict_response
from cellwright.verbs.drug_tables import ResponseColumns
from cellwright.verbs.drugs import DrugResponse, drug_response
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
from cellwright.verbs.opening import ModelOptions, ReadOptions, open_data, open_model
from cellwright.verbs.perturbing import PerturbOptions, PerturbResult, perturb
from cellwright.verbs.scoring import ScoreConfig, ScoreResult, score
from cellwright.verbs.training import FinetuneResult, PretrainResult, finetune, pretrain
from cellwright.verbs.transferring import TransferResponse, transfer_response
from cellwright.verbs.using import (
    annotate,
    annotation,
    annotation_columns,
    check_columns,
    embed,
    embedding,
    embedding_record,
    provenance,
    published_reading,
)

__all__ = [
    "AnswerOptions",
    "DepthOptions",
    "DrugResponse",
    "FinetuneResult",
    "GeneNetwork",
    "NetworkOptions",
    "InferenceOptions",
    "PerturbOptions",
    "PerturbResult",
    "ModelOptions",
    "PretrainResult",
    "ReadOptions",
    "ScoreConfig",
    "ScoreResult",
    "ResponseColumns",
    "ScreenOptions",
    "TransferResponse",
    "annotate",
    "annotation",
    "annotation_columns",
    "check_index_place",
    "answer_lines",
    "answer_record",
    "check_columns",
    "contexts_of",
    "convert",
    "denoise",
    "drug_response",
    "embed",
    "embedding",
    "embedding_record",
    "finetune",
    "gene_contexts",
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
    "open_deep",
    "open_index",
    "open_model",
    "predict_response",
    "perturb",
    "prepared",
    "pretrain",
    "provenance",
    "published_reading",
    "score",
    "transfer_response",
    "with_pool",
    "write_contexts",
]
