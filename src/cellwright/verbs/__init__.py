"""The public verbs, for Python and for the command line alike; `cellwright` re-exports them."""

from cellwright.tasks.inference import InferenceOptions
from cellwright.tasks.screen import ScreenOptions
from cellwright.verbs.answering import AnswerOptions, answer_lines, answer_record
from cellwright.verbs.comparing import ModeComparison, compare_modes
from cellwright.verbs.contexts import contexts_of, gene_contexts, write_contexts
from cellwright.verbs.denoising import denoise
from cellwright.verbs.depths import DepthOptions, open_deep, prepared, with_pool
from cellwright.verbs.describing import convert, inspect
from cellwright.verbs.drug_predictions import predict_response
from cellwright.verbs.drug_tables import ResponseColumns
from cellwright.verbs.drugs import DrugResponse, drug_response
from cellwright.verbs.filling import FillConfig
from cellwright.verbs.finetuning import FinetuneResult, finetune
from cellwright.verbs.integrating import IntegrateOptions, Integration, integrate
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
from cellwright.verbs.mode_runs import CompareOptions
from cellwright.verbs.multiome import CellColumns, MultiomeResult, RnaOptions, multiome
from cellwright.verbs.network_ways import NetworkOptions
from cellwright.verbs.networks import GeneNetwork, grn
from cellwright.verbs.opening import ModelOptions, ReadOptions, open_data, open_model
from cellwright.verbs.perturbing import PerturbConfig, PerturbOptions, PerturbResult, perturb, predict_perturbation
from cellwright.verbs.reversing import ReverseOptions, ReverseResult, reverse_perturb
from cellwright.verbs.scoring import FillScoring, ScoreConfig, ScoreResult, score
from cellwright.verbs.training import PretrainResult, pretrain
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
    "CompareOptions",
    "CellColumns",
    "DepthOptions",
    "DrugResponse",
    "FillConfig",
    "FillScoring",
    "FinetuneResult",
    "GeneNetwork",
    "ModeComparison",
    "NetworkOptions",
    "InferenceOptions",
    "IntegrateOptions",
    "Integration",
    "PerturbConfig",
    "PerturbOptions",
    "PerturbResult",
    "ModelOptions",
    "MultiomeResult",
    "PretrainResult",
    "ReadOptions",
    "RnaOptions",
    "ScoreConfig",
    "ScoreResult",
    "ResponseColumns",
    "ReverseOptions",
    "ReverseResult",
    "ScreenOptions",
    "TransferResponse",
    "annotate",
    "annotation",
    "annotation_columns",
    "check_index_place",
    "answer_lines",
    "answer_record",
    "check_columns",
    "compare_modes",
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
    "integrate",
    "map_reference",
    "mapping",
    "mapping_columns",
    "mapping_record",
    "multiome",
    "open_data",
    "open_deep",
    "open_index",
    "open_model",
    "predict_perturbation",
    "predict_response",
    "perturb",
    "prepared",
    "pretrain",
    "provenance",
    "reverse_perturb",
    "published_reading",
    "score",
    "transfer_response",
    "with_pool",
    "write_contexts",
]
