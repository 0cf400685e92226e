"""The verbs of the command line as functions of paths: read, call `cellwright.verbs`, write, print what was done.

Their signatures and docstrings are the options and help texts; see `cellwright.cli`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cellwright.commands import drugs
from cellwright.commands.denoising import denoise
from cellwright.commands.describing import convert, inspect, report
from cellwright.commands.integrating import integrate
from cellwright.commands.making import generate
from cellwright.commands.mapping import index, map_reference
from cellwright.commands.multiome import multiome
from cellwright.commands.networks import grn
from cellwright.commands.perturbing import perturb, predict_perturbation, reverse_perturb
from cellwright.commands.scoring import evaluate_annotate, evaluate_denoise, evaluate_generate, evaluate_map_reference
from cellwright.commands.scoring_filled import evaluate_unmask
from cellwright.commands.training import (
    demo,
    finetune_annotate,
    finetune_compare,
    finetune_integrate,
    finetune_multiome,
    finetune_perturb,
    pretrain,
)
from cellwright.commands.using import annotate, embed

COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": demo,
    "inspect": inspect,
    "embed": embed,
    "annotate": annotate,
    "denoise": denoise,
    "generate": generate,
    "grn": grn,
    "index": index,
    "integrate": integrate,
    "map-reference": map_reference,
    "multiome": multiome,
    "perturb": perturb,
    "predict-perturbation": predict_perturbation,
    "reverse-perturb": reverse_perturb,
    "pretrain": pretrain,
    "convert": convert,
    "report": report,
}
GROUPS: dict[str, tuple[str, dict[str, Callable[..., Any]]]] = {
    "finetune": (
        "Fine-tune a model for a task.",
        {
            "annotate": finetune_annotate,
            "compare": finetune_compare,
            "integrate": finetune_integrate,
            "multiome": finetune_multiome,
            "perturb": finetune_perturb,
        },
    ),
    "evaluate": (
        "Score a model on held-out cells beside simple baselines.",
        {
            "annotate": evaluate_annotate,
            "denoise": evaluate_denoise,
            "generate": evaluate_generate,
            "map-reference": evaluate_map_reference,
            "unmask": evaluate_unmask,
        },
    ),
    "drug-response": (
        "Predict the drug response of cell lines and single cells.",
        {"train": drugs.train, "predict": drugs.predict, "transfer": drugs.transfer},
    ),
}
"""Group -> help text and its commands."""
