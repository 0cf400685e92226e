"""The verbs of the command line as functions of paths: read, call `cellwright.verbs`, write, print what was done.

Their signatures and docstrings are the options and help texts; see `cellwright.cli`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cellwright.commands.describing import convert, inspect, report
from cellwright.commands.making import generate
from cellwright.commands.perturbing import perturb
from cellwright.commands.training import demo, finetune_annotate, pretrain
from cellwright.commands.using import annotate, embed

COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": demo,
    "inspect": inspect,
    "embed": embed,
    "annotate": annotate,
    "generate": generate,
    "perturb": perturb,
    "pretrain": pretrain,
    "convert": convert,
    "report": report,
}
FINETUNE: dict[str, Callable[..., Any]] = {"annotate": finetune_annotate}
