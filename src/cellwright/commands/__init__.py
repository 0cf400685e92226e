"""The verbs of the command line as functions of paths: read, call `cellwright.verbs`, write, print what was done.

Their signatures and docstrings are the options and help texts; see `cellwright.cli`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cellwright.commands import drugs
from cellwright.commands.denoising import denoise
from cellwright.commands.describing import convert, inspect, report
from cellwright.commands.making import generate
from cellwright.commands.mapping import index, map_reference
from cellwright.commands.multiome import multiome
from cellwright.commands.networks import grn
from cellwright.commands.perturbing import perturb
from cellwright.commands.scoring import evaluate_annotate, evaluate_generate
from cellwright.commands.training import demo, finetune_annotate, pretrain
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
    "map-reference": map_reference,
    "multiome": multiome,
    "perturb": perturb,
    "pretrain": pretrain,
    "convert": convert,
    "report": report,
}
GROUPS: dict[str, tuple[str, dict[str, Callable[..., Any]]]] = {
    "finetune": ("Fine-tune a model for a task.", {"annotate": finetune_annotate}),
    "evaluate": (
        "Score a model on held-out cells beside simple baselines.",
        {"annotate": evaluate_annotate, "generate": evaluate_generate},
    ),
    "drug-response": (
        "Predict the drug response of cell lines and single cells.",
        {"train": drugs.train, "predict": drugs.predict, "transfer": drugs.transfer},
    ),
}
"""Group -> help text and its commands."""
