"""Single-cell foundation models in one language.

The verbs are here, from `load` and `embed` to `pretrain`; they are imported when first used, so that ``import
cellwright`` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellwright.models import Model, load
    from cellwright.verbs import (
        AnswerOptions,
        CompareOptions,
        DepthOptions,
        FillConfig,
        InferenceOptions,
        IntegrateOptions,
        PerturbConfig,
        PerturbOptions,
        ReadOptions,
        ReverseOptions,
        ScoreConfig,
        ScreenOptions,
        annotate,
        compare_modes,
        convert,
        denoise,
        drug_response,
        embed,
        finetune,
        gene_contexts,
        generate,
        grn,
        index_reference,
        inspect,
        integrate,
        map_reference,
        multiome,
        perturb,
        predict_perturbation,
        predict_response,
        pretrain,
        reverse_perturb,
        score,
        transfer_response,
    )
    from cellwright.vocab import GeneVocab

__all__ = [
    "AnswerOptions",
    "CompareOptions",
    "DepthOptions",
    "FillConfig",
    "GeneVocab",
    "InferenceOptions",
    "IntegrateOptions",
    "Model",
    "PerturbConfig",
    "PerturbOptions",
    "ReadOptions",
    "ReverseOptions",
    "ScoreConfig",
    "ScreenOptions",
    "annotate",
    "compare_modes",
    "convert",
    "denoise",
    "drug_response",
    "embed",
    "finetune",
    "gene_contexts",
    "generate",
    "grn",
    "index_reference",
    "inspect",
    "integrate",
    "load",
    "map_reference",
    "multiome",
    "perturb",
    "pretrain",
    "score",
    "predict_perturbation",
    "predict_response",
    "pretrain",
    "reverse_perturb",
    "transfer_response",
]

_HOME = {"Model": "cellwright.models", "load": "cellwright.models", "GeneVocab": "cellwright.vocab"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'cellwright' has no attribute {name!r}")
    value = getattr(import_module(_HOME.get(name, "cellwright.verbs")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
