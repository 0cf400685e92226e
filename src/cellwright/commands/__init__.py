"""The verbs of the command line as functions of paths: read, call `cellwright.verbs`, write, print what was done.

Their signatures and docstrings are the options and help texts; see `cellwright.cli`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cellwright.commands.denoising import denoise
from cellwright.commands.describing import convert, inspect, report
from cellwright.commands.making import generate
from cellwright.commands.mapping import index, map_reference
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
    "index": index,
    "map-reference": map_reference,
    "pretrain": pretrain,
    "convert": convert,
    "report": report,
}
FINETUNE: dict[str, Callable[..., Any]] = {"annotate": finetune_annotate}
EVALUATE: dict[str, Callable[..., Any]] = {"annotate": evaluate_annotate, "generate": evaluate_generate}
