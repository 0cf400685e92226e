"""Every option of a verb is an option of its command; what is not stands in the tables here, with the reason."""

import inspect
import re

import pytest
import typer

import cellwright
from cellwright import verbs
from cellwright.cli import build
from cellwright.commands import COMMANDS, GROUPS
from cellwright.config import Config

SET = "--set speaks of it"
VERBS = {
    "annotate": verbs.annotate,
    "convert": verbs.convert,
    "denoise": verbs.denoise,
    "drug-response predict": verbs.predict_response,
    "drug-response train": verbs.drug_response,
    "drug-response transfer": verbs.transfer_response,
    "embed": verbs.embed,
    "evaluate annotate": verbs.score,
    "evaluate denoise": verbs.score,
    "evaluate generate": verbs.score,
    "evaluate map-reference": verbs.score,
    "evaluate unmask": verbs.score,
    "finetune annotate": verbs.finetune,
    "finetune compare": verbs.compare_modes,
    "finetune integrate": verbs.finetune,
    "finetune multiome": verbs.finetune,
    "finetune perturb": verbs.finetune,
    "generate": verbs.generate,
    "grn": verbs.grn,
    "index": verbs.index_reference,
    "inspect": verbs.inspect,
    "integrate": verbs.integrate,
    "map-reference": verbs.map_reference,
    "multiome": verbs.multiome,
    "perturb": verbs.perturb,
    "predict-perturbation": verbs.predict_perturbation,
    "pretrain": verbs.pretrain,
    "reverse-perturb": verbs.reverse_perturb,
}
"""Command -> its verb; ``demo`` and ``report`` have none."""
CALLED = {
    "adata": {"data", "heldout", "query", "reference"},
    "changes": {"set_"},
    "conditions": {"predict"},
    "is_progress_shown": {"progress"},
    "key_added": {"slot", "out"},
    "labels": {"label", "labels"},
    "num_query": {"num_cells"},
    "train": {"train", "reference"},
}
"""Option of a verb -> what it may be called on the command line, where not the same."""
OF_TASKS = {
    "annotate": {"category"},
    "denoise": {"shares", "num_query", "further", "num_resamples"},
    "generate": {
        "words", "num_cells", "num_real", "max_genes", "num_resamples", "category", "made", "word", "top_k", "top_p",
        "temperature", "gamma", "is_restricted",
    },
    "map_reference": {"metric", "method", "num_neighbors"},
    "unmask": {
        "start", "known_fraction", "steps", "shown", "orders", "max_train", "num_real", "num_resamples",
    },
}  # fmt: skip
"""Task of ``evaluate`` -> options that are for it, and for others only where they stand there too."""
LACKING = {
    "evaluate generate": dict.fromkeys(("ties", "max_length"), "cells are made, none is read by the network"),
    **{f"finetune {task}": {"task": "the command's name"} for task in ("annotate", "integrate", "multiome", "perturb")},
    "perturb": {"cells": SET},  # --graph is another option, what is said of the graph model under --set
    "reverse-perturb": {"cells": SET, "graph": SET},
}
"""Command -> option of the verb that it lacks -> why."""


def kinds(base=Config):
    for kind in base.__subclasses__():
        yield kind
        yield from kinds(kind)


def options_of(verb) -> set[str]:
    """Return the names of a verb's options, the fields of options objects among them."""
    known = {kind.__name__: kind for kind in kinds() if not kind.__module__.startswith("cellwright.commands")}
    found: set[str] = set()
    for name, parameter in inspect.signature(verb).parameters.items():
        words = re.findall(r"\w+", str(parameter.annotation))
        configs = [known[word] for word in words if word in known and word != "Recipe"]
        found |= {field for kind in configs for field in fields(kind)} if configs else {name}
    return found


def fields(kind: type[Config]) -> set[str]:
    found: set[str] = set()
    for name, field in kind.model_fields.items():
        inner = field.annotation
        is_options = isinstance(inner, type) and issubclass(inner, Config) and name not in ("graph", "cells")
        found |= fields(inner) if is_options else {name}
    return found


@pytest.fixture(scope="module")
def commands():
    """Command -> names of its options and arguments."""

    def leaves(command, path=()):
        for name, child in getattr(command, "commands", {}).items():
            yield from leaves(child, (*path, name))
        if not hasattr(command, "commands"):
            yield " ".join(path), {parameter.name for parameter in command.params}

    return dict(leaves(typer.main.get_command(build())))


def test_every_command_with_a_verb_is_looked_at():
    every = {*COMMANDS, *(f"{group} {name}" for group, (_, those) in GROUPS.items() for name in those)}
    assert every - VERBS.keys() == {"demo", "report"}
    public = {name for name in cellwright.__all__ if inspect.isfunction(getattr(cellwright, name))}
    assert public - {verb.__name__ for verb in VERBS.values()} == {"load", "gene_contexts"}  # embed --contexts


def lacking(command: str, commands) -> set[str]:
    wanted = options_of(VERBS[command])
    if command.startswith("evaluate "):
        own = OF_TASKS[command.removeprefix("evaluate ").replace("-", "_")]
        wanted -= set().union(*OF_TASKS.values()) - own | {"task"}
    return {name for name in wanted if not (CALLED.get(name, set()) | {name, f"{name}_"}) & commands[command]}


@pytest.mark.parametrize("command", VERBS)
def test_a_command_has_what_its_verb_has(command, commands):
    assert lacking(command, commands) == set(LACKING.get(command, {}))


def test_progress_can_be_turned_off_wherever_it_is_shown(commands):
    quiet = {"convert", "inspect", "report", "predict-perturbation"}  # nothing there takes long
    quiet |= {name for name in commands if name.startswith("drug-response")}  # nothing is shown
    assert {name for name, options in commands.items() if "progress" not in options} == quiet
